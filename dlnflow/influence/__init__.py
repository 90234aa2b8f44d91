"""Estimators of influence over training, one file each."""
