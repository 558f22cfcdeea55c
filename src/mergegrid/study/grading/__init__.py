"""Grading answers: numbers, LaTeX, programs, judges and lm-eval."""
