"""Draw figures: ``python -m paper_figures toy|torch|lm [--only N] [--scale SCALE] [--out DIR]``."""

import importlib
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from dlnflow._support.command import writable
from paper_figures._data import Scale
from paper_figures._drawing import Drawn, draw_one
from paper_figures._gallery import GALLERY, take

TOY: dict[int | str, str] = {
    1: "fig01_phases",
    2: "fig02_dataset",
    3: "fig03_influence",
    4: "fig04_stages",
    6: "fig06_hyperparameters",
    7: "fig07_more_items",
    8: "fig08_all_pairs",
    9: "fig09_damped_hessian",
    10: "fig10_damped_gauss_newton",
    11: "fig11_windows",
    12: "fig12_closed_form",
    "explain": "explain_offset",
    "bif_limits": "bif_limits",
    "selftest": "selftest_figure",
    "susceptibility": "susceptibility",
    "llc_over_training": "llc_over_training",
    "map": "map",
    "free_energy": "free_energy",
    "curriculum": "curriculum",
}
"""Number of the figure in the paper, or a name, and the module that draws it."""
ALONE = {1, 6, 12, "bif_limits", "selftest", "free_energy"}
"""Toy figures that share no curves with others: a second process draws them meanwhile."""
LM: dict[int | str, str] = {
    5: "fig05_classes",
    13: "fig13_token_classes",
    14: "fig14_neighbours",
    15: "fig15_induction",
    16: "fig16_intervention",
    17: "fig17_lm_exact",
}
"""The same for the language model; 16 and 17 are experiments of ours."""
ON_CPU = {16, 17}
"""Figures of language models that are drawn on the CPU at every scale."""
TORCH: dict[int | str, str] = {
    "nonlinear": "nonlinear",
    "digits": "digits",
    "bif_against_exact": "bif_against_exact",
}
"""Experiments of ours on torch models."""
OUT = Path(__file__).parent / "out"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Draw the figures of the paper.",
)


Only = Annotated[
    list[str] | None, typer.Option(help="Number or name of a figure; repeat. Default: all.")
]
HowMuch = Annotated[Scale, typer.Option(help="How much is computed.")]
Out = Annotated[Path, typer.Option(help="Folder for PNG, PDF, SVG and JSON.")]


@app.command()
def toy(only: Only = None, scale: HowMuch = Scale.quick, out: Out = OUT) -> None:
    """Draw the figures of the deep linear network; write PNG, PDF, SVG and the numbers claimed."""
    numbers = _chosen(TOY, only)
    writable(out)
    with _progress() as progress:
        bar = progress.add_task(f"{len(numbers)} figures", total=len(numbers))
        if {True, False} == {number in ALONE for number in numbers}:
            drawn = _in_two_processes(numbers, scale, out, lambda: progress.advance(bar))
        else:
            drawn = {number: draw_one(TOY[number], scale, out) for number in numbers}
    _report(drawn, out)


@app.command(name="torch")
def torch_models(only: Only = None, scale: HowMuch = Scale.quick, out: Out = OUT) -> None:
    """Draw the figures of torch models; write the numbers behind them before drawing."""
    numbers = _chosen(TORCH, only)
    writable(out)
    drawn = {}
    with _progress() as progress:
        bar = progress.add_task("", total=len(numbers))
        for number in numbers:
            progress.update(bar, description=f"figure {number}")
            drawn[number] = draw_one(TORCH[number], scale, out)
            progress.advance(bar)
    _report(drawn, out)


