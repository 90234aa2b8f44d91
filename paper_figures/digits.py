"""Figure "digits": which classes of digits help and harm which, and when, in a dense network."""

from dataclasses import dataclass
from functools import cache

import matplotlib as mpl
import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

import dlnflow as dln
from dlnflow import result
from dlnflow._support import FloatArray
from dlnflow.plots import influence_plots
from paper_figures import _data, _results, _style

CLASSES = 10
PER_CLASS = {_data.Scale.quick: 20, _data.Scale.paper: 50}
"""Training items of a class; there are as many held-out ones."""
WIDTH = {_data.Scale.quick: 32, _data.Scale.paper: 64}
LENGTH = {_data.Scale.quick: 400, _data.Scale.paper: 800}
RATE = 0.5
POINTS = 40
LESS = 0.1
"""How much of a class's weight is removed by retraining."""
MOMENTS = (8, 60, 400)
"""Steps whose matrices are drawn, and whose numbers are claimed."""
SHOWN = 4
"""Pairs of classes with the strongest harm at the end, drawn over time."""
FLOOR = 0.1
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")

HEADLINES = {
    "retraining.pearson": "class influence against retraining: Pearson {:.4f}",
    "confusion at 400": "against the confusions of the network at step 400: {:.2f}",
    "flips": "{:.0%} of pairs of classes change sign",
}
"""Claims that the runner prints, as sentences."""


