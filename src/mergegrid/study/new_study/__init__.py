"""New studies, from models and benchmarks that are named on the command line."""
