"""Runs of training, and what an estimator may ask of them."""
