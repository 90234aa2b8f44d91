"""A run from a person's own Python file: DATA of the form PATH.py:NAME."""

import ast
import contextlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

from dlnflow.checks import did_you_mean
from dlnflow.dynamics import Dynamics

FORM = re.compile(r"(?P<path>.+\.py)(?::(?P<name>.*))?")


def is_code(data: str) -> bool:
    """Whether DATA names a Python file, with or without a function."""
    return FORM.fullmatch(data) is not None


def load(data: str, settings: list[str], reading: list[str]) -> Dynamics:
    """Run the file and the function, and return the run that the function returns.

    `settings` and `reading` are the options --run and those of tables that were given. What the
    code prints goes to standard error, so that --json stays one object.

    Raises
    ------
    ValueError
        If there is no such file or function, it wants arguments, raises, or returns something
        else.
    typer.BadParameter
        If settings of a run or of a table are given.
    """
    for given, what in ((settings, "--run"), (reading, ", ".join(reading))):
        if given:
            raise typer.BadParameter(
                f"{data} describes its run itself; leave out {what} and write it into the file",
                param_hint="DATA",
            )
    parts = FORM.fullmatch(data)
    path, name = Path(parts["path"]), parts["name"]
    function = _function(path, _checked_name(path, name))
    with _explained(path, data):
        run = function()
    if not isinstance(run, Dynamics):
        hint = " Does it lack a `return`?" if run is None else ""
        raise ValueError(
            f"`data` {data} must return a dlnflow.Run or a dlnflow.TorchRun; it returned "
            f"{'None' if run is None else f'an object of type {type(run).__name__}'}.{hint}"
        )
    return run


def _checked_name(path: Path, name: str | None) -> str:
    """Return the name of a function that the file seems to define, read without running it."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"`data` names the file {path}, which {what}.")
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"{path}{where} is no Python: {error}") from error
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    functions = [node.name for node in tree.body if isinstance(node, kinds)]
    listed = ", ".join(functions[:12]) or "none"
    if not name:
        raise ValueError(
            f"`data` {path} is a Python file; say which function makes the run, {path}:NAME. "
            f"Functions in it: {listed}."
        )
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    bound |= {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if name not in functions and name not in bound:
        near = did_you_mean(name, functions)
        raise ValueError(f"{path} has no function {name!r}; it has {listed}.{near}")
    return name


def _function(path: Path, name: str) -> Callable[[], Any]:
    """Run the file and return its function, if it can be called without arguments."""
    module = _module(path)
    function = getattr(module, name, None)
    if not callable(function):
        what = "not there" if function is None else f"of type {type(function).__name__}"
        raise ValueError(f"`{name}` in {path} must be a function that returns a run; it is {what}.")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ValueError(
            f"`{name}` in {path} must be callable without arguments: {error}. Give them defaults."
        ) from error
    except ValueError:  # a built-in without a signature shows when it is called
        pass
    return function


def _module(path: Path) -> ModuleType:
    """Run a file as a module that can import its neighbours, as a script can."""
    name = path.stem if path.stem not in sys.modules else f"dlnflow_run_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[name] = module  # dataclasses look for the module of their class
    sys.path.insert(0, str(path.resolve().parent))
    with _explained(path, str(path)):
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@contextlib.contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Say what the code raised, and in which of its lines; its output goes to standard error.

    Raises
    ------
    ValueError
        In place of whatever it raised, but for Ctrl-C.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        said = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        raise ValueError(f"{what} raised {said}{_place(error, path)}") from error


def _place(error: BaseException, path: Path) -> str:
    """The last line of the file that was running, and where it led to if that is elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        one for one in frames if Path(one.filename) == path.resolve() or one.filename == str(path)
    ]
    if not own:
        return ""
    last = own[-1]
    inside = "" if last.name == "<module>" else f", in {last.name}"
    place = f"\n  {path}, line {last.lineno}{inside}: {last.line}"
    if frames[-1] is not last:
        place += f"\n  raised by {frames[-1].filename}, line {frames[-1].lineno}"
    return place
