"""Tables that people have, read into items and features.

A file becomes a frame of text (`read`), a frame becomes numbers with names (`clean`), and
`Task.from_csv` and `Task.from_frame` do both. ``tables.examples`` holds tables to begin with.
"""

from dlnflow._support.lazy import on_request

_WHERE = {
    "CleanOptions": "options",
    "ReadOptions": "options",
    "Table": "cleaning",
    "clean": "cleaning",
    "read": "reading",
}
"""Public name -> the module that defines it."""
_MODULES = ("examples",)  # makes tasks, and tasks are read with the rest of this package

__all__ = sorted([*_WHERE, *_MODULES])
__getattr__ = on_request(__name__, _WHERE, _MODULES)
