"""Loss traces, the only thing that crosses the torch border; numpy and xarray only.

A DataArray `losses` with dims (time, chain, draw, item). Its coordinate `checkpoint_loss`
(time, item) holds the losses at the checkpoint itself, its attributes what the posterior was:
n_beta, localization, n_train (N), n_parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import checks
from dlnflow._support import FloatArray

DIMS = ("time", "chain", "draw", "item")
ROWS = 64
"""Draws that are held in float64 at the same time."""
LEAST_DRAWS = 4
"""Fewer give no variance of each half of a chain."""


class KeptSums(ABC):
    """What was kept in place of the losses of items."""

    @abstractmethod
    def judged(self) -> list[Any]:
        """Return the worst R-hat and the smallest ESS, and which chains diverged, by checkpoint."""

    @abstractmethod
    def mean_losses(self) -> xr.DataArray:
        """Return the mean loss over all items as loss traces with one item."""

    @abstractmethod
    def item_means(self) -> xr.DataArray:
        """Return the mean over the items at every draw, dims (time, chain, draw)."""

    @abstractmethod
    def item_excess(self) -> list[FloatArray]:
        """Return E[l_k] - l_k(theta_t) of every kept chain and item, (chains, K), by checkpoint."""

    @abstractmethod
    def averages(self, members: FloatArray, names: Sequence[str]) -> xr.DataArray:
        """Return the mean losses of classes, or of all items, as loss traces in float64."""

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Return numbers of checkpoints, chains, draws and items."""


def labelled(
    losses: ArrayLike,
    *,
    time: ArrayLike,
    items: Sequence[str],
    checkpoint_loss: ArrayLike,
    attrs: dict[str, Any],
) -> xr.DataArray:
    """Return loss traces as a labelled array.

    Parameters
    ----------
    losses : array, shape (T, chains, draws, K)
        Losses of the observed items.
    time : array of int, shape (T,)
        Optimiser steps of the checkpoints.
    items : sequence of str, length K
        Names of the observed items.
    checkpoint_loss : array, shape (T, K)
        Losses at the checkpoints.
    attrs : dict
        Needs n_beta, localization, n_train and n_parameters; the rest is kept for the record.

    Returns
    -------
    DataArray, dims (time, chain, draw, item)
        Named "losses".

    Raises
    ------
    ValueError
        If the posterior is not described, or items have not one name each.
    """
    missing = {"n_beta", "localization", "n_train", "n_parameters"} - set(attrs)
    if missing:
        raise ValueError(f"`attrs` of loss traces must have {sorted(missing)}.")
    if len(set(items)) != len(items):
        raise ValueError("`items` must be different names.")
    losses = np.asarray(losses)
    if losses.ndim != 4 or len(items) != losses.shape[3]:
        raise ValueError(
            f"`items` must name the last axis of `losses` (time, chain, draw, item); got "
            f"{len(items)} names and shape {losses.shape}."
        )
    return xr.DataArray(
        losses,
        dims=DIMS,
        coords={
            "time": np.atleast_1d(np.asarray(time, dtype=np.int64)),
            "chain": np.arange(losses.shape[1]),
            "item": list(items),
            "checkpoint_loss": (("time", "item"), np.asarray(checkpoint_loss, dtype=np.float64)),
        },
        attrs=attrs,
        name="losses",
    )


def check_start(checkpoint_loss: ArrayLike, time: ArrayLike) -> None:
    """Refuse to sample around a checkpoint whose losses are not finite.

    Raises
    ------
    ValueError
        Naming the first such checkpoint.
    """
    bad = ~np.isfinite(np.asarray(checkpoint_loss)).all(axis=-1)
    if bad.any():
        step = np.atleast_1d(time)[int(np.argmax(bad))]
        raise ValueError(
            f"the losses at checkpoint {step} are not finite; there is no posterior around it. "
            "Check the weights and the learning rate of that run."
        )


def check_traces(traces: xr.DataArray) -> xr.DataArray:
    """Return loss traces in the order (time, chain, draw, item).

    Returns
    -------
    DataArray, dims (time, chain, draw, item)

    Raises
    ------
    TypeError
        If it is not a DataArray.
    ValueError
        If dims, attributes or the coordinate checkpoint_loss are missing, an attribute is out of
        range, losses are no real numbers, item names repeat, or there are fewer than four draws.
    """
    if isinstance(traces, KeptSums):
        raise ValueError(
            "`traces` are class sums, which hold no losses of single items; `groups`, `summary`, "
            "`diverged` and `llc` take them. Keep the losses of tokens for anything else."
        )
    if not isinstance(traces, xr.DataArray):
        raise TypeError(f"`traces` must be an xarray.DataArray, got {type(traces).__name__}.")
    if set(traces.dims) != set(DIMS):
        raise ValueError(
            f"`traces` must have dims (time, chain, draw, item), got {traces.dims}; a single "
            "checkpoint is traces.expand_dims(time=[step])."
        )
    missing = {"n_beta", "n_train", "n_parameters"} - set(traces.attrs)
    if missing or "checkpoint_loss" not in traces.coords:
        raise ValueError(
            f"`traces` must say what was sampled: attributes {sorted(missing)} or the coordinate "
            "`checkpoint_loss` are missing. Build them with dlnflow.traces.format.labelled."
        )
    checks.positive("n_beta", traces.attrs["n_beta"], hint="It is an attribute of `traces`.")
    for name in ("n_train", "n_parameters"):
        checks.positive_integer(name, traces.attrs[name])
    _check_values(traces)
    if traces.sizes["draw"] < LEAST_DRAWS:
        raise ValueError(
            f"`traces` have {traces.sizes['draw']} draws; a covariance with an error bar needs at "
            f"least {LEAST_DRAWS}. Sample more."
        )
    return traces.transpose(*DIMS)


