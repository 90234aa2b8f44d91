"""Closed forms of training in deep linear networks: modes, flows, phases; numpy and scipy."""
