"""Tables that people have, read into items and features.

A file becomes a frame of cells (`read`), a frame becomes numbers with names (`clean`), and
`Task.from_csv` and `Task.from_frame` do both. ``tables.examples`` holds tables to begin with.
"""

from dlnflow._support.lazy import on_request

_WHERE = {
    "CleanOptions": "dlnflow.tables.options",
    "ReadOptions": "dlnflow.tables.options",
    "Table": "dlnflow.tables.cleaning",
    "clean": "dlnflow.tables.cleaning",
    "read": "dlnflow.tables.reading",
}
"""Public name -> the module that defines it."""
_MODULES = {"examples": "dlnflow.tables.examples", "options": "dlnflow.tables.options"}
# On request: the examples are tasks, and a task is read with the rest of this package.

__all__ = sorted([*_WHERE, *_MODULES])
__getattr__ = on_request(__name__, _WHERE, _MODULES)
