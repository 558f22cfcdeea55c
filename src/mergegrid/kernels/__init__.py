"""Compiled loops over arrays, executed as programs of instructions."""
