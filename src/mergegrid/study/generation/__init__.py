"""Generation: models and prompts in, answers out."""