def _check_values(traces: xr.DataArray) -> None:
    """Check the kind of losses and what labels them; nothing is read.

    Raises
    ------
    ValueError
        If losses are no real numbers, there are none, or labels do not fit the items.
    """
    if traces.dtype.kind not in "iuf":
        raise ValueError(f"`traces` must be real numbers, losses in nats; got {traces.dtype}.")
    empty = [dim for dim in ("time", "chain", "item") if traces.sizes[dim] == 0]
    if empty:
        raise ValueError(f"`traces` have no {empty[0]}: sizes {dict(traces.sizes)}.")
    if set(traces.checkpoint_loss.dims) != {"time", "item"}:
        raise ValueError(
            "`traces` must have the coordinate `checkpoint_loss` of dims (time, item), got "
            f"{traces.checkpoint_loss.dims}."
        )
    if not traces.get_index("item").is_unique:
        raise ValueError("`traces` must have different names of items.")


def enough_draws(traces: xr.DataArray, differences: bool) -> xr.DataArray:
    """Return loss traces in standard order, refused where differences of draws are too few.

    Raises
    ------
    TypeError
        If they are no DataArray.
    ValueError
        If they are no loss traces, have too few draws, or `differences` is neither True nor False.
    """
    traces = check_traces(traces)
    least = LEAST_DRAWS + checks.flag("differences", differences)
    if traces.sizes["draw"] < least:
        raise ValueError(
            f"`traces` have {traces.sizes['draw']} draws; a covariance with an error bar needs at "
            f"least {least}. Sample more: the store continues the chains."
        )
    return traces


def at(traces: xr.DataArray, t: int) -> NDArray:
    """Return the losses of one checkpoint as they are stored, read now if they lie on disk.

    Parameters
    ----------
    traces : DataArray
        From `check_traces`.
    t : int
        Position of the checkpoint.

    Returns
    -------
    (chains, draws, K) array
        All chains.
    """
    return traces.variable.isel(time=t).values


def mean_excess(losses: NDArray, start: NDArray) -> NDArray:
    """Return the mean of losses (chains, draws, K) over items, from excesses over `start` (K,)."""
    # differences first: the excess may be far smaller than the losses; draw by draw, for memory
    with np.errstate(invalid="ignore", over="ignore"):
        excess = [[(draw - start).mean() for draw in chain] for chain in losses]
    return np.array(excess) + start.mean()


def averages(losses: NDArray, weights: FloatArray) -> FloatArray:
    """Return weighted means (chains, draws, G) of losses (chains, draws, K), in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.stack(
            [
                np.concatenate([chain[k : k + ROWS] @ weights for k in range(0, len(chain), ROWS)])
                for chain in losses
            ]
        )


def item_means(traces: xr.DataArray | KeptSums) -> xr.DataArray:
    """Return the mean loss over the items at every draw, one checkpoint in memory at a time.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.

    Returns
    -------
    DataArray, dims (time, chain, draw), float64
        Not finite where a loss is not; with the mean losses at the checkpoints as coordinate.
    """
    if isinstance(traces, KeptSums):
        return traces.item_means()
    traces = check_traces(traces)
    with np.errstate(invalid="ignore", over="ignore"):
        values = [at(traces, t).mean(-1, dtype=np.float64) for t in range(len(traces))]
    start = traces.checkpoint_loss.transpose("time", "item").values.mean(1)
    return means_of_items(np.stack(values), traces.time.values, start)


def means_of_items(values: FloatArray, time: NDArray, start: FloatArray) -> xr.DataArray:
    """Label what `item_means` returns."""
    coords = {"time": time, "checkpoint_loss": ("time", start)}
    return xr.DataArray(values, coords, DIMS[:3])


def positions(traces: xr.DataArray, names: Sequence[str] | None, side: str) -> NDArray[np.intp]:
    """Return the positions of observed items.

    Returns
    -------
    array of int

    Raises
    ------
    ValueError
        If a name was not observed, or no names are given.
    """
    known = [str(name) for name in traces["item"].values]
    if names is None:
        return np.arange(len(known))
    names = [names] if isinstance(names, str) else names
    if not np.iterable(names) or len(names) == 0 or not all(isinstance(n, str) for n in names):
        raise ValueError(f"`{side}` must be names of observed items, at least one, got {names!r}.")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"`{side}` names {unknown[0]!r}, which was not observed; observed are "
            f"{', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."
            + checks.did_you_mean(unknown[0], known)
        )
    return np.array([known.index(name) for name in names])
