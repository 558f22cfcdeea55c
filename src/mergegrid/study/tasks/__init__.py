"""Tasks and benchmarks: their examples and questions, splits, and metrics of predictions."""
