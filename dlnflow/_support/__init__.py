"""Array types and the version; below, files, lazy imports, progress and command helpers."""

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.progress import Progress, each

__all__ = ["VERSION", "FloatArray", "IntArray", "Progress", "each"]

FloatArray = NDArray[np.float64]
"""Shapes stand in the docstrings."""
IntArray = NDArray[np.int64]

VERSION = "0.1.0"
"""Of the package; part of the keys of stores, which must not depend on the whole package."""
