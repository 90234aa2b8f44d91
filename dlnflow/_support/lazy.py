"""Public names of a package that are loaded when they are first asked for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def on_request(
    package: str, names: Mapping[str, str], modules: Mapping[str, str]
) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    names : mapping
        Public name -> the module that defines it, a dotted name.
    modules : mapping
        Public modules: name -> where the module is, a dotted name.

    Returns
    -------
    callable
        It finds a name, and raises AttributeError for one that is not public.
    """

    def find(name: str) -> Any:
        if name in names:
            return getattr(import_module(names[name]), name)
        if name in modules:
            return import_module(modules[name])
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
