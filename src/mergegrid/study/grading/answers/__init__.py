"""Final answers of mathematical texts: found, read and compared with the reference."""
