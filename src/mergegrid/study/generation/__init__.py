"""Answers: backends that write them, a store that keeps them, and many variants in one engine."""
