"""Fine-tuning: a base and a task in, an expert out."""
