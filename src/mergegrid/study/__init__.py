"""What only studies need: everything between fine-tuning and the report."""
