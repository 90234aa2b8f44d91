"""The dlnflow command: influence curves and comparisons from a table, without writing Python.

Exit codes: 0 done, 1 the data or the training failed (the message says what to change), 2 the
command was used wrongly, 130 interrupted, 141 nobody reads the output.
"""

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from dlnflow import __version__, analysis
from dlnflow._support import terminal
from dlnflow._support.command import explained, requires, writable
from dlnflow._support.terminal import say
from dlnflow.cli import (
    arguments,
    estimates,
    examples,
    explanations,
    language_models,
    large_tables,
    output,
    pages,
    report,
    table_defaults,
)
from dlnflow.cli.table_options import reads_table
from dlnflow.dynamics import Dynamics
from dlnflow.dynamics.optimizers import OPTIMIZERS
from dlnflow.tables import examples as tables

app = typer.Typer(
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    help="When a training example matters: influence over training time.",
)

app.add_typer(language_models.app, name="lm")
app.command()(examples.examples)


FIRST = """\
What to type first:
  dlnflow demo                             draws whom dog helps, and a page to explore
  dlnflow examples                         lists tables to begin with
  dlnflow influence TABLE --train ITEM     curves, events, and what carries them
  dlnflow compare TABLE                    how well estimators predict retraining
  dlnflow --help                           all commands; lm is for language models"""


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.")
    ] = False,
) -> None:
    if version:
        typer.echo(f"dlnflow {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(FIRST)


Data = Annotated[
    str,
    typer.Argument(
        help="Table, as text or .xlsx: item names in the first column, features in the others; or "
        f"{' or '.join(arguments.BUILT_IN)}; or MODEL.PY:NAME, a function in a Python file that "
        "returns a dlnflow.Run or dlnflow.TorchRun. The file is run: name only code you trust."
    ),
]
Estimators = Annotated[
    list[str] | None,
    typer.Option(
        "--estimator",
        "-e",
        help="Estimator; repeat for several. Default: analytic, tangent and leave_one_out; of many "
        "items those that take seconds.",
    ),
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
        f"optimizer ({', '.join(OPTIMIZERS)}). A table gets flow, and hidden twice its rank.",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="ESTIMATOR.NAME=VALUE",
        help="Option of an estimator; repeat. E.g. windowed.window=50 or damped_hessian.damping=1.",
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER or LIST",
        help="Several runs: how many seeds (8), or which (0,3,7). Curves are averaged where they "
        "are shown, and events have the share of seeds that have them.",
    ),
]
Points = Annotated[int, typer.Option(min=3, help="Recorded time points over the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

LARGEST_SEED = 2**63 - 1
"""What the random numbers of torch take."""


@app.command()
@explained
@reads_table
def influence(  # noqa: PLR0913  (one parameter per option of the command)
    data: Data,
    reading: dict[str, Any],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for influence.nc, .png, .pdf and .svg. Default: the table only."),
    ] = None,
    estimator: Estimators = None,
    train: TrainItems = None,
    query: QueryItems = None,
    seeds: Seeds = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="With --seeds: keep the curves of every seed here, and go on from them."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --folder: processes of this machine.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="With --folder: only part K of N, beside the others."),
    ] = None,
    run: Settings = None,
    option: Options = None,
    points: Points = 200,
    html: pages.Html = None,
    as_json: AsJson = False,
) -> None:
    """Compute influence curves; print events and what they belong to; --out writes files."""
    arguments.known(estimator or [], "--estimator")
    numbers = arguments.seeds(seeds, run or [], option or [])
    shared = arguments.shared(folder, workers, part, numbers)
    described = arguments.run(data, run or [], reading, estimator or [], numbers)
    chosen = table_defaults.estimators(described, train, estimator, n_runs=len(numbers or [0]))
    options = arguments.options(option or [], chosen.names)
    pages.prepare(html)
    asked = estimates.Asked(chosen.names, points, train, query, options)
    if large_tables.too_many(described, asked):
        stored = large_tables.influence(described, asked, out, named=estimator, seeds=seeds)
        stored["files"] += _page(described, large_tables.stored(out), html, data)
        if as_json:
            _print_json(described, **stored)
            return
        report.print_run(described, stored["seconds"])
        large_tables.show(stored)
        return
    if out is not None:
        output.prepare(out)
    try:
        found = estimates.run_all(described, asked, seeds=numbers, shared=shared)
    except estimates.Interrupted as stop:
        output.keep(stop, out)
        raise
    files = [] if out is None else output.save(found.curves, out)
    files += [] if out is None else output.draw(found.curves, described, out)
    files += _page(described, found.curves, html, data)
    verdicts, table = report.verdicts(found.curves), report.event_table(found.curves)
    order = report.ordered_pairs(table)
    reasons = explanations.explained(described, found.curves, None if as_json else order)
    if as_json:
        _print_json(
            described,
            found.seconds,
            options=options,
            left_out=chosen.left_out,
            files=[str(f) for f in files],
            verdicts=verdicts,
            events=report.records(table),
            explained=explanations.content(reasons),
            **({} if numbers is None else {"seeds": numbers}),
        )
        return
    report.print_run(described, found.seconds)
    report.print_events(table, order)
    if reasons is not None:
        explanations.print_explained(reasons, described, order[: report.MAX_ROWS])
    report.print_verdicts(verdicts)
    report.print_line(chosen.note())
    report.print_files(files)


