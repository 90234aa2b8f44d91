"""Imports point one way, and importing the package stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dlnflow

PACKAGE = Path(__file__).parents[1] / "dlnflow"
LAYERS = [
    {"_support", "checks"},
    {"theory", "tables"},
    {"task", "datasets"},
    {"result"},
    {"dynamics"},
    {"traces", "influence", "sampling", "lm"},
    {"analysis"},
    {"plots"},
    {"cli", "__main__"},
]
"""Lowest first."""
SIDE = {
    "dynamics": {"sampling"},  # the verb `traces`, inside a function
    "tables": {"task"},  # the examples, loaded on request
    "sampling": {"influence", "analysis"},
    "lm": {"analysis", "plots"},
}
"""What a side may use beyond the layers below it."""


def _level(module):
    return next((k for k, names in enumerate(LAYERS) if module in names), None)


def _imports(path):
    """Names of dlnflow modules that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "dlnflow":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("dlnflow."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("dlnflow."))


@pytest.mark.parametrize(
    "path", [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)  # fmt: skip
def test_imports_point_to_the_same_or_a_lower_layer(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    level = _level(own)
    assert level is not None, f"{own} has no layer; add it to LAYERS"
    for module in _imports(path):
        above = _level(module)
        allowed = above is None or above <= level or module in SIDE.get(own, ())
        assert allowed, f"{own} imports {module}, which is above it"


HEAVY = ("torch", "transformers", "matplotlib", "sympy", "sklearn")


def test_importing_the_package_loads_no_heavy_library():
    code = f"import sys, dlnflow; print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


PACKAGES = [dlnflow, dlnflow.lm, dlnflow.plots, dlnflow.sampling, dlnflow.tables]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_no_optional_import_is_guarded_at_module_level():
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        guarded = [
            node for node in tree.body
            if isinstance(node, ast.Try)
            and any(isinstance(n, ast.Import | ast.ImportFrom) for n in ast.walk(node))
        ]  # fmt: skip
        assert not guarded, f"{path.name} hides an import in try/except"
