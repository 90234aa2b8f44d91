"""Local learning coefficients of a language model over training, of all tokens and by class.

    python -m paper_figures.token_coefficients RUN STORE OUT.json

Figure llc_over_training draws them from ``expected/token_coefficients_*.json`` below those of the
toy network.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from dlnflow.plots.panels import SIGNED
from dlnflow.plots.tokens import color_of, steps_axis
from dlnflow.traces import check_traces, groups, llc
from dlnflow.traces.membership import membership
from paper_figures._records import curve, ends, estimated, finish, records, source
from paper_figures.class_matrix import rounded, sampled, written

ALL = "all tokens"


def measure(traces: xr.DataArray, classes: xr.DataArray) -> dict[str, Any]:
    """Measure the local learning coefficient beside loss and influence, whole and by class.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Losses of text.
    classes : DataArray
        Classes of its tokens.

    Returns
    -------
    dict
        JSON. `loss`: class -> mean at every checkpoint; `coefficient`: class -> [n_beta (E[l] -
        l(theta_t)), standard error, degrees of freedom] at every step; `influence`: the same of a
        class on itself, pairs of one id left out. "all tokens" is the mean over what is observed.
    """
    traces = check_traces(traces)
    whole, parts = llc(traces, "observed"), llc(traces, classes)
    own = groups(traces, classes, exclude="token")
    names = [str(name) for name in parts.token_class.values]
    return sampled(traces, whole) | {
        "parameters": int(traces.attrs["n_parameters"]),
        "loss": _losses(traces, classes),
        "coefficient": {ALL: estimated(whole, whole.llc)}
        | {n: estimated(one, one.llc) for n in names for one in [parts.sel(token_class=n)]},
        "influence": {n: estimated(one, one) for n in names for one in [own.sel(query=n, train=n)]},
    }


def _losses(traces: xr.DataArray, classes: xr.DataArray) -> dict[str, list[float]]:
    """Return the mean loss of all tokens and of every class at the checkpoints."""
    losses = traces.checkpoint_loss.transpose("time", "item").values
    members, names = membership(classes, losses.shape[1])
    means = losses @ (members / members.sum(0))
    of = {ALL: losses.mean(1)} | dict(zip(names, means.T, strict=True))
    return {name: rounded(values) for name, values in of.items()}


def draw(figure: SubFigure, start: str) -> dict[str, float]:
    """Draw loss, coefficients and influence of every run, a row each, and return what they claim.

    Parameters
    ----------
    figure : SubFigure
        Where.
    start : str
        Letter of the first panel.

    Returns
    -------
    dict of str to float
    """
    measured = records("token_coefficients")
    axes = figure.subplots(len(measured), 3, squeeze=False, sharex="row")
    claims: dict[str, float] = {}
    for row, record in zip(axes, measured, strict=True):
        _row(row, record)
        claims |= _claims(record)
    for axis, title in zip(axes[0], ("loss", "learning coefficient", "influence"), strict=True):
        axis.set_title(title)
    for axis in axes[-1]:
        axis.set_xlabel("training step")
    finish(figure, axes, start)
    return claims


def settings() -> dict[str, dict[str, float]]:
    """Return with what every run was sampled."""
    return {one["configuration"]: one["settings"] for one in records("token_coefficients")}


def _row(row: Sequence[Axes], record: dict[str, Any]) -> None:
    loss, coefficient, influence = row
    steps = np.array(record["steps"])
    for name in record["loss"]:
        color, width = color_of(name), 1.6 if name == ALL else 1.0
        style = {"color": color, "linewidth": width, "zorder": 3 if name == ALL else 2}
        label = name.replace("_", " ")
        loss.plot(steps, record["loss"][name], marker="o", markersize=2.5, label=label, **style)
        curve(coefficient, steps, record["coefficient"][name], **style)
        if name != ALL:
            curve(influence, steps, record["influence"][name], **style)
    bad = ~np.isin(record["verdict"], ["mixed", "short"])
    whole = np.array(record["coefficient"][ALL])[:, 0]
    coefficient.plot(steps[bad], whole[bad], "x", color="black", markersize=5)
    for axis in (coefficient, influence):
        axis.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    loss.set_ylabel(f"{source(record)}\nmean loss (nats)")
    coefficient.set_ylabel(r"$n\beta\,(E[\ell]-\ell(\theta_t))$")
    influence.set_ylabel(f"on the own class, other ids\n{SIGNED}")
    steps_axis(row, steps)


def _claims(record: dict[str, Any]) -> dict[str, float]:
    """Return the coefficient at the ends, where it is least, and how many are no minimum."""
    value, low, high = ends(record["coefficient"][ALL])
    classes = [ends(record["coefficient"][n]) for n in record["coefficient"] if n != ALL]
    name = record["configuration"]
    return {
        f"{name}.coefficient.first": float(value[0]),
        f"{name}.coefficient.least": float(value.min()),
        f"{name}.coefficient.last": float(value[-1]),
        f"{name}.last_above_first": float(low[-1] - high[0]),
        f"{name}.share_mixed": float(np.mean(np.array(record["verdict"]) == "mixed")),
        f"{name}.class_below_zero": float(sum((top < 0).sum() for _, _, top in classes)),
    }


if __name__ == "__main__":
    written(measure, *map(Path, sys.argv[1:]))
