"""Draw figures: ``python -m paper_figures toy|lm [--only N] [--scale quick|paper] [--out DIR]``."""

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from dlnflow import plotting
from paper_figures import _claims
from paper_figures._data import Scale

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
}
"""Number of the figure in the paper, or a name, and the module that draws it."""
LM: dict[int | str, str] = {
    5: "fig05_classes",
    13: "fig13_token_classes",
    14: "fig14_neighbours",
    15: "fig15_induction",
    16: "fig16_intervention",
}
"""The same for the language model; 16 is an experiment of ours."""
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
Out = Annotated[Path, typer.Option(help="Folder for PNG, PDF and JSON.")]


@app.command()
def toy(only: Only = None, scale: HowMuch = Scale.quick, out: Out = OUT) -> None:
    """Draw the figures of the deep linear network; write PNG, PDF and the numbers claimed."""
    _draw(TOY, only, scale, out)


@app.command()
def lm(only: Only = None, scale: HowMuch = Scale.quick, out: Out = OUT) -> None:
    """Draw the figures of the language model: train, sample, draw; goes on if it was stopped."""
    from paper_figures import _lm_data

    _draw(LM, only, scale, out, _lm_data.tell)


def _draw(
    known: dict[int | str, str], only: list[str] | None, scale: Scale, out: Path,
    listeners: list[Callable[[str], None]] | None = None,
) -> None:  # fmt: skip
    """Draw the chosen figures, print what they claim, exit with 1 if a claim does not hold.

    Long work calls the `listeners` with what it is doing.
    """
    unknown = sorted(set(only or []) - set(map(str, known)))
    if unknown:
        listed = ", ".join(map(str, known))
        raise typer.BadParameter(f"no figure {unknown[0]}; there are {listed}", param_hint="--only")
    numbers = [number for number in known if not only or str(number) in only]
    written, problems = Table("figure", "seconds", "files", "what was measured"), []
    with _progress() as progress:
        bar = progress.add_task("", total=len(numbers))
        for number in numbers:
            show = _teller(progress, bar, number)
            show("")
            if listeners is not None:
                listeners[:] = [show]
            row, failed = _one(known[number], scale, out)
            written.add_row(str(number), *row)
            problems += failed
            progress.advance(bar)
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


def _one(name: str, scale: Scale, out: Path) -> tuple[tuple[str, str, str], list[str]]:
    """Draw and save one figure; return its table row and the claims that do not hold."""
    started = time.perf_counter()
    module = importlib.import_module(f"paper_figures.{name}")
    figure, claims = module.draw(scale)
    files = plotting.save_figure(figure, out / name)
    files.append(_claims.write(out / f"{name}.json", claims, scale))
    # Expectations are stored for the quick scale; other scales average over other seeds.
    failed = _claims.failures(name, claims) if scale is Scale.quick else []
    headlines = "\n".join(
        text.format(claims[key]) for key, text in module.HEADLINES.items() if key in claims
    )
    seconds = f"{time.perf_counter() - started:.1f}"
    return (seconds, "\n".join(path.name for path in files), headlines), failed


if __name__ == "__main__":
    app()