@app.command()
def lm(
    only: Only = None,
    scale: Annotated[
        str,
        typer.Option(help="quick, paper, natural, gpu (your text), or twin (gpu's code on a CPU)."),
    ] = Scale.quick,
    out: Out = OUT,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="text, tokenizer, device, chains, draws, checkpoints, or any setting of the run "
            "or the sampler; repeat.",
        ),
    ] = None,
) -> None:
    """Draw the figures of the language model: train, sample, draw; goes on if it was stopped.

    Runs and traces are kept in the folder lm of --out.
    """
    from dlnflow.checks import one_of
    from dlnflow.lm.runs.device import usable_device
    from paper_figures import _lm_data

    try:
        one_of("scale", scale, list(_lm_data.LmScale))
        numbers = _chosen(_figures(_lm_data.SIZES[scale].figures), only)
        writable(out)
        size = _lm_data.with_settings(_lm_data.LmScale(scale), setting or [])
        if {*numbers} - ON_CPU:
            usable_device(size.device)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--scale, --set") from error
    _lm_data.SIZES[scale] = size
    _lm_data.OUT = out / "lm"
    drawn = {}
    with _progress() as progress:
        bar = progress.add_task("", total=None)
        if {*numbers} - ON_CPU:
            _lm_data.tell[:] = [_teller(progress, bar, numbers[0])]
            _lm_data.train_together(_lm_data.LmScale(scale), _trainings(numbers, scale))
        for number in numbers:
            _lm_data.tell[:] = [_teller(progress, bar, number)]
            _lm_data.say("")
            drawn[number] = draw_one(LM[number], scale, out)
    _report(drawn, out)


def _trainings(numbers: list[int | str], scale: str) -> list[Callable[[], object]]:
    """Return what figures with runs of their own train."""
    modules = [importlib.import_module(f"paper_figures.{LM[n]}") for n in numbers if n in ON_CPU]
    return [training for module in modules for training in module.training(scale)]


def _figures(numbers: tuple[int, ...]) -> dict[int | str, str]:
    """Return the figures of the language model that a scale has; empty: all."""
    return {number: LM[number] for number in numbers} or LM


@app.command()
def gallery(out: Out = OUT) -> None:
    """Take the figures of --out into docs/gallery, small enough for a page."""
    taken = take(out)
    Console().print(f"{len(taken)} figures are in {GALLERY}: {', '.join(taken)}", highlight=False)


def _chosen(known: dict[int | str, str], only: list[str] | None) -> list[int | str]:
    """Return the figures to draw."""
    unknown = sorted(set(only or []) - set(map(str, known)))
    if unknown:
        listed = ", ".join(map(str, known))
        others = "; ".join(
            f"the command {name} has {', '.join(map(str, other))}"
            for name, other in (("toy", TOY), ("torch", TORCH), ("lm", LM))
            if other is not known
        )
        raise typer.BadParameter(
            f"no figure {unknown[0]} here; there are {listed}; {others}.", param_hint="--only"
        )
    return [number for number in known if not only or str(number) in only]


def _in_two_processes(
    numbers: list[int | str], scale: Scale, out: Path, advance: Callable[[], object]
) -> dict[int | str, Drawn]:
    """Draw figures that share curves in one process and the others in another, a thread each."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the processes when they start
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context) as shared, ProcessPoolExecutor(1, context) as alone:
        pending = {
            (alone if number in ALONE else shared).submit(draw_one, TOY[number], scale, out): number
            for number in numbers
        }
        for _ in as_completed(pending):
            advance()
    drawn = {number: future.result() for future, number in pending.items()}
    return {number: drawn[number] for number in numbers}


def _report(drawn: dict[int | str, Drawn], out: Path) -> None:
    """Print what the figures claim; exit with 1 if a claim does not hold."""
    written, problems = Table("figure", "seconds", "files", "what was measured"), []
    for number, (row, failed) in drawn.items():
        written.add_row(str(number), *row)
        problems += failed
    console = Console()
    console.print(written)
    console.print(f"all in {out}", highlight=False, soft_wrap=True)
    if problems:
        console.print("\n".join(problems), style="red", highlight=False)
        raise typer.Exit(1)


def _teller(progress: Progress, bar: TaskID, number: int | str) -> Callable[[str], None]:
    """Return a function that shows what is being done for a figure."""
    return lambda text: progress.update(bar, description=f"figure {number} {text}")


def _progress() -> Progress:
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


if __name__ == "__main__":
    app()
