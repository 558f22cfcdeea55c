"""Encoders in studies: import, evaluate, sweep, merge and compare with oracles."""
