"""Training dynamics of two-layer networks in the smallest spaces that hold them."""
