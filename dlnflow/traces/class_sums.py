"""Sums over classes in place of losses of items: what class influence needs, and nothing else.

    kept of a checkpoint    at every draw    the mean loss of every class, and of all items
                            of every item    its mean in every chain
                            once             sums over pairs of classes by chain, and without each
                                             row, for every option of `groups`

They are a small part of the losses (docs/measured.md), nearly the same for any number of draws, and
`groups`, `summary`, `diverged` and `llc` give from them the bits that they give from the losses.
What they cannot give are single items, other classes, fewer draws or fewer chains.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow._support import FloatArray
from dlnflow.traces import diagnostics
from dlnflow.traces.format import (
    KeptSums,
    averages,
    enough_draws,
    labelled,
    mean_excess,
    means_of_items,
)
from dlnflow.traces.membership import members_of, membership
from dlnflow.traces.pair_sums import EXCLUDED, Layout, Sums, deviations, squares

KINDS = ("pooled", "single", "plain")
"""Weights of an item: 1 / its spread over all kept chains, over its own chain, or 1."""


@dataclass(frozen=True)
class ClassSums(KeptSums):
    """Sums over classes at several checkpoints.

    Attributes
    ----------
    names : tuple of str
        Classes.
    time : (T,) int array
        Steps of the checkpoints.
    checkpoints : sequence of mapping, length T
        Arrays by name, as `of_checkpoint` gives them; a file that is opened when it is needed
        serves as well.
    attrs : dict
        Attributes of the loss traces.
    coords : mapping of str to (K,) array
        `row` and `token` of the items, as far as they are known.
    """

    names: tuple[str, ...]
    time: NDArray[np.int64]
    checkpoints: Sequence[Mapping[str, NDArray]] = field(repr=False)
    attrs: Mapping[str, Any] = field(repr=False)
    coords: Mapping[str, NDArray] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> xr.DataArray:
        """Return a coordinate of the items."""
        return xr.DataArray(self.coords[name], dims="item")

    @property
    def sizes(self) -> dict[str, int]:
        """Return numbers of checkpoints, chains, draws, items and classes."""
        chains, draws, classes = self.checkpoints[0]["means"].shape
        items = int(self.checkpoints[0]["n_items"])
        found = {"time": len(self.time), "chain": chains, "draw": draws, "item": items}
        return found | {"token_class": classes}

    @property
    def nbytes(self) -> int:
        """Return the size of everything that is kept."""
        return sum(sum(one[name].nbytes for name in one) for one in self.checkpoints)

    def mean_losses(self) -> xr.DataArray:
        """Return the mean loss over all items as loss traces with one item."""
        starts = [[one["start"][1]] for one in self.checkpoints]
        values = [one["mean"][..., None] for one in self.checkpoints]
        return self._traces(values, ["mean loss"], starts)

    def class_means(self, classes: Sequence[int]) -> xr.DataArray:
        """Return the mean losses of some classes as loss traces."""
        starts = [one["class_start"][classes] for one in self.checkpoints]
        # in the order of memory in which they were averaged: rounding depends on it
        values = [np.ascontiguousarray(one["means"][..., classes]) for one in self.checkpoints]
        return self._traces(values, [self.names[k] for k in classes], starts)

    def item_means(self) -> xr.DataArray:
        """Return the mean over the items at every draw, as of `dlnflow.traces.format`."""
        values = np.stack([one["item_mean"] for one in self.checkpoints])
        start = np.array([one["start"][1] for one in self.checkpoints])
        return means_of_items(values, self.time, start)

    def item_excess(self) -> list[FloatArray]:
        """Return E[l_k] - l_k(theta_t) of every kept chain and item, (chains, K), by checkpoint."""
        return [one["excess"] for one in self.checkpoints]

    def averages(self, members: FloatArray, names: Sequence[str]) -> xr.DataArray:
        """Return the mean losses of classes, or of all items, as loss traces in float64.

        Raises
        ------
        ValueError
            If sums over the classes were not kept.
        """
        if members.all() and members.shape[1] == 1:
            starts = [[one["start"][1]] for one in self.checkpoints]
            return self._traces([one["average"] for one in self.checkpoints], names, starts)
        classes = self._positions(members, names)
        starts = [one["class_start"][classes] for one in self.checkpoints]
        values = [np.ascontiguousarray(one["averages"][..., classes]) for one in self.checkpoints]
        return self._traces(values, names, starts)

    def _traces(
        self, values: list[NDArray], items: Sequence[str], starts: ArrayLike
    ) -> xr.DataArray:
        return labelled(
            np.stack(values),
            time=self.time,
            items=items,
            checkpoint_loss=starts,
            attrs=dict(self.attrs),
        )

    def judged(self) -> list[diagnostics.Judged]:
        """Return the worst R-hat and the smallest ESS over items, and which chains diverged.

        Raises
        ------
        ValueError
            If with these checkpoints a chain counts as diverged that did not when they were made.
        """
        starts = np.array([one["start"] for one in self.checkpoints])
        bound = diagnostics.excess_bound(starts[:, 0].max(), self.attrs)
        found = []
        for time, one, start in zip(self.time, self.checkpoints, starts, strict=True):
            good = diagnostics.below(one["highest"], start[1] + bound)
            if not np.array_equal(good, one["good"]):
                raise ValueError(
                    f"the class sums at step {time} are of the chains that had not diverged by "
                    "the losses of that checkpoint alone; by those of all checkpoints others are "
                    "left. Take that step alone, or keep the losses of tokens."
                )
            found.append(diagnostics.Judged(*one["judged"].tolist(), ~good))
        return found

    def chosen(self, classes: xr.DataArray | ArrayLike | None) -> list[int]:
        """Return the positions of classes by name, of all if none are given.

        Raises
        ------
        ValueError
            If one is unknown or has other items.
        """
        if classes is None:
            return list(range(len(self.names)))
        if not isinstance(classes, xr.DataArray):
            raise ValueError("`classes` must be a DataArray with names, or be left out.")
        return self._positions(*membership(classes, self.sizes["item"]))

    def _positions(self, members: FloatArray, names: Sequence[str]) -> list[int]:
        known = dict(zip(self.names, self.checkpoints[0]["counts"], strict=True))
        other = [n for n, m in zip(names, members.sum(0), strict=True) if known.get(n) != m]
        if other:
            raise ValueError(
                f"`classes`: sums over {', '.join(other)} were not kept; there are "
                f"{', '.join(self.names)}. Other classes need the losses of tokens."
            )
        return [self.names.index(name) for name in names]

    def sums(
        self, t: int, *, normalised: bool, differences: bool, exclude: frozenset[str]
    ) -> tuple[Sums, list[Sums]]:
        """Return counts of pairs, and sums over them with pooled and single weights.

        No sums where chains are too few.

        Raises
        ------
        ValueError
            If rows or ids of the items were not known.
        """
        one, name = self.checkpoints[t], _label(exclude)
        if f"pairs/{name}/by_chain" not in one:
            raise ValueError(
                f"`exclude` {name}: the class sums are of traces without coordinates of that name, "
                "so that such pairs are not known. Reduce traces that have them."
            )

        def read(kind: str) -> Sums:
            return Sums(*(one[f"{kind}/{name}/{field}"] for field in Sums._fields))

        pairs = read("pairs")
        kinds = KINDS[:2] if normalised else KINDS[2:]
        if f"{kinds[0]}/{int(differences)}/{name}/by_chain" not in one:
            return pairs, []
        found = [read(f"{kind}/{int(differences)}") for kind in kinds]
        return pairs, list(weighed(found, self.sizes["draw"] - differences))


def class_sums(traces: xr.DataArray, classes: xr.DataArray | ArrayLike) -> ClassSums:
    """Reduce loss traces to sums over classes, one checkpoint at a time.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces; pairs of one sequence or of one vocabulary id can be left out later if they
        have the coordinates `row` and `token`.
    classes : DataArray or (K, G) bool array
        As in `groups`.

    Returns
    -------
    ClassSums
        For `groups`, `summary`, `diverged` and `llc`. With R rows, C chains and G classes 24 sums
        of R C G^2 numbers in float64 at a checkpoint, whatever the number of draws.

    Raises
    ------
    ValueError
        If a class has no tokens, draws are too few, or shapes disagree.
    """
    traces = enough_draws(traces, differences=True)
    members, names = members_of(classes, traces)
    found = [of_checkpoint(traces.isel(time=[t]), members) for t in range(len(traces))]
    coords = {name: traces[name].values for name in ("row", "token") if name in traces.coords}
    return ClassSums(tuple(names), traces.time.values, found, traces.attrs, coords)


def of_checkpoint(traces: xr.DataArray, members: FloatArray) -> dict[str, NDArray]:
    """Reduce the losses of one checkpoint; see the module docstring.

    Returns
    -------
    dict
        Arrays by name, to be kept as they are.
    """
    excludes = [e for e in EXCLUDED if all(k in traces.coords for k in e - {"item"})]
    layout = Layout.of(traces, members, excludes)
    start = traces.checkpoint_loss.values[0]
    one = next(diagnostics.checkpoints(traces))
    found: dict[str, NDArray] = {
        "n_items": np.array(len(members)),
        "counts": members.sum(0),
        "start": np.array([np.abs(start).max(), start.mean()]),
        "class_start": start @ class_weights(members, traces.dtype),
        "means": means_of(one.losses, class_weights(members, traces.dtype)),
        "mean": mean_excess(one.losses, start),
        "item_mean": diagnostics.level(one.losses),
        "averages": averages(one.losses, members / members.sum(0)),
        "average": averages(one.losses, np.full((len(members), 1), 1 / len(members))),
        "excess": diagnostics.item_excess(one, start),
        "good": one.good,
        "judged": np.array(diagnostics.judge(one)),
    }
    with np.errstate(invalid="ignore"):
        found["highest"] = found["item_mean"].max(1)
    for exclude in excludes:
        found |= _named(f"pairs/{_label(exclude)}", layout.pairs(exclude))
    for differences in (False, True) if len(one.which) else ():
        for kind, by_exclude in reduced(one, layout, KINDS, differences, excludes).items():
            for exclude, sums in by_exclude.items():
                found |= _named(f"{kind}/{int(differences)}/{_label(exclude)}", sums)
    return found


def class_weights(members: FloatArray, dtype: np.dtype) -> NDArray:
    """Return the weights of items in the means of classes, (K, G)."""
    return (members / members.sum(0)).astype(dtype)


def means_of(losses: NDArray, weights: NDArray) -> NDArray:
    """Return mean losses of classes (chains, draws, G); NaN in all classes of a diverged chain."""
    with np.errstate(invalid="ignore"):
        return losses @ weights


def reduced(
    one: diagnostics.Checkpoint,
    layout: Layout,
    kinds: Sequence[str],
    differences: bool,
    excludes: Sequence[frozenset[str]],
) -> dict[str, dict[frozenset[str], Sums]]:
    """Sum over pairs, one kept chain after another, for kinds of weights and of excluded pairs."""
    spread = {c: squares(one.losses[c], differences) for c in one.which}
    pooled = sum(spread.values())
    found: list[list[dict[frozenset[str], Sums]]] = []
    for c in one.which:
        norms = {"pooled": pooled, "single": spread[c]}
        weights = [_over(layout.members, norms.get(kind)) for kind in kinds]
        each = partial(deviations, one.losses[c], differences)
        found.append(layout.of_chain(each, weights, excludes))
    return {
        kind: {e: Sums.of_chains([chain[k][e] for chain in found]) for e in excludes}
        for k, kind in enumerate(kinds)
    }


def weighed(found: Sequence[Sums], draws: int) -> tuple[Sums, Sums]:
    """Return what sums to correlations or covariances, pooled over chains and of each chain."""
    if len(found) == 2:
        return found[0], found[1]
    chains = len(found[0].by_chain)
    return found[0].times(1 / (chains * (draws - 1))), found[0].times(1 / (draws - 1))


def _over(members: FloatArray, square: FloatArray | None) -> FloatArray:
    """Divide by the spread; items that never move are 0 anyway."""
    if square is None:
        return members
    norm = np.sqrt(square)
    return members / np.where(norm > 0, norm, 1.0)[:, None]


def _label(exclude: frozenset[str]) -> str:
    return "+".join(sorted(exclude))


def _named(name: str, sums: Sums) -> Iterator[tuple[str, NDArray]]:
    return ((f"{name}/{field}", value) for field, value in zip(sums._fields, sums, strict=True))
