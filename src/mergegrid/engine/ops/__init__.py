"""Arithmetic on flat float32 arrays: one vocabulary, compiled for the CPU or chunk by torch."""
