"""Curvature of the loss at checkpoints of a two-layer linear network, in exact reduced forms."""
