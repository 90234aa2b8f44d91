"""The figures of Lee et al. 2025 that concern deep linear networks, one module per figure."""
