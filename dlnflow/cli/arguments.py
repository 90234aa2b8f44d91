"""What the command line says, read into a run, names of estimators and their options."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

import dlnflow as dln
from dlnflow import datasets
from dlnflow._support.command import fraction
from dlnflow.analysis import WorkFolder
from dlnflow.analysis.ensemble import common_settings
from dlnflow.checks import did_you_mean
from dlnflow.cli import table_defaults, user_run
from dlnflow.dynamics import Dynamics
from dlnflow.influence import ESTIMATORS
from dlnflow.sampling.settings import Settings
from dlnflow.task import Task

BUILT_IN = {"hierarchy": datasets.semantic_hierarchy, "living-things": datasets.living_things}
"""Data sets by name, where DATA is not a file."""
DEFAULT_REFERENCES = ["leave_one_out", "windowed"]
SETTINGS = {
    "hidden": int,
    "init_std": float,
    "learning_rate": float,
    "n_steps": int,
    "seed": int,
    "depth": int,
    "optimizer": str,
}
"""Settings of a run, and what they are."""
KINDS = {int: "a whole number", float: "a number"}
SAMPLER = {"kernel", *Settings.__dataclass_fields__} - {"options"}
"""What `bif` hands on to the sampler; the options of a kernel are no single value."""


def run(
    data: str,
    settings: list[str],
    reading: Mapping[str, object],
    asked: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
) -> Dynamics:
    """Read the data, with options of `Task.from_csv`, and describe the run.

    PATH.py:NAME is code of the user, which is run.
    What is not said of the run of a table is chosen by `table_defaults.settings`, so that the
    estimators that are `asked` for take it. The run is the first of several `seeds`, with the
    learning rate and the length that they share.

    Raises
    ------
    ValueError
        If there is no such data, or the run is impossible.
    typer.BadParameter
        If a setting is no NAME=VALUE, or `reading` is given with built-in data or with code.
    """
    flags = [
        f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
        for name, value in reading.items()
    ]
    if user_run.is_code(data):
        if seeds is not None:
            raise typer.BadParameter(
                f"{data} describes one run; leave out --seeds, or use dlnflow.ensemble in Python",
                param_hint="--seeds",
            )
        return user_run.load(data, settings, flags)
    path = Path(data)
    if path.is_dir():
        raise ValueError(f"`data` {data} is a folder; give the CSV file.")
    if not path.exists() and data not in BUILT_IN:
        hint = did_you_mean(data, list(BUILT_IN))
        raise ValueError(f"`data` {data} is neither a file nor {' or '.join(BUILT_IN)}.{hint}")
    if reading and not path.exists():
        raise typer.BadParameter(
            f"{data} is built in and not read from a file; leave out {', '.join(flags)}",
            param_hint="DATA",
        )
    given = dict(map(_setting, settings))
    if path.exists():
        task = Task.from_csv(data, **reading)
        given = table_defaults.settings(task, given, asked)
    else:
        task = BUILT_IN[data]()
    if seeds is None:
        return dln.Run(task, **given)
    common, _ = common_settings(task, seeds, given)
    return dln.Run(task, seed=seeds[0], **common)


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or name not in SETTINGS:
        raise typer.BadParameter(
            f"expected NAME=VALUE with NAME one of {', '.join(SETTINGS)}; got {text!r}",
            param_hint="--run",
        )
    kind = SETTINGS[name]
    try:
        return name, kind(value)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r}: {name} must be {KINDS[kind]}", param_hint="--run"
        ) from error


def seeds(text: str | None, settings: list[str], options: list[str]) -> list[int] | None:
    """Read "8" as the seeds 0 to 7 and "0,3,7" as a list; None where nothing is said.

    Raises
    ------
    typer.BadParameter
        If it is neither, or other options do not go with several seeds.
    """
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"expected a number of seeds, say 8, or a list, say 0,3,7; got {text!r}",
            param_hint="--seeds",
        ) from error
    numbers = list(range(numbers[0])) if "," not in text else numbers
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise typer.BadParameter(
            f"expected different seeds >= 0, at least one; got {text!r}", param_hint="--seeds"
        )
    if any(setting.startswith("seed=") for setting in settings):
        raise typer.BadParameter("--seeds and --run seed=... say two things", param_hint="--seeds")
    if options:
        raise typer.BadParameter("--option does not go with --seeds", param_hint="--option")
    return numbers


def shared(
    folder: Path | None, workers: int | None, part: str | None, seeds: Sequence[int] | None
) -> WorkFolder | None:
    """Return where the curves of every seed are kept, and by whom they are computed.

    Raises
    ------
    ValueError
        If there is no such part, or the folder is a file.
    typer.BadParameter
        If an option lacks the one that it belongs to.
    """
    if folder is None:
        if workers is not None or part is not None:
            raise typer.BadParameter(
                "--workers and --part share a folder; name it with --folder", param_hint="--folder"
            )
        return None
    if seeds is None:
        raise typer.BadParameter("--folder keeps the curves of --seeds", param_hint="--folder")
    return WorkFolder(folder, workers or 1, fraction(part))


def known(names: list[str], hint: str) -> None:
    """Refuse a name that no estimator has; `hint` is the option that gave it.

    Raises
    ------
    typer.BadParameter
        With the nearest name.
    """
    for name in names:
        if name not in ESTIMATORS:
            near = did_you_mean(name, list(ESTIMATORS))
            every = "'all' is for --estimator of compare. " if name == "all" else ""
            raise typer.BadParameter(
                f"unknown estimator {name!r}. {every}Known: {', '.join(ESTIMATORS)}.{near}",
                param_hint=hint,
            )


def with_all(described: Dynamics, names: list[str]) -> list[str]:
    """Replace 'all' by the estimators that take this run, but bif."""
    known([name for name in names if name != "all"], "--estimator")
    if "all" not in names:
        return names
    every = [n for n, e in ESTIMATORS.items() if e.in_all and not e.refusal(described)]
    return list(dict.fromkeys([*every, *(name for name in names if name != "all")]))


def default_references(described: Dynamics) -> list[str]:
    """Return the ways of retraining that the run has: gradient flow has no steps to leave out."""
    return [name for name in DEFAULT_REFERENCES if not ESTIMATORS[name].refusal(described)]


def different_items(described: Dynamics, train: list[str] | None, query: list[str] | None) -> None:
    """Refuse a choice of items without a pair of different ones.

    Raises
    ------
    typer.BadParameter
        If there is none.
    """
    if len({*(train or described.items), *(query or described.queries)}) < 2:
        raise typer.BadParameter(
            "a comparison is over pairs of different items, and --train and --query name one item; "
            "leave one of them out, or name more",
            param_hint="--query",
        )


def options(given: list[str], names: list[str]) -> dict[str, dict[str, object]]:
    """Read ESTIMATOR.NAME=VALUE into keyword arguments by estimator.

    Raises
    ------
    typer.BadParameter
        If the estimator is not among `names`, has no such option, or the value is a list.
    """
    chosen: dict[str, dict[str, object]] = {}
    for text in given:
        try:
            estimator, name, value = _option(text, names)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r}: {error}", param_hint="--option") from error
        chosen.setdefault(estimator, {})[name] = value
    return chosen


def _option(text: str, names: list[str]) -> tuple[str, str, object]:
    place, equals, value = text.partition("=")
    estimator, dot, name = place.partition(".")
    if not (equals and dot):
        raise ValueError("expected ESTIMATOR.NAME=VALUE")
    if estimator not in names:
        used = ", ".join(dict.fromkeys(names))
        raise ValueError(f"{estimator!r} is not among the estimators asked for, {used}")
    allowed = _options_of(estimator)
    if name not in allowed:
        near = did_you_mean(name, allowed)
        raise ValueError(f"`{estimator}` has the options {', '.join(allowed)}.{near}")
    return estimator, name, _value(value)


def _options_of(estimator: str) -> list[str]:
    parameters = inspect.signature(ESTIMATORS[estimator].function).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):  # bif
        names += sorted(SAMPLER - set(names))
    return [name for name in names if name not in ("query", "train")]


def _value(text: str) -> object:
    """Read a number, True, False or None as what it is, anything else as a word."""
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text
    if not isinstance(value, int | float | str | None):
        raise ValueError("one number or word is needed; a list would be several curves")
    return value
