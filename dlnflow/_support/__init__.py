"""Files, lazy imports, progress, types and command helpers; no mathematics."""

VERSION = "0.1.0"
"""Of the package; part of the keys of stores, which must not depend on the whole package."""
