"""Import, evaluate, sweep and merge encoders, and compare them with oracles."""
