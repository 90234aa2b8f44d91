"""The files of `influence`: curves, then figures, and what an interrupted run had finished."""

from pathlib import Path

import xarray as xr

from dlnflow import result
from dlnflow._support.command import lacking, writable
from dlnflow._support.terminal import say
from dlnflow.cli.estimates import Interrupted
from dlnflow.dynamics import Dynamics

CURVES = "influence.nc"
PARTIAL = "influence_partial.nc"
"""Curves of an interrupted run: those of an earlier, complete one stay."""


def prepare(out: Path) -> None:
    """Check before the work that results can be written, and say if they will not be drawn."""
    writable(out)
    missing = lacking("figures")
    if missing:
        say(
            f"{', '.join(missing)} is not installed, so curves are saved but not drawn; "
            "`pip install 'dlnflow[figures]'` does that.",
            err=True,
        )


def save(curves: xr.DataArray, out: Path) -> list[Path]:
    """Save curves, before anything is drawn; return the file."""
    return [result.save(curves, out / CURVES)]


def draw(curves: xr.DataArray, run: Dynamics, out: Path) -> list[Path]:
    """Draw saved curves of a run if figures are installed; return the files."""
    if lacking("figures"):
        return []
    try:
        from dlnflow import plots

        return plots.save_figure(plots.overview(curves, run=run), out / "influence")
    except BaseException as error:
        error.add_note(f"The curves are saved in {out / CURVES}; only the figure is missing.")
        raise


def draw_one(out: Path, train: str) -> list[Path]:
    """Draw the saved curves of one train item, an estimator in every panel; return the files."""
    if lacking("figures"):
        return []
    from dlnflow import plots

    curves = result.load(out / CURVES).sel(train=[train])
    return plots.save_figure(plots.plot_influence(curves), out / train)


def keep(stop: Interrupted, out: Path | None) -> None:
    """Save the finished curves of an interrupted run, and note how to go on."""
    rest = " ".join(f"-e {name}" for name in stop.left)
    if stop.curves is None:
        stop.add_note("No estimator was finished and no file was written; run the command again.")
        return
    finished = ", ".join(stop.curves["estimator"].values.tolist())
    if out is None:
        stop.add_note(f"{finished} was finished, but without --out nothing is saved.")
        return
    saved = result.save(stop.curves, out / PARTIAL)
    stop.add_note(
        f"Finished and saved in {saved}: {finished}.\n"
        f"To go on, give the same command with {rest} and another --out."
    )
