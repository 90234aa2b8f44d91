"""Exact derivatives of a language model's own training run."""
