"""Maps of the tokens of a language model by their loss kernel, and what lies beside what.

    python -m paper_figures.token_maps RUN STORE OUT.json

Figure map draws them from ``expected/token_maps_*.json`` below those of the toy network.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from numpy.typing import NDArray

from dlnflow.analysis import clusters, loss_map
from dlnflow.plots.tokens import color_of, steps_axis
from dlnflow.traces import llc, neighbours
from dlnflow.traces.membership import membership
from paper_figures import _style
from paper_figures._records import curve, ends, finish, records, rows, source
from paper_figures.class_matrix import PAIRS, sampled, written

CLUSTERS = 6
"""As many as there are classes."""
SHOWN = 150
"""Most tokens of a class that are drawn."""
NONE = "no class"
ALL, ONE = "all tokens", "one token of each id"


def measure(traces: xr.DataArray, classes: xr.DataArray, k: int = 30) -> dict[str, Any]:
    """Map tokens, and measure how pure neighbourhoods are and how stable clusters are.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Losses of text.
    classes : DataArray
        Classes of its tokens.
    k : int
        Neighbours.

    Returns
    -------
    dict
        JSON. `purity`: pairs -> class -> [share of the class among k neighbours minus chance,
        standard error, degrees of freedom] at every step; `chance`: pairs -> class -> share;
        `stability`: tokens -> adjusted Rand index of the clusters of two halves of the chains;
        `maps`: of the first and the last checkpoint, and of the last with one token of each id.
    """
    members, names = membership(classes, traces.sizes["item"])
    told = {name: neighbours(traces, classes, k=k, exclude=out) for name, out in PAIRS.items()}
    first = np.unique(traces["token"].values, return_index=True)[1]
    alone = traces.isel(item=np.sort(first))
    kinds = _kinds(members, names)
    return sampled(traces, llc(traces, classes)) | {
        "tokens": dict(zip(names, members.sum(0).astype(int).tolist(), strict=True)),
        "ids": len(first),
        "purity": {name: _purity(one, names) for name, one in told.items()},
        "chance": {
            name: {n: float(one.purity_chance.sel(token_class=n)) for n in names}
            for name, one in told.items()
        },
        "stability": {
            ALL: clusters(traces, CLUSTERS).stability.values.round(4).tolist(),
            ONE: clusters(alone, CLUSTERS).stability.values.round(4).tolist(),
        },
        "maps": _maps(traces.isel(time=[0, -1]), kinds, ALL)
        + _maps(alone.isel(time=[-1]), kinds[np.sort(first)], ONE),
    }


def _purity(found: xr.Dataset, names: Sequence[str]) -> dict[str, list[list[float]]]:
    above = found.purity - found.purity_chance
    return {
        n: rows(above.sel(at), found.purity_error.sel(at), found.purity_dof.sel(at))
        for n in names
        for at in [{"token_class": n}]
    }


def _kinds(members: NDArray, names: Sequence[str]) -> NDArray[np.str_]:
    """Return a class of every token; induction, which others overlap, where there is no other."""
    kinds = np.full(len(members), NONE, dtype=object)
    for name in sorted(names, key=lambda n: n != "induction"):
        kinds[members[:, names.index(name)] > 0] = name
    return kinds.astype(str)


def _maps(traces: xr.DataArray, kinds: NDArray[np.str_], tokens: str) -> list[dict[str, Any]]:
    """Return a map of every checkpoint, with a choice of tokens of each class."""
    placed = loss_map(traces)
    rng, chosen = np.random.default_rng(0), {}
    for kind in np.unique(kinds):
        of = np.flatnonzero(kinds == kind)
        chosen[str(kind)] = np.sort(rng.permutation(of)[:SHOWN])
    return [
        {
            "step": int(one.time),
            "of": tokens,
            "explained": one.explained.values.round(4).tolist(),
            "x": {n: one.values[k, 0].round(3).tolist() for n, k in chosen.items()},
            "y": {n: one.values[k, 1].round(3).tolist() for n, k in chosen.items()},
        }
        for one in placed
    ]


def draw(figure: SubFigure, start: str) -> dict[str, float]:
    """Draw maps of the first run, and purity and stability of every run.

    Parameters
    ----------
    figure : SubFigure
        Where.
    start : str
        Letter of the first panel.

    Returns
    -------
    dict of str to float
        What they claim.
    """
    measured = records("token_maps")
    heights = [1.15] + [1.0] * len(measured)
    axes = figure.subplots(len(measured) + 1, 3, squeeze=False, height_ratios=heights)
    for axis, one in zip(axes[0], measured[0]["maps"], strict=True):
        _map(axis, one)
    axes[0, 0].set_ylabel(source(measured[0]))
    claims: dict[str, float] = {}
    for row, record in zip(axes[1:], measured, strict=True):
        _row(row, record)
        claims |= _claims(record)
    for axis in axes[-1]:
        axis.set_xlabel("training step")
    axes[1, 2].legend(loc="upper right", **_style.LEGEND)
    finish(figure, axes, start)
    return claims


def _map(axis: Axes, one: dict[str, Any]) -> None:
    order = sorted(one["x"], key=lambda n: (n != NONE, n != "induction"))
    for name in order:
        color = "0.85" if name == NONE else color_of(name)
        style = {"markersize": 2.2, "markeredgewidth": 0, "linestyle": "", "color": color}
        axis.plot(one["x"][name], one["y"][name], "o", label=name.replace("_", " "), **style)
    axis.set(xticks=[], yticks=[], aspect="equal", xlim=(-0.7, 0.7), ylim=(-0.55, 0.65))
    axis.set_title(f"step {one['step']}, {one['of']}")


def _row(row: Sequence[Axes], record: dict[str, Any]) -> None:
    steps = np.array(record["steps"])
    for axis, (pairs, found) in zip(row, record["purity"].items(), strict=False):
        for name, estimates in found.items():
            curve(axis, steps, estimates, color_of(name), linewidth=1.0)
        axis.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        axis.set_title(f"purity minus chance, {pairs}")
    row[0].set_ylabel(source(record))
    for (name, values), style in zip(record["stability"].items(), ("-", "--"), strict=True):
        face = {
            "marker": "o",
            "markersize": 3,
            "markerfacecolor": "black" if name == ALL else "white",
        }
        row[2].plot(steps, values, style, color="black", linewidth=1.0, label=name, **face)
    row[2].set(ylim=(-0.05, 1), title=f"stability of {CLUSTERS} clusters")
    row[2].axhline(0, color="0.6", linewidth=0.6, zorder=0)
    steps_axis(row, steps)


def _claims(record: dict[str, Any]) -> dict[str, float]:
    """Return how many classes are purer than chance at all steps, and how stable clusters are."""
    name, claims = record["configuration"], {}
    for pairs, found in record["purity"].items():
        low = np.array([ends(one)[1] for one in found.values()])
        claims[f"{name}.{pairs}.classes_always_above_chance"] = float((low > 0).all(1).sum())
        last = [ends(one)[0][-1] for one in found.values()]
        claims[f"{name}.{pairs}.purity_last"] = float(np.mean(last))
    induction = np.array(ends(record["purity"]["other ids"]["induction"]))
    claims[f"{name}.induction_other_ids.first"] = float(induction[0, 0])
    claims[f"{name}.induction_other_ids.last"] = float(induction[0, -1])
    claims[f"{name}.most_stable"] = float(max(max(v) for v in record["stability"].values()))
    claims[f"{name}.share_mixed"] = float(np.mean(np.array(record["verdict"]) == "mixed"))
    return claims


if __name__ == "__main__":
    written(measure, *map(Path, sys.argv[1:]))
