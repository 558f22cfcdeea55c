"""mergegrid: drop, rescale, merge and score language models, over whole grids."""

__version__ = "0.1.0"
