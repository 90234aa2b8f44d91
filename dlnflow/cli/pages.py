"""The option that writes an explorer page of a table or of a run, beside what is printed."""

from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr

from dlnflow._support.command import writable
from dlnflow._support.progress import Progress
from dlnflow.dynamics import Dynamics

Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        help="Page to click through, one HTML file that needs no network: every pair over time, "
        "its events and modes, the items' tree and representations.",
    ),
]


def prepare(page: Path | None) -> None:
    """Check before the work that a page can be written.

    Raises
    ------
    ValueError
        If its name is that of a folder.
    """
    if page is None:
        return
    if page.is_dir():
        raise ValueError(f"`--html` must be a file such as page.html, but {page} is a folder.")
    writable(page.absolute().parent)


def write(run: Dynamics, curves: xr.DataArray, page: Path, title: str) -> dict[str, Any]:
    """Write the page of curves; return what `dlnflow.explore.of_table` says of it."""
    from dlnflow import explore  # scikit-learn is only needed here

    with Progress(1, "explorer page") as bar:

        def progress(k: int, n: int) -> None:
            bar.total = n
            bar.advance(k - bar.done)

        return explore.of_table(run, curves, page, title=title, done=progress)
