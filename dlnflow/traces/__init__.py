"""Everything that reads loss traces: numpy and xarray only, no torch."""
