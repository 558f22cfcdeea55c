"""Merging: recipe and checkpoints in, a merged checkpoint out."""
