"""The dlnflow command: influence curves and comparisons from a table, without writing Python.

Exit codes: 0 done, 1 the data or the training failed (the message says what to change), 2 the
command was used wrongly.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from dlnflow import __version__, _report, datasets, result
from dlnflow import _estimates as estimates
from dlnflow._checks import did_you_mean
from dlnflow._command import explained, writable
from dlnflow.analysis import compare as compare_curves
from dlnflow.analysis import events, summary
from dlnflow.influence import ESTIMATORS
from dlnflow.influence import _preconditions as preconditions
from dlnflow.lm import _cli as language_models
from dlnflow.task import Task
from dlnflow.training import OPTIMIZERS, Run

BUILT_IN = {"hierarchy": datasets.semantic_hierarchy, "living-things": datasets.living_things}
"""Data sets by name, where DATA is not a file."""

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="When a training example matters: influence over training time.",
)

app.add_typer(language_models.app, name="lm")


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.")
    ] = False,
) -> None:
    if version:
        typer.echo(f"dlnflow {__version__}")
        raise typer.Exit


Data = Annotated[
    str,
    typer.Argument(
        help="CSV file: item names in the first column, numeric features in the others; or "
        f"{' or '.join(BUILT_IN)}."
    ),
]
Estimators = Annotated[
    list[str], typer.Option("--estimator", "-e", help="Estimator; repeat for several.")
]
TrainItems = Annotated[
    list[str] | None, typer.Option("--train", help="Train item; repeat. Default: all.")
]
QueryItems = Annotated[
    list[str] | None, typer.Option("--query", help="Query item; repeat. Default: all.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--run",
        metavar="NAME=VALUE",
        help="Setting of the run; repeat: hidden, init_std, learning_rate, n_steps, seed, depth, "
        f"optimizer ({', '.join(OPTIMIZERS)}).",
    ),
]
Points = Annotated[int, typer.Option(min=3, help="Recorded time points over the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

DEFAULT_ESTIMATORS = ["analytic", "tangent", "leave_one_out"]
DEFAULT_REFERENCES = ["leave_one_out", "windowed"]


@app.command()
@explained
def influence(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for influence.nc, .png and .pdf.")],
    estimator: Estimators = DEFAULT_ESTIMATORS,
    train: TrainItems = None,
    query: QueryItems = None,
    run: Settings = None,
    points: Points = 200,
    as_json: AsJson = False,
) -> None:
    """Compute influence curves; write netCDF, PNG and PDF; print peaks and sign flips."""
    described = _run(data, run)
    _known(estimator)
    writable(out)
    found = estimates.run_all(described, estimator, points, train=train, query=query)
    curves, seconds = found.curves, found.seconds
    from dlnflow import plotting  # matplotlib is only needed here

    files = [result.save(curves, out / "influence.nc")]
    files += plotting.save_figure(plotting.overview(curves), out / "influence")
    table = events(curves)
    table.attrs["estimators"] = curves["estimator"].values.tolist()
    if as_json:
        _print_json(
            described, seconds, files=[str(f) for f in files], events=_report.records(table)
        )
        return
    _report.print_run(described, seconds)
    _report.print_events(table)
    _report.print_files(files)


@app.command()
@explained
def compare(
    data: Data,
    estimator: Annotated[
        list[str],
        typer.Option(
            "--estimator",
            "-e",
            help="Estimator; repeat for several. 'all': those that take this run, but bif, which "
            "samples for longer than the rest together.",
        ),
    ] = DEFAULT_ESTIMATORS,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="What the others are to predict; repeat for several tables. leave_one_out: "
            "training without the item. windowed: training without it for a twentieth of the run, "
            "from the recorded step on; its value is the mean loss difference in that window."
        ),
    ] = None,
    train: TrainItems = None,
    query: QueryItems = None,
    run: Settings = None,
    points: Points = 200,
    as_json: AsJson = False,
) -> None:
    """Print how well estimators predict retraining, over pairs of different items, and cost."""
    described = _run(data, run)
    references = list(dict.fromkeys(reference or _default_references(described)))
    _known(references)
    names = _with_all(described, estimator)
    if not set(names) - {references[0]} and len(references) == 1:
        raise typer.BadParameter("give an estimator other than the reference", param_hint="-e")
    found = estimates.run_all(described, [*names, *references], points, train=train, query=query)
    tables = {name: compare_curves(found.curves, reference=name) for name in references}
    if as_json:
        _print_json(
            described,
            found.seconds,
            retrainings=found.retrainings,
            references=references,
            pairs={name: _report.records(table) for name, table in tables.items()},
            summary={
                name: _report.records(summary(table).reset_index())
                for name, table in tables.items()
            },
        )
        return
    _report.print_run(described)
    for name, table in tables.items():
        _report.print_comparison(summary(table), name)
    _report.print_cost(found.seconds, found.retrainings)


@app.command()
@explained
def selftest(
    seed: Annotated[int, typer.Option(min=0, help="Of the chains.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Sample known targets with every kernel; print variance against truth and a verdict.

    Needs the torch extra.
    """
    from dlnflow.sampling import selftest as tests  # torch is only needed here

    table = tests.selftest(seed=seed)
    if as_json:
        print(json.dumps(_report.records(table), indent=1, allow_nan=False))
    else:
        tests.show(table)


