"""Loops over numbers: compiled for the processor once, then carried out as programs."""
