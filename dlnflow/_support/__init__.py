"""Files, lazy imports, progress, types and command helpers; no mathematics."""