@dataclass(frozen=True)
class Digits:
    """A run whose queries are held-out digits, and the classes of items and queries."""

    run: dln.TorchRun
    train: np.ndarray
    held_out: np.ndarray


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Learning, class influence at three moments, and its strongest pairs over training."""
    found = _results.saved("digits", measures(scale))
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.7)
        upper, lower = figure.subfigures(2, 1, hspace=0.03, height_ratios=(1.08, 1))
        maps = upper.subplots(1, 3)
        for axis, step in zip(maps, MOMENTS, strict=True):
            image = _matrix(axis, _at(found, step))
        bar = upper.colorbar(image, ax=list(maps), shrink=0.8, ticks=(-1, 0, 1))
        bar.ax.set_yticklabels(["helps", "0", "harms"])
        learning, pairs, agreement = lower.subplots(1, 3, width_ratios=(0.8, 1.2, 0.9))
        _learning(learning, found)
        _pairs(pairs, found)
        _agreement(agreement, found)
        _style.letters([*maps, learning, pairs, agreement])
    return figure, _claims(found)


@cache
def digits(scale: _data.Scale) -> Digits:
    """Take as many training items as held-out ones of every class, and describe the run."""
    images, labels = load_digits(return_X_y=True)
    generator, count = np.random.default_rng(0), PER_CLASS[scale]
    chosen = np.stack(
        [
            generator.choice(np.flatnonzero(labels == digit), 2 * count, replace=False)
            for digit in range(CLASSES)
        ]
    )
    train, held_out = (part.ravel() for part in np.split(chosen, 2, axis=1))
    torch.manual_seed(0)
    width = WIDTH[scale]
    model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, CLASSES)).double()
    run = dln.TorchRun(
        model,
        (images[train] / 16, labels[train]),
        loss="cross_entropy",
        learning_rate=RATE,
        n_steps=LENGTH[scale],
        items=[f"{labels[k]} ({k})" for k in train],
        queries=([f"held-out {labels[k]} ({k})" for k in held_out],)
        + (images[held_out] / 16, labels[held_out]),
    )
    return Digits(run, labels[train], labels[held_out])


@cache
def measures(scale: _data.Scale) -> xr.Dataset:
    """Class influence by derivative and retraining, and probabilities of held-out digits."""
    data, length = digits(scale), LENGTH[scale]
    steps = np.unique(np.r_[0, MOMENTS, np.geomspace(1, length, POINTS).round()].astype(int))
    directions = (data.train == np.arange(CLASSES)[:, None]).astype(float)
    exact = data.run.tangents(steps, directions)
    weights = np.vstack([np.ones(len(data.train)), 1 - LESS * directions])
    losses = data.run.losses(steps, weights)
    retrained = np.moveaxis(losses[0] - losses[1:], 0, -1) / LESS
    probability = _probabilities(data, steps)
    right = np.argmax(probability, -1) == data.held_out
    dims = "time", "query", "train"
    return xr.Dataset(
        {
            "exact": (dims, _by_class(exact, data.held_out)),
            "retrained": (dims, _by_class(retrained, data.held_out)),
            "confusion": (dims, _by_class(probability, data.held_out)),
            "loss": ("time", losses[0].mean(1)),
            "accuracy": ("time", right.mean(1)),
        },
        {"time": steps, "query": np.arange(CLASSES), "train": np.arange(CLASSES)},
    )


def _probabilities(data: Digits, steps: np.ndarray) -> FloatArray:
    """Probability of every class for held-out digits, shape (T, n, 10)."""
    inputs = data.run.problem.queried[0]
    outputs = [
        torch.func.functional_call(data.run.model, w, (inputs,)) for w in data.run.weights(steps)
    ]
    return torch.stack(outputs).softmax(-1).numpy()


def _by_class(values: FloatArray, labels: np.ndarray) -> FloatArray:
    """Means over the queries of a class, shape (T, 10, ...)."""
    return np.stack([values[:, labels == digit].mean(1) for digit in range(CLASSES)], axis=1)


def _others(values: xr.DataArray) -> FloatArray:
    """Entries of different classes, last axis 90."""
    return values.values[..., ~np.eye(CLASSES, dtype=bool)]


def _at(found: xr.Dataset, step: int) -> xr.DataArray:
    return found.exact.sel(time=step)


def _matrix(axis: Axes, influence: xr.DataArray) -> mpl.image.AxesImage:
    """Influence of classes (columns) on classes (rows), over the largest of different ones."""
    largest = np.abs(_others(influence)).max()
    image = axis.imshow(influence / largest, cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set(xlabel="train class", xticks=range(CLASSES), yticks=range(CLASSES))
    axis.tick_params(length=0)
    axis.set_title(f"step {int(influence.time)}, colour to $\\pm${largest:.2g}")
    if int(influence.time) == MOMENTS[0]:
        axis.set_ylabel("held-out class")
    return image


def _learning(axis: Axes, found: xr.Dataset) -> None:
    """Loss and accuracy of held-out digits."""
    for name, color, label in (
        ("loss", "#0072B2", "loss (nats)"),
        ("accuracy", "#D55E00", "share right"),
    ):
        axis.plot(found.time, found[name], color=color, linewidth=1.3, label=label)
    axis.set(xscale="symlog", xlabel="step", ylim=(0, None), title="held-out digits")
    axis.set_xlim(0, float(found.time[-1]))
    axis.legend(**_style.LEGEND)


def _strongest(found: xr.Dataset) -> list[tuple[int, int]]:
    """(held-out class, train class) with the strongest harm at the end."""
    last = found.exact[-1].values.copy()
    np.fill_diagonal(last, -np.inf)
    flat = np.argsort(last, axis=None)[::-1][:SHOWN]
    return [(int(k // CLASSES), int(k % CLASSES)) for k in flat]


def _pairs(axis: Axes, found: xr.Dataset) -> None:
    """The strongest pairs over training: derivative and retraining."""
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    for color, (query, train) in zip(COLORS, _strongest(found), strict=True):
        one = found.sel(query=query, train=train)
        axis.plot(found.time, one.exact, color=color, linewidth=1.3, label=f"{train}s on {query}s")
        axis.plot(found.time, one.retrained, color=color, linewidth=1.1, linestyle=(0, (2, 1.5)))
    axis.set(xscale="symlog", xlabel="step", title="strongest harm (dashed: retraining)")
    axis.set_ylabel("influence (loss per weight)")
    axis.set_xlim(0, float(found.time[-1]))
    axis.legend(loc="upper left", **_style.LEGEND)


def _confusions(found: xr.Dataset) -> FloatArray:
    """Correlation over pairs of classes of influence and confusion, every step but the first."""
    pairs = zip(_others(found.exact[1:]), _others(found.confusion[1:]), strict=True)
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs])


def _agreement(axis: Axes, found: xr.Dataset) -> None:
    """Correlation over the 90 pairs of different classes, at every step."""
    both = zip(_others(found.exact[1:]), _others(found.retrained[1:]), strict=True)
    time = found.time[1:]
    axis.plot(
        time,
        [np.corrcoef(a, b)[0, 1] for a, b in both],
        color="0.3",
        linestyle=(0, (2, 1.5)),
        linewidth=1.2,
        label=f"retraining, {LESS:.0%} less",
    )
    axis.plot(time, _confusions(found), color="black", linewidth=1.3, label="confusions")
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    axis.set(xscale="log", xlabel="step", ylim=(-0.25, 1.08), title="influence against")
    axis.set_ylabel("Pearson over pairs")
    axis.legend(loc="lower right", **_style.LEGEND)


def _claims(found: xr.Dataset) -> dict[str, float]:
    names = [str(k) for k in range(CLASSES)]
    time = found.time.values
    curves = result.influence(
        found.exact.values, time, names, names, estimator="tangent", flow_time=np.nan * time
    )
    table = dln.events(curves, FLOOR * np.abs(curves).max("time").reset_coords(drop=True))
    flips = table[(table["query"] != table["train"]) & (table["kind"] == "sign_flip")]
    exact, retrained = (_others(found[name]).ravel() for name in ("exact", "retrained"))
    claims = {
        "retraining.pearson": float(np.corrcoef(exact, retrained)[0, 1]),
        "flips": flips.groupby(["query", "train"]).ngroups / (CLASSES * (CLASSES - 1)),
        "accuracy": float(found.accuracy[-1]),
        "harmed by 8s": float(found.exact[-1].sel(train=8).values.argmax()),
    }
    for step in MOMENTS:
        now = _at(found, step)
        claims[f"harm at {step}"] = float((_others(now) > 0).mean())
        claims[f"confusion at {step}"] = float(_confusions(found)[list(time[1:]).index(step)])
        own = np.abs(np.diag(now)).mean()
        claims[f"others over own at {step}"] = float(np.abs(_others(now)).mean() / own)
    return claims
