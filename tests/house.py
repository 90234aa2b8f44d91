"""The structure of the package as its source says it: modules, imports, classes."""

import ast
import functools
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "dlnflow"


def name_of(path):
    """Return the dotted name of a file, without `__init__`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
MODULES = {name for name, path in FILES.items() if path.name != "__init__.py"}
"""Files with code of their own; an `__init__` only says what a package offers."""


def _runs(tree):
    """Nodes of a tree but for what stands under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        yield node
        yield from _runs(node)


@functools.cache
def imports(name):
    """Return the files of the package that a file imports, at its top or inside functions."""
    found = set()
    for node in _runs(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if inside in FILES else node.module)
    return frozenset(found & FILES.keys()) - {name}


def edges():
    """Return module -> modules that it imports."""
    return {name: imports(name) & MODULES for name in MODULES}


def longest_path(graph):
    """Return a longest chain of imports.

    Raises
    ------
    ValueError
        If imports form a cycle, which is named.
    """
    longest, open_ = {}, []

    def follow(name):
        if name in open_:
            raise ValueError(f"a cycle: {' -> '.join([*open_[open_.index(name) :], name])}")
        if name not in longest:
            open_.append(name)
            below = [follow(other) for other in sorted(graph[name])]
            open_.pop()
            longest[name] = [name, *max(below, key=len, default=[])]
        return longest[name]

    return max((follow(name) for name in sorted(graph)), key=len)


def classes():
    """Return how often every class name is defined."""
    nodes = (node for tree in TREES.values() for node in ast.walk(tree))
    return Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
