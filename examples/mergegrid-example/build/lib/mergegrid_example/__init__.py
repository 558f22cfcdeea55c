"""A merging method and a sparsifier for mergegrid."""
