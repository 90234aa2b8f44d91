"""Figure "bif_against_exact": how well other measures predict the exact ones, in a ReLU network."""

import time
from functools import cache

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import dlnflow as dln
from dlnflow.influence import ESTIMATORS
from dlnflow.influence.estimator import title
from dlnflow.plots import influence_plots
from paper_figures import _data, _networks, _results, _style

STRENGTH, WIDTH = 1e-3, 32
"""The rich ReLU network of figure "nonlinear"."""
SPACING = {_data.Scale.quick: 8, _data.Scale.paper: 4}
"""Steps between checkpoints."""
DRAWS = {_data.Scale.quick: 300, _data.Scale.paper: 1500}
N_BETA, LOCALIZATION = 1e4, 5.0
"""Of the sampler; the localization is in units of n beta."""
REFERENCES = ("tangent", "leave_one_out")
NAMES = (
    "leave_one_out",
    "tangent",
    "dvemb",
    "bif",
    "tracin",
    "source",
    "damped_hessian",
    "damped_gauss_newton",
)
TRAIN, QUERY = "dog", "cat"
COLUMNS = (
    ("pearson tangent", "Pearson\ntangent", "{:.2f}"),
    ("pearson leave_one_out", "Pearson\nretraining", "{:.2f}"),
    ("trough tangent", "trough\ntangent", "{:+.2f}"),
    ("trough leave_one_out", "trough\nretraining", "{:+.2f}"),
    ("lds_others", "LDS", "{:.2f}"),
    ("seconds", "CPU s", "{:.1f}"),
)
"""Number, head of its column, and how it is written."""
COLORS = ("#D55E00", "#000000", "#0072B2", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "0.6")

HEADLINES = {
    "bif.pearson tangent": "bif against the exact tangent: Pearson {:.2f}",
    "bif.pearson leave_one_out": "against retraining {:.2f}",
    "tangent.pearson leave_one_out": "the tangent against retraining {:.2f}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Curves of one pair by all estimators, and a table of how well each predicts."""
    found = _results.saved("bif_against_exact", measures(scale))
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 2.9)
        curves, table = figure.subplots(1, 2, width_ratios=(0.85, 1.4))
        _curves(curves, found)
        _table(table, found)
        _style.letters([curves, table])
    claims = {
        f"{name}.{key}": float(found[key].sel(estimator=name))
        for name in NAMES
        for key, _, _ in COLUMNS
        if key != "seconds" and np.isfinite(found[key].sel(estimator=name))
    }
    return figure, claims | {"bif.mixed": float(found.mixed)}


@cache
def measures(scale: _data.Scale) -> xr.Dataset:
    """Curves of all estimators, and their agreement with the exact ones and with subsets."""
    run = _networks.run_of("relu", WIDTH, STRENGTH, 0)
    steps = np.arange(SPACING[scale], _networks.LENGTH + 1, SPACING[scale])
    curves, seconds = [], []
    for name in NAMES:
        started = time.process_time()
        curves.append(_estimated(run, name, steps, scale))
        seconds.append(time.process_time() - started)
    stacked = dln.stack(*curves)
    scores = dln.analysis.lds(run, stacked.isel(time=slice(1, None)))
    unit = run.learning_rate / len(run.items)
    parts: dict[str, object] = {
        "curves": (stacked.dims, stacked.values),
        "lds_others": ("estimator", scores.lds_others.mean("time").values),
        "lds": ("estimator", scores.lds.mean("time").values),
        "seconds": ("estimator", seconds),
        "mixed": float((stacked.verdict.sel(estimator="bif") == "mixed").mean()),
    }
    for reference in REFERENCES:
        summary = dln.analysis.summary(dln.compare(stacked, reference))
        rows = summary.reindex(NAMES)
        parts[f"pearson {reference}"] = "estimator", rows["pearson"].values
        parts[f"trough {reference}"] = "estimator", rows["trough_offset"].values * unit
    coords = {name: stacked[name].values for name in ("estimator", "query", "train")}
    return xr.Dataset(parts, coords | {"time": steps * unit})


def _estimated(run: dln.TorchRun, name: str, steps: np.ndarray, scale: _data.Scale) -> xr.DataArray:
    """One estimator at its defaults; bif with a kernel that makes draws nearly independent."""
    if name != "bif":
        return ESTIMATORS[name](run, steps)
    localization = LOCALIZATION * N_BETA
    return dln.influence.bif(
        run,
        steps,
        n_beta=N_BETA,
        localization=localization,
        step_size=2 / localization,
        draws=DRAWS[scale],
        burn_in=20,
        chains=4,
        kernel="underdamped",
        kernel_options={"persistence": 0.0},
    )


def _curves(axis: Axes, found: xr.Dataset) -> None:
    """Influence of one item on its sibling, each estimator over its own largest value."""
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    for name, color in zip(NAMES, COLORS, strict=True):
        curve = found.curves.sel(estimator=name, query=QUERY, train=TRAIN)
        axis.plot(
            found.time,
            curve / np.abs(curve).max(),
            color=color,
            linewidth=1.8 if name in REFERENCES else 1.1,
            zorder=3 if name in REFERENCES else 2,
            linestyle="-" if name in REFERENCES else (0, (4, 1)),
        )
    axis.set(
        xlabel="steps $\\times$ rate / items",
        ylabel="influence / largest",
        ylim=(-1.08, 1.08),
        title=f"{TRAIN} on {QUERY}",
    )
    axis.set_xlim(0, float(found.time[-1]))


def _table(axis: Axes, found: xr.Dataset) -> None:
    """One row per estimator in the colour of its curve; no entry where it is its own reference."""
    axis.set_axis_off()
    axis.set(xlim=(0, 1), ylim=(len(NAMES) + 0.2, -1.4))
    columns = np.linspace(0.47, 0.97, len(COLUMNS))
    for x, (_, head, _) in zip(columns, COLUMNS, strict=True):
        axis.text(x, -0.75, head, ha="center", va="center", fontsize=5.7)
    axis.plot((0, 1), (-0.1, -0.1), color="0.6", linewidth=0.6)
    for row, (name, color) in enumerate(zip(NAMES, COLORS, strict=True)):
        y = row + 0.5
        axis.plot((0.0, 0.05), (y, y), color=color, linewidth=2.0)
        axis.text(0.06, y, title(name).replace(" (", "\n("), va="center", fontsize=6.8)
        for x, (key, _, form) in zip(columns, COLUMNS, strict=True):
            value = float(found[key].sel(estimator=name))
            text = form.format(value) if np.isfinite(value) else "\u2013"
            axis.text(x, y, text, ha="center", va="center", fontsize=6.8)
