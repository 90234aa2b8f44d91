"""What figures 9 and 10 share: influence through a damped inverse curvature, over dampings."""

import warnings

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dlnflow.influence import ESTIMATORS, tracin
from dlnflow.influence.estimator import title
from dlnflow.plots import influence_plots
from paper_figures import _data, _scores, _style

TRAIN = "dog"
QUERIES = ("cat", "sparrow", "pine")
DAMPINGS = tuple(float(f"{value:.2g}") for value in np.geomspace(1e-2, 1e2, 7))
"""In units of the largest absolute eigenvalue of the Hessian at each checkpoint."""
EVERY = 3
"""Every how many recorded steps are checkpoints of these figures."""
DRAWN = (0.01, 0.22, 1.0, 100.0)
"""Dampings whose curves are drawn: those between the last two lie on each other."""
CURVE_STYLES = dict(zip(DRAWN, ((0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1)), "-"), strict=True))
COLORS = [mpl.colormaps["viridis"](shade) for shade in np.linspace(0, 0.92, len(DAMPINGS))]
END = 8.0
"""Flow time at the right edge."""
CLIP = 1.25
"""Range of the normalised curves."""
CROSS = {"linestyle": "", "marker": "x", "markersize": 2.6, "markeredgewidth": 0.6}
"""A checkpoint at which H + damping is indefinite."""
FAR = 1e4
"""Damping that stands for infinity."""
REFERENCES = ("leave_one_out", "tangent")


def draw(scale: _data.Scale, estimator: str) -> tuple[Figure, dict[str, float]]:
    """Upper row: dog on three queries. Lower row: where H + damping is positive, and agreement."""
    found = influence(scale, estimator)
    exact = {name: _data.influence(scale, name)[::EVERY] for name in REFERENCES}
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.9)
        upper, lower = figure.subfigures(2, 1, hspace=0.03, height_ratios=(1.15, 1))
        top = upper.subplots(1, len(QUERIES), sharey=True)
        for axis, query in zip(top, QUERIES, strict=True):
            _curves(axis, found, exact, query)
            _style.mark_levels(axis, _data.half_times(scale))
        top[0].set_ylabel(
            "influence / its largest value\n$\\leftarrow$ helps    harms $\\rightarrow$"
        )
        _key(upper, estimator)
        left, right = lower.subplots(1, 2, width_ratios=(1, 1.1))
        _stability(left, found, estimator)
        claims = _agreement(right, found, exact, _kernel(scale))
        _style.letters([*top, left, right])
    return figure, claims | _shares(found, estimator) | _limit(scale, estimator)


def influence(
    scale: _data.Scale, estimator: str, damping: tuple[float, ...] = DAMPINGS
) -> xr.DataArray:
    """Return all pairs over dampings and checkpoints.

    The estimator warns where H + damping is not positive definite; the figure shows it instead.
    """
    steps = _data.steps(scale)[::EVERY]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*is not positive definite", category=UserWarning
        )
        return ESTIMATORS[estimator](_data.run(), steps, damping=list(damping))


def positive(found: xr.DataArray) -> xr.DataArray:
    """Return where the matrix that is inverted is positive definite, over (damping, time)."""
    if found.attrs["estimator"] == "damped_gauss_newton":
        return found.added_to_diagonal > 0
    return found.smallest_eigenvalue + found.added_to_diagonal > 0


def _kernel(scale: _data.Scale) -> xr.DataArray:
    """Return the gradient kernel, up to a factor that does not depend on time."""
    return tracin(_data.run(), _data.steps(scale)[::EVERY], cumulative=False)


def _curves(axis: Axes, found: xr.DataArray, exact: dict[str, xr.DataArray], query: str) -> None:
    """One query: every damping, a line where positive definite, crosses where not."""
    time = found.flow_time.values
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    for value, row, fine, color in zip(
        DAMPINGS, found.sel(query=query, train=TRAIN), positive(found).values, COLORS, strict=True
    ):
        if value not in DRAWN:
            continue
        curve = row.values / np.abs(row.values[fine]).max()
        axis.plot(
            time,
            np.where(fine, curve, np.nan),
            color=color,
            linestyle=CURVE_STYLES[value],
            linewidth=1.3,
        )
        # Between indefinite checkpoints lie poles: nothing is joined, and what is out of range
        # is left out.
        pole = ~fine & (np.abs(curve) < CLIP)
        axis.plot(time[pole], curve[pole], color=color, **CROSS)
    for name in REFERENCES:
        curve = exact[name].sel(query=query, train=TRAIN)
        axis.plot(
            time,
            curve / np.abs(curve).max(),
            color=_style.ESTIMATOR_COLORS[name],
            linewidth=1.4,
            linestyle=(0, (4, 1.2)) if name == "tangent" else "-",
        )
    axis.set(xlim=(0, END), ylim=(-CLIP, CLIP), xlabel=_style.TIME)
    axis.set_title(f"{TRAIN} on {query} ({_data.kinship(TRAIN, query)})", pad=13)


