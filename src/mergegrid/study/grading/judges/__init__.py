"""Language models as judges that say which of two answers is better."""
