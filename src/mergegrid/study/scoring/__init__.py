"""Scoring: models and examples in, scores with standard errors out."""
