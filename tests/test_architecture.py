"""The house: every module has a layer, imports point down, and adding a thing is one file."""

import ast
import re
import subprocess
import sys
from collections import Counter

import pytest

import dlnflow
from tests import house

LAYERS = [
    {"_support", "checks"},
    {"theory", "tables"},
    {"task", "datasets"},
    {"result"},
    {"dynamics"},
    {"traces", "influence", "sampling", "lm"},
    {"analysis"},
    {"plots", "explore"},
    {"cli", "__main__"},
]
"""Lowest first."""
BESIDE = {
    "task": {"dlnflow.tables"},
    "tables": {"dlnflow.task"},  # the examples are tasks
    "dynamics": {"dlnflow.sampling"},  # the verb `traces`, inside a function
    "lm": {"dlnflow.plots"},
}
"""What may be imported against the layers, and why it is no cycle of modules."""
SPLIT = {
    "traces": {"influence"},
    "influence": {"lm"},
    "sampling": {"influence", "lm"},
    "plots": {"explore"},
    "explore": {"plots"},
}
"""Neighbours in one layer that must not know each other."""


def _top(name):
    return name.split(".")[1] if "." in name else name


def _level(name):
    return next((k for k, names in enumerate(LAYERS) if _top(name) in names), None)


@pytest.mark.parametrize("name", sorted(house.FILES.keys() - {"dlnflow"}))
def test_imports_point_to_the_same_or_a_lower_layer(name):
    assert _level(name) is not None, f"{name} has no layer; add it to LAYERS"
    for other in house.imports(name) - {"dlnflow"}:
        beside = any(other.startswith(allowed) for allowed in BESIDE.get(_top(name), ()))
        below = _level(other) <= _level(name)
        assert below or beside, f"{name} imports {other}, which is above it"
        assert _top(other) not in SPLIT.get(_top(name), ()), f"{name} imports {other}"


def test_only_the_command_uses_the_package_from_outside():
    users = {name for name in house.MODULES if "dlnflow" in house.imports(name)}
    assert all(name.startswith("dlnflow.cli") for name in users), users


def test_imports_are_few_and_shallow_and_form_no_cycle():
    graph = house.edges()
    path = house.longest_path(graph)
    assert len(path) <= 8, " -> ".join(path)
    per_module = sum(map(len, graph.values())) / len(graph)
    assert per_module <= 3.0, per_module


def test_private_modules_are_few_and_none_is_at_the_top():
    private = {name for name in house.MODULES if re.search(r"\._[a-z]\w*$", name)}
    assert len(private) <= 20 and not any(name.count(".") == 1 for name in private), private


def test_names_are_not_used_twice():
    repeated = {name for name, times in house.classes().items() if times > 1}
    assert repeated <= {"State"}, repeated  # every kernel has the state of its chains
    stems = Counter(name.rsplit(".", 1)[-1] for name in house.MODULES)
    assert {stem for stem, times in stems.items() if times > 1} <= ALLOWED_STEMS


ALLOWED_STEMS = {"linear", "influence", "examples"}
"""dynamics.linear and its evaluator; the reading of traces; the command and its tables."""


def test_files_are_one_subject_of_bearable_length():
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in house.FILES.items()}
    assert {name: n for name, n in lines.items() if n > 500} == {}


def test_formatting_is_left_to_the_formatter():
    kept = sum(path.read_text("utf-8").count("# fmt: skip") for path in house.FILES.values())
    assert kept < 20


def _decorated(name, decorator):
    """Functions of a file under `@decorator(...)`."""
    return [
        node.name
        for node in house.TREES[name].body
        if isinstance(node, ast.FunctionDef)
        and any(
            getattr(getattr(d, "func", None), "id", "") == decorator for d in node.decorator_list
        )
    ]


@pytest.mark.parametrize("estimator", list(dlnflow.ESTIMATORS))
def test_an_estimator_is_one_file_and_one_import(estimator):
    own = f"dlnflow.influence.{estimator}"
    assert _decorated(own, "estimator") == [estimator]
    parts = ("dlnflow.influence.", "dlnflow.cli", "dlnflow.plots", "dlnflow.dynamics")
    importing = {n for n in house.FILES if n.startswith(parts) and own in house.imports(n)}
    assert not importing, f"{importing} know one estimator"


def _code(name):
    """Return the source of a file without docstrings."""
    tree = ast.parse(house.FILES[name].read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [
                part
                for part in body
                if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ] or [ast.Pass()]
    return ast.unparse(tree)


def test_an_optimizer_is_one_file_and_nothing_compares_its_name():
    from dlnflow.dynamics.optimizers import OPTIMIZERS

    for name in house.MODULES:
        if name.startswith("dlnflow.dynamics.optimizers."):
            continue
        code = _code(name)
        assert not re.search(r"\.optimizer\s*(==|!=|in|not in)\s", code), name
        for rule in OPTIMIZERS.values():
            assert not re.search(rf"\b{rule.__name__}\b", code), f"{name} knows {rule.__name__}"


def test_a_kernel_is_one_file_and_nothing_compares_its_name():
    from dlnflow.sampling.kernels import KERNELS

    for name in house.MODULES:
        if not name.startswith("dlnflow.sampling.kernels."):
            compared = re.findall(r"kernel\s*(?:==|!=|in|not in)\s*[\"'(\[]", _code(name))
            assert not compared, name
    assert len(KERNELS) >= 4


GENERAL = [
    "bif",
    "damped_gauss_newton",
    "damped_hessian",
    "dvemb",
    "leave_one_out",
    "per_step",
    "source",
    "tangent",
    "tracin",
    "windowed",
]


@pytest.mark.parametrize("estimator", GENERAL)
def test_general_estimators_know_no_network_loss_or_optimizer(estimator):
    seen, todo = set(), [f"dlnflow.influence.{estimator}"]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += [o for o in house.imports(name) if o.startswith("dlnflow.influence.")]
    known = set().union(*(house.imports(name) for name in seen))
    dynamics = {name for name in known if name.startswith("dlnflow.dynamics")}
    allowed = {"dlnflow.dynamics.protocol", "dlnflow.dynamics.schedule"}
    assert dynamics - allowed <= {"dlnflow.dynamics.optimizers"}  # the words of a refusal
    assert not any(name.startswith(("dlnflow.task", "dlnflow.theory")) for name in known)


HEAVY = ("torch", "transformers", "matplotlib", "sympy", "sklearn")


def test_importing_the_package_loads_no_heavy_library():
    code = f"import sys, dlnflow; print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_reading_traces_needs_no_torch():
    code = "import sys, dlnflow.traces; print('torch' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"
    assert not any("torch" in _code(n) for n in house.MODULES if n.startswith("dlnflow.traces."))


PACKAGES = [dlnflow, dlnflow.explore, dlnflow.lm, dlnflow.plots, dlnflow.sampling, dlnflow.tables]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_no_optional_import_is_guarded_at_module_level():
    for name, tree in house.TREES.items():
        guarded = [
            node
            for node in tree.body
            if isinstance(node, ast.Try)
            and any(isinstance(n, ast.Import | ast.ImportFrom) for n in ast.walk(node))
        ]
        assert not guarded, f"{name} hides an import in try/except"
