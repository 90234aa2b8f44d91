"""Markov kernels of the localised posterior, one file each."""
