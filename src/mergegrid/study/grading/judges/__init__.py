"""Judges: models that say whose answer is better."""
