"""Grade answers: numbers, formulas, programs, preferences of judges, and lm-eval tasks."""
