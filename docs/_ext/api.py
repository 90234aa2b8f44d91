"""Public names, for the API pages: those loaded on request, and a check that none is left out."""

import importlib
import types
from collections.abc import Iterator

from sphinx.util import logging


def public(
    module: types.ModuleType, seen: set[str] | None = None
) -> Iterator[tuple[str, object]]:
    """Yield every public name in full and what it is, those of public modules as well."""
    seen = set() if seen is None else seen
    seen.add(module.__name__)
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        setattr(module, name, value)  # autodoc does not see what a module loads on request
        if not isinstance(value, types.ModuleType):
            yield f"{module.__name__}.{name}", value
        elif value.__name__.startswith("dlnflow.") and value.__name__ not in seen:
            yield value.__name__, value
            yield from public(value, seen)


def check(app, env) -> None:
    """Warn of every public name that no page describes."""
    described = {name for name, *_ in env.domains.python_domain.get_objects()}
    for name, value in public(importlib.import_module("dlnflow")):
        home = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        if not {name, home} & described:
            logging.getLogger(__name__).warning("no page of docs/api describes %s", name)


def setup(app) -> dict:
    """Load the names before pages are read, check them afterwards."""
    list(public(importlib.import_module("dlnflow")))
    app.connect("env-check-consistency", check)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
