"""What to read off influence curves."""
