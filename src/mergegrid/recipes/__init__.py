"""What one grid point is: its experts, sparsifier, method, parameters and seeds."""
