"""Figure "bif_against_exact": how well other measures predict the exact ones, in four models."""

import time
from functools import cache

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import dlnflow as dln
from dlnflow._support.command import requires
from dlnflow.influence import ESTIMATORS
from dlnflow.influence.estimator import title
from dlnflow.plots import influence_plots
from paper_figures import _data, _results, _small_models, _style

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
PANELS = (
    ("pearson tangent", "Pearson with tangent", "{:.2f}"),
    ("pearson leave_one_out", "Pearson with retraining", "{:.2f}"),
    ("offset leave_one_out", "peak offset, % of run", "{:+.0f}"),
    ("lds", "LDS", "{:.2f}"),
)
"""Number, title of its panel, and how it is written."""
LANGUAGE_PAIR = ("6:3", "likely")
"""A planted repeat on the loss of likely tokens."""
STILL = 1e-9
"""Change of a curve over time, relative to its size, that is rounding."""
COLORS = ("#D55E00", "#000000", "#0072B2", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "0.6")

HEADLINES = {
    "ReLU.bif.pearson tangent": "bif against the exact tangent: Pearson {:.2f} (ReLU network)",
    "language.bif.pearson tangent": "{:.2f} (language model)",
    "language.tangent.pearson leave_one_out": "there, the tangent against retraining {:.2f}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Curves of one pair by all estimators, and how well each predicts in every model."""
    requires("lm", "curvature")  # before the work, not after three of the models
    examples = _small_models.examples(scale)
    found = {
        key: _results.saved(f"bif_against_exact-{key}", measures(scale, key)) for key in examples
    }
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 5.2)
        upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.05), hspace=0.03)
        curves = upper.subplots(1, 2)
        _curves(curves[0], found["ReLU"], ("dog", "cat"))
        _curves(curves[1], found["language"], LANGUAGE_PAIR)
        handles, names = curves[0].get_legend_handles_labels()
        place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        curves[1].legend(handles, names, **place, **_style.LEGEND)
        tables = lower.subplots(1, len(PANELS), sharey=True)
        for axis, panel in zip(tables, PANELS, strict=True):
            _table(axis, found, panel)
        tables[0].set_yticks(range(len(NAMES)), [title(name) for name in NAMES])
        _style.letters([*curves, *tables])
    claims = {
        f"{key}.{name}.{panel}": float(one[panel].sel(estimator=name))
        for key, one in found.items()
        for name in NAMES
        for panel, _, _ in PANELS
        if np.isfinite(one[panel].sel(estimator=name))
    }
    return figure, claims | {f"{key}.bif.mixed": float(one.mixed) for key, one in found.items()}


@cache
def measures(scale: _data.Scale, key: str) -> xr.Dataset:
    """Curves of all estimators, and their agreement with the exact ones and with subsets."""
    example = _small_models.examples(scale)[key]
    run, steps = example.run(), list(example.steps)
    train = example.train(run)
    curves, seconds = [], []
    for name in NAMES:
        started = time.process_time()
        if name in example.without:
            curves.append(xr.full_like(curves[0], np.nan))
        else:
            options = example.sampling if name == "bif" else {}
            curves.append(ESTIMATORS[name](run, steps, train=train, **options))
        seconds.append(time.process_time() - started)
    verdicts = curves[NAMES.index("bif")].verdict
    known = [one for one in curves if bool(np.isfinite(one).all())]
    names = [name for name, one in zip(NAMES, curves, strict=True) if np.isfinite(one).all()]
    stacked = dln.stack(*known)
    scores = dln.analysis.lds(run, stacked, subsets=example.subsets).lds_others.mean("time")
    values = np.stack([one.transpose("time", "query", "train").values for one in curves])
    parts: dict[str, object] = {
        "curves": (("estimator", "time", "query", "train"), values),
        "lds": ("estimator", _all(scores.values, names)),
        "seconds": ("estimator", seconds),
        "mixed": float((verdicts == "mixed").mean()),
    }
    for reference in REFERENCES:
        pearson, offset = _agreement(values, NAMES.index(reference), curves[0], run)
        parts[f"pearson {reference}"] = "estimator", pearson
        parts[f"offset {reference}"] = "estimator", offset
    coords = {
        "estimator": list(NAMES),
        "time": steps,
        "query": curves[0]["query"].values,
        "train": curves[0]["train"].values,
    }
    return xr.Dataset(parts, coords, {"name": example.name})


def _all(values: np.ndarray, names: list[str]) -> np.ndarray:
    """Values of all estimators, NaN for those that have none."""
    found = dict(zip(names, values, strict=True))
    return np.array([found.get(name, np.nan) for name in NAMES])


def _agreement(
    values: np.ndarray, reference: int, labels: xr.DataArray, run: object
) -> tuple[np.ndarray, np.ndarray]:
    """Medians over pairs of different items: Pearson over time, and offset of the largest |value|.

    Offsets are shares of the run in percent. NaN for the reference itself, and for what does not
    change over time.
    """
    pairs = ~np.equal.outer(labels["query"].values, labels["train"].values)
    time = labels.time.values
    chosen = values[:, :, pairs]  # (estimator, T, pairs)
    moved = chosen - chosen.mean(1, keepdims=True)
    norm = np.sqrt((moved**2).sum(1))
    still = ~(norm > STILL * np.abs(chosen).max(1))  # constant, or not known
    with np.errstate(invalid="ignore", divide="ignore"):
        each = (moved * moved[reference]).sum(1) / (norm * norm[reference])
    when = time[np.abs(np.nan_to_num(chosen)).argmax(1)]
    unknown = still.any(1)
    unknown[reference] = True
    offset = 100 * np.median(when - when[reference], axis=1) / run.n_steps
    return tuple(np.where(unknown, np.nan, one) for one in (np.median(each, axis=1), offset))


def _curves(axis: Axes, found: xr.Dataset, pair: tuple[str, str]) -> None:
    """Influence of one item on a query, each estimator over its own largest value."""
    train, query = pair
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    for name, color in zip(NAMES, COLORS, strict=True):
        curve = found.curves.sel(estimator=name, query=query, train=train)
        if not bool(np.isfinite(curve).all()):
            continue
        axis.plot(
            found.time,
            curve / np.abs(curve).max(),
            color=color,
            linewidth=1.8 if name in REFERENCES else 1.1,
            zorder=3 if name in REFERENCES else 2,
            linestyle="-" if name in REFERENCES else (0, (4, 1)),
            label=title(name),
        )
    axis.set(
        xlabel="step",
        ylabel="influence / largest",
        ylim=(-1.08, 1.08),
        title=f"{found.attrs['name']}: {train} on {query}",
    )
    axis.set_xlim(0, float(found.time[-1]))


def _table(axis: Axes, found: dict[str, xr.Dataset], panel: tuple[str, str, str]) -> None:
    """One number for every estimator (rows) and model (columns), in colour and in words."""
    key, head, form = panel
    values = np.stack([one[key].values for one in found.values()], 1)
    limit = 50.0 if "offset" in key else 1.0
    axis.imshow(values, cmap="RdBu" if limit == 1 else "PuOr", vmin=-limit, vmax=limit,
                aspect="auto", alpha=0.75)  # fmt: skip
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        text = form.format(value) if np.isfinite(value) else "\u2013"
        axis.text(column, row, text, ha="center", va="center", fontsize=6)
    axis.set_title(head, fontsize=7)
    axis.set_xticks(range(len(found)), list(found), rotation=35, ha="right")
    axis.tick_params(length=0)
