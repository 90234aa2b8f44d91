"""Public names, for the API pages: those loaded on request, and a check that none is left out."""

import importlib
import types
from collections.abc import Iterator

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective


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


class PublicModules(SphinxDirective):
    """Its argument is a package; describes each of its public modules under a heading."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write Markdown and let it be read."""
        package = importlib.import_module(self.arguments[0])
        values = [(name, getattr(package, name)) for name in package.__all__]
        lines = []
        for name, value in values:
            if isinstance(value, types.ModuleType):
                block = [f".. automodule:: {value.__name__}", "   :members:"]
                lines += [f"## {name}", "", "```{eval-rst}", *block, "```", ""]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, __file__), self.content_offset, node)
        return node.children


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
    app.add_directive("public-modules", PublicModules)
    app.connect("env-check-consistency", check)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