def _page(run: Dynamics, curves: Any, html: Path | None, data: str) -> list[str]:
    """Write the page if one is asked for; return the file."""
    return [] if html is None else [pages.write(run, curves, html, Path(data).name)["page"]]


@app.command()
@explained
@reads_table
def compare(  # noqa: PLR0913  (one parameter per option of the command)
    data: Data,
    reading: dict[str, Any],
    estimator: Annotated[
        list[str] | None,
        typer.Option(
            "--estimator",
            "-e",
            help="Estimator; repeat for several. 'all': those that take this run, but bif, which "
            "samples for longer than the rest together. Default: analytic and tangent; of many "
            "items those that take seconds.",
        ),
    ] = None,
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
    option: Options = None,
    points: Points = 200,
    as_json: AsJson = False,
) -> None:
    """Print how well estimators predict retraining, over pairs of different items, and cost."""
    asked = [name for name in estimator or [] if name != "all"]
    arguments.known(asked, "--estimator")
    arguments.known(reference or [], "--reference")
    described = arguments.run(data, run or [], reading, [*asked, *(reference or [])])
    references = list(dict.fromkeys(reference or arguments.default_references(described)))
    chosen = table_defaults.estimators(described, train, estimator)
    names = [*arguments.with_all(described, chosen.names), *references]
    if len(set(names)) == 1:
        raise typer.BadParameter("give an estimator other than the reference", param_hint="-e")
    arguments.different_items(described, train, query)
    options = arguments.options(option or [], names)
    found = estimates.run_all(described, estimates.Asked(names, points, train, query, options))
    verdicts = report.verdicts(found.curves)
    tables = {name: analysis.compare(found.curves, reference=name) for name in references}
    if as_json:
        _print_json(
            described,
            found.seconds,
            options=options,
            retrainings=found.retrainings,
            verdicts=verdicts,
            references=references,
            pairs={name: report.records(table) for name, table in tables.items()},
            summary={
                name: report.records(analysis.summary(table).reset_index())
                for name, table in tables.items()
            },
        )
        return
    report.print_run(described)
    for name, table in tables.items():
        report.print_comparison(analysis.summary(table), name)
    report.print_cost(found.seconds, found.retrainings)
    report.print_verdicts(verdicts)
    report.print_line(chosen.note())


@app.command()
@explained
def demo(
    out: Annotated[Path, typer.Option(help="Folder that is made.")] = Path("dlnflow_demo"),
) -> None:
    """Draw whom dog helps and harms, and when, as in the README, and write a page to explore it."""
    writable(out)
    page = out / "page.html"
    influence(data="hierarchy", run=["init_std=0.001"], out=out, html=page)
    table = out / "animals.csv"
    if not table.exists():
        tables.copy("animals", table)
    drawn = output.draw_one(out, train="dog")
    say(
        f"Curves of dog: {drawn[0] if drawn else 'not drawn'}. Open {page} in a browser to click "
        f"through all pairs.\nThe same for a table: dlnflow influence {table} --html page.html"
    )


@app.command()
@explained
def selftest(
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the chains.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Sample known targets with every kernel; print variance against truth and a verdict.

    Needs the torch extra.
    """
    requires("torch")
    from dlnflow.sampling import selftest as tests  # torch is only needed here

    table = tests.selftest(seed=seed)
    if as_json:
        content = {"verdicts": tests.verdicts(table), "rows": report.records(table)}
        print(json.dumps({"seed": seed} | content, indent=1, allow_nan=False))
    else:
        tests.show(table)


def _print_json(run: Dynamics, seconds: dict[str, float], **content: object) -> None:
    about = {
        "items": list(run.items),
        "notes": list(run.notes),
        "run": run.settings,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    print(json.dumps(about | content, indent=1, allow_nan=False))


def main() -> None:
    """Entry point of the ``dlnflow`` command."""
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}", err=True)
    terminal.main(app)
