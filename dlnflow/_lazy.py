"""Public names of a package that are loaded when they are first asked for."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def on_request(
    package: str, names: Mapping[str, str], modules: Iterable[str]
) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    names : mapping
        Public name -> the module of the package that defines it.
    modules : iterable of str
        Modules of the package that are public themselves.

    Returns
    -------
    callable
        Of the name; raises AttributeError for one that is not public.
    """
    known = frozenset(modules)

    def find(name: str) -> Any:
        if name in names:
            return getattr(import_module(f"{package}.{names[name]}"), name)
        if name in known:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
