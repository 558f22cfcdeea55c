"""Importing decoders into the results of a study."""
