"""Figures of influence curves, on matplotlib, which is loaded where it is used."""
