"""Influence between classes of items; the same function as `dlnflow.influence.bif.groups`."""

from dlnflow.influence._groups import groups

__all__ = ["groups"]
