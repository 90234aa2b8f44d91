"""Two-layer networks with a nonlinearity on the semantic hierarchy, from lazy to rich."""

from functools import cache

import numpy as np
import torch
import xarray as xr
from torch import nn

import dlnflow as dln
from dlnflow._support import FloatArray

ACTIVATIONS = {"linear": lambda x: x, "tanh": torch.tanh, "relu": torch.relu}
FLOOR = 0.1
"""Share of the largest |value| of a curve beyond which an event counts."""
LENGTH = 200
DURATION = 8.0
"""Flow time of a run from a small start; the lazy limit is faster in proportion to its kernel."""
POINTS = 100
WINDOW = 10
LEVELS = 4


class Network(nn.Module):
    """B phi(A x), minus the same at the start, so that training begins from zero.

    Entries of A (h, 8) and B (15, h) are drawn with variance strength / h: the kernel at the start
    is about 2 strength for a linear network, whatever its width.
    """

    def __init__(self, activation: str, width: int, strength: float, seed: int) -> None:
        super().__init__()
        generator = np.random.default_rng(seed)
        task, std = dln.semantic_hierarchy(), np.sqrt(strength / width)
        shapes = {"a": (width, task.n_in), "b": (task.n_out, width)}
        for name, shape in shapes.items():
            start = torch.tensor(std * generator.standard_normal(shape))
            setattr(self, name, nn.Parameter(start.clone()))
            self.register_buffer(f"{name}_start", start)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (n, 15) for inputs (n, 8)."""
        now = self.activation(x @ self.a.T) @ self.b.T
        return now - self.activation(x @ self.a_start.T) @ self.b_start.T


def run_of(activation: str, width: int, strength: float, seed: int) -> dln.TorchRun:
    """Return gradient descent at a step far below the stable one, both at the start and later."""
    task = dln.semantic_hierarchy()
    rate = DURATION / LENGTH / max(1.0, 4 * strength) * task.n_items
    return dln.TorchRun(
        Network(activation, width, strength, seed),
        (task.x.T, task.y.T),
        items=task.items,
        learning_rate=rate,
        n_steps=LENGTH,
    )


@cache
def measured(activation: str, width: int, strength: float, seed: int) -> xr.Dataset:
    """Curves of one network, its transitions, and what of the predictions holds."""
    run = run_of(activation, width, strength, seed)
    steps = np.unique(np.linspace(0, LENGTH, POINTS).round().astype(int))
    starts = np.arange(0, LENGTH - WINDOW + 1, WINDOW // 2)
    exact, retrained = (f(run, steps) for f in (dln.influence.tangent, dln.influence.leave_one_out))
    windows = dln.influence.windowed(run, starts, window=WINDOW)
    transitions, final = _transitions(run, steps)
    table = dln.compare(dln.stack(exact, retrained))
    table = table[table["query"] != table["train"]]
    found = {
        "flips": _flips(exact),
        "flips_retrained": _flips(retrained),
        "stages": transitions[-1] / transitions[0],
        "distance": _distance(exact, transitions),
        "order": _order(exact),
        "order_windows": _order(windows),
        "pearson": table["pearson"].median(),
        "size": _size(exact),
        "learned": final,
    }
    # Flow time of a linear network; for others it is just steps of this size.
    unit = run.learning_rate / len(run.items)
    curves = {"exact": exact, "retrained": retrained}
    parts = {name: (curve.dims, curve.values) for name, curve in curves.items()}
    parts["windows"] = (("start", "query", "train"), windows.values)
    parts["transitions"] = ("level", transitions * unit)
    coords = {name: exact[name].values for name in ("query", "train")}
    coords |= {"time": steps * unit, "start": starts * unit}
    return xr.Dataset(parts | {name: float(value) for name, value in found.items()}, coords)


def _transitions(run: dln.TorchRun, steps: np.ndarray) -> tuple[FloatArray, float]:
    """Steps at which the mean strength of each level passes half of s; share learned at the end."""
    task = dln.semantic_hierarchy()
    inputs = torch.eye(task.n_items, dtype=torch.float64)
    maps = np.stack(
        [torch.func.functional_call(run.model, w, (inputs,)).T.numpy() for w in run.weights(steps)]
    )
    when, final = [], []
    for block in task.modes.blocks:
        u, v, s = task.modes.u[:, block], task.modes.v[:, block], task.modes.s[block[0]]
        strength = np.einsum("dj,tdn,nj->t", u, maps, v) / len(block) / s
        when.append(np.interp(0.5, np.maximum.accumulate(strength), steps))
        final.append(strength[-1])
    return np.array(when), min(final)


def _flips(curves: xr.DataArray) -> float:
    """Share of pairs of different items with a sign flip beyond `FLOOR`."""
    table = dln.events(curves, FLOOR * np.abs(curves).max("time").reset_coords(drop=True))
    table = table[(table["query"] != table["train"]) & (table["kind"] == "sign_flip")]
    return table.groupby(["query", "train"]).ngroups / (8 * 7)


def _different(values: FloatArray) -> FloatArray:
    """Curves of different items, shape (T, 56)."""
    return values[:, ~np.eye(8, dtype=bool)]


def _distance(curves: xr.DataArray, transitions: FloatArray) -> float:
    """Median distance of the largest |value| from the next transition, over that of chance.

    Chance is a time drawn evenly between 0 and 1.2 times the last transition.
    """

    def nearest(times: FloatArray) -> float:
        return float(np.median(np.abs(times[:, None] - transitions).min(1)))

    time = curves.time.values
    kept = time <= 1.2 * transitions[-1]
    largest = time[kept][np.abs(_different(curves.values[kept])).argmax(0)]
    return nearest(largest) / nearest(np.linspace(0, 1.2 * transitions[-1], 2001))


def _order(curves: xr.DataArray) -> float:
    """Share of (item, sibling, cousin) whose cousin is helped most before the sibling is."""
    when = curves.values.argmin(0)  # (query, train)
    right, count = 0.0, 0
    for item in range(8):
        sibling = item ^ 1
        for cousin in (item ^ 2, item ^ 3):
            count += 1
            early, late = when[cousin, item], when[sibling, item]
            right += 0.5 if early == late else float(early < late)
    return right / count


def _size(curves: xr.DataArray) -> float:
    """Median over pairs of the largest |value|, relative to that of an item on itself."""
    largest = np.abs(curves.values).max(0)
    return float(np.median(largest[~np.eye(8, dtype=bool)]) / np.median(np.diag(largest)))
