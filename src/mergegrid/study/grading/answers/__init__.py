"""Read the final answers of mathematical texts and compare them with the reference."""