def _key(figure: Figure, estimator: str) -> None:
    handles = [
        Line2D([], [], color=color, linestyle=CURVE_STYLES[value], label=f"$\\alpha$ = {value:g}")
        for value, color in zip(DAMPINGS, COLORS, strict=True)
        if value in DRAWN
    ]
    if estimator == "damped_hessian":
        handles.append(Line2D([], [], color="0.4", label="H + $\\lambda$ indefinite", **CROSS))
    handles += [
        Line2D(
            [],
            [],
            color=_style.ESTIMATOR_COLORS[name],
            label=title(name),
            linestyle=(0, (4, 1.2)) if name == "tangent" else "-",
            linewidth=1.4,
        )
        for name in REFERENCES
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=7, handlelength=2.2, columnspacing=1.2
    )


def _stability(axis: Axes, found: xr.DataArray, estimator: str) -> None:
    """Which dampings outweigh the most negative curvature of the loss, over training."""
    time = found.flow_time.values
    unit = (found.added_to_diagonal / found.damping).values[0]
    needed = np.maximum(-found.smallest_eigenvalue.values[0] / unit, 1e-9)
    low, high = DAMPINGS[0] / 3, DAMPINGS[-1] * 3
    blind = estimator == "damped_gauss_newton"
    patch = {"facecolor": "0.88", "edgecolor": "0.6", "linewidth": 0.0}
    axis.fill_between(time, low, np.maximum(needed, low), hatch="////", **patch)
    axis.plot(time, needed, color="0.3", linewidth=1.0)
    for value, color in zip(DAMPINGS, COLORS, strict=True):
        fine = (value > needed) | blind
        axis.plot(time[fine], np.full(fine.sum(), value), ".", color=color, markersize=2.4)
        axis.plot(time[~fine], np.full((~fine).sum(), value), color=color, **CROSS)
    axis.set(
        yscale="log",
        ylim=(low, high),
        xlim=(0, END),
        xlabel=_style.TIME,
        ylabel="relative damping $\\alpha = \\lambda\\,/\\,\\max|h|$",
    )
    axis.set_title(
        "hatched: H + $\\lambda$ indefinite" + (", F + $\\lambda$ is not" if blind else "")
    )


def _agreement(
    axis: Axes, found: xr.DataArray, exact: dict[str, xr.DataArray], kernel: xr.DataArray
) -> dict[str, float]:
    """Median Pearson with each reference against damping, quartiles shaded; the best of them.

    Open circles: H + damping is indefinite at some checkpoints.
    """
    claims: dict[str, float] = {}
    sound = positive(found).all("time").values
    for name, reference in exact.items():
        color = _style.ESTIMATOR_COLORS[name]
        pairs = np.stack([_scores.pearson(row, reference).ravel() for row in found])
        low, middle, high = np.quantile(pairs, (0.25, 0.5, 0.75), axis=1)
        axis.fill_between(DAMPINGS, low, high, color=color, alpha=0.12, linewidth=0)
        axis.plot(DAMPINGS, middle, "o-", color=color, markersize=3.5, label=f"with {title(name)}")
        best = int(np.argmax(middle))
        claims |= {
            f"{name}.best_pearson": middle[best],
            f"{name}.best_damping": DAMPINGS[best],
            f"gradient_kernel.{name}.pearson": _scores.median(kernel, reference),
        }
        axis.axhline(
            claims[f"gradient_kernel.{name}.pearson"],
            color=color,
            linewidth=0.8,
            linestyle=(0, (1, 1.5)),
            label="_" if name != "tangent" else "gradient kernel (each)",
        )
        if sound.all():  # else the first is a matter of how close a checkpoint is to a pole
            claims[f"{name}.pearson_at_least_damping"] = middle[0]
        axis.plot(np.array(DAMPINGS)[~sound], middle[~sound], "o", color="white", markersize=2.2)
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    axis.set(
        xscale="log",
        ylim=(-0.75, 1),
        xlabel="relative damping $\\alpha$",
        ylabel="Pearson over training\n(median and quartiles of pairs)",
    )
    axis.legend(loc="lower right", **_style.LEGEND)
    return {key: float(value) for key, value in claims.items()}


def _shares(found: xr.DataArray, estimator: str) -> dict[str, float]:
    """Return the share of checkpoints without a positive definite matrix, per damping."""
    if estimator == "damped_gauss_newton":
        return {"negative_eigenvalue.share": float((found.smallest_eigenvalue[0] < 0).mean())}
    shares = (~positive(found)).mean("time")
    return {
        f"indefinite.{value:g}": float(share) for value, share in zip(DAMPINGS, shares, strict=True)
    }


def _limit(scale: _data.Scale, estimator: str) -> dict[str, float]:
    """Return the correlation of damping times influence with the gradient kernel, as it grows."""
    strong = influence(scale, estimator, (DAMPINGS[-1], FAR))
    scaled = strong * strong.added_to_diagonal
    kernel = _kernel(scale).values.ravel()
    return {
        f"limit.{value:g}": float(np.corrcoef(row.values.ravel(), kernel)[0, 1])
        for value, row in zip(strong.damping.values, scaled, strict=True)
    }
