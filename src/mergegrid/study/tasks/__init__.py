"""Tasks: their examples, how they are split, and how predictions are scored."""