def _known(names: list[str]) -> None:
    for name in names:
        if name not in ESTIMATORS:
            hint = did_you_mean(name, list(ESTIMATORS))
            raise typer.BadParameter(
                f"unknown estimator {name!r}; known: {', '.join(ESTIMATORS)}.{hint}"
            )


def _with_all(run: Run, names: list[str]) -> list[str]:
    """Replace 'all' by the estimators that take this run, but bif."""
    _known([name for name in names if name != "all"])
    if "all" not in names:
        return names
    every = [name for name in ESTIMATORS if name != "bif" and not preconditions.refusal(name, run)]
    return list(dict.fromkeys([*every, *(name for name in names if name != "all")]))


def _default_references(run: Run) -> list[str]:
    """Return the ways of retraining that the run has: gradient flow has no steps to leave out."""
    return [name for name in DEFAULT_REFERENCES if not preconditions.refusal(name, run)]


def _run(data: str, settings: list[str] | None) -> Run:
    """Read the data and describe the run."""
    if not Path(data).exists() and data not in BUILT_IN:
        hint = did_you_mean(data, list(BUILT_IN))
        raise ValueError(f"`data` {data} is neither a file nor {' or '.join(BUILT_IN)}.{hint}")
    task = Task.from_csv(data) if Path(data).exists() else BUILT_IN[data]()
    return Run(task, **_parsed(settings or []))


def _parsed(settings: list[str]) -> dict[str, object]:
    kinds = {
        "hidden": int, "init_std": float, "learning_rate": float, "n_steps": int, "seed": int,
        "depth": int, "optimizer": str,
    }  # fmt: skip
    parsed = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in kinds:
            raise typer.BadParameter(f"expected NAME=VALUE with NAME one of {', '.join(kinds)}; "
                                     f"got {setting!r}", param_hint="--run")  # fmt: skip
        try:
            parsed[name] = kinds[name](value)
        except ValueError as error:
            raise typer.BadParameter(f"{setting!r}: {error}", param_hint="--run") from error
    return parsed


def _print_json(run: Run, seconds: dict[str, float], **content: object) -> None:
    settings = ("hidden", "init_std", "learning_rate", "n_steps", "seed", "optimizer", "depth")
    about = {
        "items": list(run.task.items),
        "run": {name: getattr(run, name) for name in settings},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    print(json.dumps(about | content, indent=1, allow_nan=False))


def main() -> None:
    """Entry point of the ``dlnflow`` command."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    app()
