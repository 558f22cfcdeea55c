"""Decoder models of a study."""
