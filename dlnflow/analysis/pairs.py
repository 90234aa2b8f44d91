"""Influence between single items; the functions of `dlnflow.influence.bif.matrix` and `top_k`."""

from dlnflow.influence._entries import matrix, top_k

__all__ = ["matrix", "top_k"]
