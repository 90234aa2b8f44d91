"""Tables of items and features, read into numbers."""
