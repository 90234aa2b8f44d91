"""Figure susceptibility: which layer of a network, or part of a model, carries influence."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow.plots import influence_plots
from dlnflow.traces import susceptibility
from paper_figures import _data, _layers, _style, component_responses

ITEM = "dog"
CHOSEN = _layers.Chosen(1e4, 1.0)
LAYERS = {"layer1": 1, "layer2": 2}
COLORS = {"self": "0.35"} | _style.KINSHIP_COLORS

HEADLINES = {
    "within_3_errors": "{:.1%} of the sampled entries within 3 standard errors of the closed form",
    "layer1.others": "layer 1 carries none of the response to other items: {:.2g} of its own",
    "layer2.sibling.flip": "layer 2: siblings turn from help to harm at flow time {:.2f}",
}


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Response of one item's loss, layer by layer, and z-scores; then of language models."""
    claims: dict[str, float] = {}
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 2.7 + 6.6)
        toy, language = figure.subfigures(2, height_ratios=[2.7, 6.6])
        axes = toy.subplots(1, 4)
        scores = []
        for axis, (name, layer) in zip(axes, LAYERS.items(), strict=False):
            found, closed = _response(scale, name), _closed(scale, layer)
            z = (found.values - closed) / found.standard_error.values
            # what cannot move has neither a value nor an error
            scores.append(z[found.standard_error.values > 1e-9 * np.abs(closed).max()])
            claims |= _draw_layer(axis, scale, found, closed, name)
            claims[f"{name}.share_mixed"] = float((found.verdict == "mixed").mean())
        whole = _response(scale, None)
        _draw_whole(axes[2], scale, whole)
        claims["whole.share_mixed"] = float((whole.verdict == "mixed").mean())
        z = np.concatenate(scores)
        claims |= {
            "within_3_errors": float(np.mean(np.abs(z) <= 3)),
            "spread_of_z": float(np.std(z)),
        }
        _draw_scores(axes[3], z)
        axes[0].legend(title="weight of", title_fontsize=7, **_style.LEGEND)
        axes[0].set_ylabel("response of the loss of dog\n(loss per item weight; negative helps)")
        for axis in axes[:3]:
            axis.set_xlabel("flow time")
        _style.letters(axes)
        claims |= component_responses.draw(language, "e")
    return figure, claims


def _response(scale: _data.Scale, restrict: str | None) -> xr.DataArray:
    """Sampled response of the loss of one item to the weight of every item."""
    traces = _layers.sampled(scale, restrict, CHOSEN)
    loss = traces.sel(item=ITEM).reset_coords(drop=True).rename(f"loss of {ITEM}")
    return susceptibility(traces, observable=loss, perturbation="weight")


def _closed(scale: _data.Scale, layer: int) -> np.ndarray:
    """Return the same in closed form, (T, N)."""
    position = list(_data.run().task.items).index(ITEM)
    factor = -CHOSEN.n_beta / _data.run().task.n_items
    return np.stack([factor * e.covariance[position] for e in _layers.exact(scale, layer, CHOSEN)])


def _draw_layer(
    axis: Axes, scale: _data.Scale, found: xr.DataArray, closed: np.ndarray, name: str
) -> dict[str, float]:
    time = _data.run().flow_time(_layers.steps(scale))
    exact, dots = _layers.by_kinship(closed), _layers.by_kinship(found.values)
    claims = {}
    for kin, color in COLORS.items():
        axis.plot(time, exact[kin], color=color, linewidth=1.1, label=_label(kin))
        axis.plot(time[::2], dots[kin][::2], "o", color=color, markersize=2.2, markeredgewidth=0)
        claims[f"{name}.{kin}.lowest"] = float(exact[kin].min())
        claims[f"{name}.{kin}.highest"] = float(exact[kin].max())
    axis.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    axis.set_title(f"only {name[:-1]} {name[-1]} moves", pad=16)
    _style.mark_levels(axis, _data.half_times(scale))
    if name == "layer1":
        others = np.delete(closed, list(_data.run().task.items).index(ITEM), axis=1)
        claims = {"layer1.others": float(np.abs(others).max() / np.abs(closed).max())}
        return claims | {"layer1.self.lowest": float(exact["self"].min())}
    flip = np.flatnonzero((exact["sibling"][:-1] < 0) & (exact["sibling"][1:] >= 0))[-1]
    a, b = exact["sibling"][flip : flip + 2]
    claims["layer2.sibling.flip"] = float(time[flip] - a * (time[flip + 1] - time[flip]) / (b - a))
    return claims


def _draw_whole(axis: Axes, scale: _data.Scale, found: xr.DataArray) -> None:
    time = _data.run().flow_time(_layers.steps(scale))
    for kin, values in _layers.by_kinship(found.values).items():
        axis.plot(time, values, "o", color=COLORS[kin], markersize=2.2, markeredgewidth=0)
    axis.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    axis.set_title("all weights move", pad=16)
    _style.mark_levels(axis, _data.half_times(scale))


def _draw_scores(axis: Axes, z: np.ndarray) -> None:
    edges = np.linspace(-4, 4, 33)
    axis.hist(np.clip(z, -4, 4), edges, density=True, color="0.75")
    middle = np.linspace(-4, 4, 200)
    axis.plot(middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), color="black", linewidth=0.9)
    axis.set_title("sampled against exact", pad=16)
    axis.set(xlabel="(sampled - exact) / error", yticks=[])
    axis.spines["left"].set_visible(False)


def _label(kin: str) -> str:
    return {"self": "dog", "sibling": "cat (sibling)", "cousin": "cousins", "far": "far"}[kin]
