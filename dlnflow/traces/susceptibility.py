"""Response of an observable to the data, token by token, under a (restricted) posterior.

    p_h(u) ~ exp(-n_beta L_h(u) - (localization / 2) |u - u_t|^2),   L_h = (1 - h) L + h l_k
    chi_k = d E[phi] / dh at h = 0 = -n_beta Cov(phi, l_k - L)

is an exact identity: the share h of the data is moved to token k. By default phi = L, the mean loss
over the observed items with only the entries of one component moving, and then chi_k < 0 says that
the token helps the component. In units of the weight of one of N items, as influence is,

    d E[phi] / d w_k = -(n_beta / N) Cov(phi, l_k).

See docs/derivations/susceptibility.md for the terms of Baker et al. (2025), "Structural inference:
interpreting small language models with susceptibilities", whose chi is ours divided by n_beta.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.traces import diagnostics
from dlnflow.traces.class_means import Estimated, class_means
from dlnflow.traces.columns import BLOCK, about
from dlnflow.traces.excluded_pairs import numbered
from dlnflow.traces.format import check_traces
from dlnflow.traces.membership import members_of

SIGN = "negative = more of the item lowers the observable (the mean loss: it helps)"
UNITS = {"mixture": "per share of the data", "weight": "per unit of item weight"}
"""What the response is per."""
MEAN_LOSS = "mean loss of the observed items"
PER_DRAW = ("time", "chain", "draw")
"""Dims of an observable; coordinates of traces with them were recorded beside the losses."""


def susceptibility(
    traces: xr.DataArray | Mapping[str, xr.DataArray],
    classes: xr.DataArray | ArrayLike | None = None,
    *,
    observable: str | xr.DataArray | None = None,
    perturbation: str = "mixture",
    normalised: bool = False,
    errors: bool = True,
) -> xr.DataArray:
    """Susceptibility of an observable to every token, or to every class of tokens.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item), or mapping of str to DataArray
        Loss traces, sampled with `restrict=` for that of a component. A mapping of components to
        traces gives the leading dim ``component``.
    classes : DataArray or (K, G) bool array, optional
        As in `groups`: the mean over the items of every class, with errors of chains and rows.
        Default: every item.
    observable : str or DataArray, dims (time, chain, draw), optional
        phi: the name of an observable that was recorded with the traces (a coordinate of these
        dims), or values at their draws.
        Default: the mean loss of the observed items, which stands for L.
    perturbation : {"mixture", "weight"}
        -n_beta Cov(phi, l_k - L) or -(n_beta / N) Cov(phi, l_k). In the first, the mean over all
        items is 0, and the mean loss of the observed items stands for L.
    normalised : bool
        Minus the Pearson correlation of the same two; needs no n_beta.
    errors : bool
        Leave out the errors of items, which is faster; classes always have them.

    Returns
    -------
    DataArray, dims ([component,] time, item) or ([component,] time, token_class)
        In units of phi per share of the data, or per weight. Coordinates: `standard_error` and its
        degrees of freedom `dof` (see `interval`), `verdict`, `r_hat`, `ess` and `noise_floor` of
        the observable and the items or classes. For items the error is sd(p) / sqrt(ESS(p)) of the
        products, with a delta method for correlations; for classes those of chains and rows, as in
        `groups`, with phi and L counted as known. NaN where the verdict is "diverged".

    Raises
    ------
    ValueError
        If the observable was not recorded or does not fit, a class has no items, or components
        have other items.
    TypeError
        If they are no loss traces.
    """
    checks.one_of("perturbation", perturbation, list(UNITS))
    checks.flag("normalised", normalised)
    if not checks.flag("errors", errors) and classes is not None:
        warnings.warn(
            "`errors` has no effect with `classes`, which always have them.", stacklevel=2
        )
    if isinstance(traces, Mapping):
        return _by_component(
            traces,
            classes,
            observable=observable,
            perturbation=perturbation,
            normalised=normalised,
            errors=errors,
        )
    traces = check_traces(traces)
    phi, name = _observable(traces, observable)
    members, names = (None, []) if classes is None else members_of(classes, traces)
    rows = numbered(traces, "row") if "row" in traces.coords else None
    found, judged = [], []
    for t, one in enumerate(diagnostics.checkpoints(traces)):
        values = one.kept.mean(-1, dtype=np.float64) if phi is None else _kept(phi[t], one)
        if phi is not None and normalised and len(values) and not np.ptp(values, axis=1).any():
            raise ValueError(
                f"`observable` {name!r} is the same at every draw of checkpoint "
                f"{traces.time.values[t]}, and has no correlation with anything; leave out "
                "`normalised`, or the checkpoint."
            )
        problem = _Problem(one.kept, values, perturbation == "mixture", normalised)
        if members is None:
            found.append(problem.items(errors))
        else:
            found.append(problem.classes(members, rows))
        judged.append(diagnostics.Judged(*problem.judge(members), ~one.good))
        del one, problem
    n_beta, n = traces.attrs["n_beta"], traces.attrs["n_train"]
    scale = 1.0 if normalised else n_beta if perturbation == "mixture" else n_beta / n
    coords = {"time": traces.time.values}
    coords |= {"item": traces["item"].values} if members is None else {"token_class": names}
    dims = tuple(coords)
    stacked = Estimated(*(np.stack(part) for part in zip(*found, strict=True)))
    attrs = about(traces, normalised)
    array = xr.DataArray(
        -scale * stacked.value,
        coords,
        dims,
        name="susceptibility",
        attrs=attrs
        | {
            "sign": SIGN,
            "units": attrs["units"] if normalised else f"observable {UNITS[perturbation]}",
            "observable": name,
            "perturbation": perturbation,
        },
    )
    verdicts = diagnostics.judged(traces, judged)
    return array.assign_coords(
        standard_error=(dims, scale * stacked.standard_error),
        dof=(dims, stacked.dof),
        **{key: ("time", value.values) for key, value in verdicts.items()},
    )


class _Problem(NamedTuple):
    """Losses (chains, draws, K) and the observable (chains, draws) of one checkpoint."""

    losses: NDArray
    phi: FloatArray
    mixture: bool
    normalised: bool

    def blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yield stretches of items and l_k or l_k - L, centred per chain."""
        mean = self.losses.mean(-1, dtype=np.float64)[..., None] if self.mixture else 0.0
        for start in range(0, self.losses.shape[-1], BLOCK):
            part = slice(start, start + BLOCK)
            values = self.losses[..., part].astype(np.float64) - mean
            yield part, values - values.mean(1, keepdims=True)

    def items(self, errors: bool) -> Estimated:
        """Return the response of every item."""
        found = Estimated(*np.full((3, self.losses.shape[-1]), np.nan))
        if len(self.losses) == 0:
            return found
        a = self._centred()
        chains, draws = a.shape[:2]
        count = chains * (draws - 1)
        for part, b in self.blocks():
            value = np.einsum("cd,cdk->k", a[..., 0], b) / count
            psi = a * b
            if self.normalised:
                va, vb = (np.sum(x**2, axis=(0, 1)) / count for x in (a, b))
                vb = np.where(vb > 0, vb, 1.0)
                value = value / np.sqrt(va * vb)
                # The delta method: a correlation also moves with the two standard deviations.
                psi = psi / np.sqrt(va * vb) - 0.5 * value * (a**2 / va + b**2 / vb)
                psi *= draws / (draws - 1)
            found.value[part] = value
            if errors and not diagnostics.stuck(self.losses):
                _, found.standard_error[part], found.dof[part] = diagnostics.mean_and_error(psi)
        return found

    def by_chain(self) -> tuple[FloatArray, FloatArray]:
        """Return the response of every item, pooled (K,) and of every chain (C, K)."""
        a = self._centred()
        chains, draws = a.shape[:2]
        single = np.empty((chains, self.losses.shape[-1]))
        pooled = np.empty(single.shape[1])
        for part, b in self.blocks():
            products = np.einsum("cd,cdk->ck", a[..., 0], b) / (draws - 1)
            value = products.mean(0)
            if self.normalised:
                va, vb = (np.sum(x**2, axis=1) / (draws - 1) for x in (a, b))
                vb = np.where(vb > 0, vb, 1.0)
                products, value = (
                    products / np.sqrt(va * vb),
                    value / np.sqrt(va.mean(0) * vb.mean(0)),
                )
            single[:, part], pooled[part] = products, value
        return pooled, single

    def classes(self, members: FloatArray, rows: NDArray[np.intp] | None) -> Estimated:
        """Return the mean response over every class."""
        if len(self.losses) == 0:
            return Estimated(*np.full((3, members.shape[1]), np.nan))
        return class_means(*self.by_chain(), members, rows)

    def judge(self, members: FloatArray | None) -> tuple[float, float]:
        """Return the worst R-hat and smallest ESS of the observable and the items or classes."""
        means = self.losses if members is None else self.losses @ (members / members.sum(0))
        every = np.ones(len(self.losses), bool)  # diverged chains were left out before
        own, rest = (
            diagnostics.judge(diagnostics.Checkpoint(values, every))
            for values in (self.phi[..., None], means)
        )
        return float(np.maximum(own[0], rest[0])), float(np.minimum(own[1], rest[1]))

    def _centred(self) -> FloatArray:
        return (self.phi - self.phi.mean(1, keepdims=True))[..., None]


def _observable(
    traces: xr.DataArray, observable: str | xr.DataArray | None
) -> tuple[NDArray | None, str]:
    """Return the values (time, chain, draw) of an observable, None for the mean loss; its name."""
    if observable is None:
        return None, MEAN_LOSS
    if isinstance(observable, str):
        names = [str(n) for n, c in traces.coords.items() if set(c.dims) == set(PER_DRAW)]
        if observable not in names:
            raise ValueError(
                f"`observable` {observable!r} was not recorded with these traces; recorded are "
                f"{', '.join(names) or 'none'}." + checks.did_you_mean(observable, names)
            )
        array, name = traces.coords[observable], observable
    else:
        array, name = observable, str(getattr(observable, "name", None) or "observable")
    dims = PER_DRAW
    if not isinstance(array, xr.DataArray):
        raise ValueError(
            "`observable` must be a name or a DataArray with one value per draw, got "
            f"{type(array).__name__}."
        )
    if set(array.dims) != set(dims) or any(array.sizes[d] != traces.sizes[d] for d in dims):
        raise ValueError(
            f"`observable` must have one value per draw, dims {dims} of sizes "
            f"{tuple(traces.sizes[d] for d in dims)}; got {dict(array.sizes)}."
        )
    for dim in dims:
        if dim in array.coords and dim in traces.coords and not array[dim].equals(traces[dim]):
            raise ValueError(
                f"`observable` has other values of `{dim}` than `traces`, or in another order; "
                "reindex it to those of the traces."
            )
    return checks.real_array("observable", array.transpose(*dims).values), name


def _kept(values: FloatArray, one: diagnostics.Checkpoint) -> FloatArray:
    """Return the values of the chains that are kept, checked."""
    kept = values[one.good] if len(one.kept) == one.good.sum() else values[:0]
    return checks.finite("observable", kept)


def _by_component(traces: Mapping[str, xr.DataArray], classes: Any, **options: Any) -> xr.DataArray:
    """Return the susceptibilities of all components along a leading dim."""
    if not traces:
        raise ValueError("`traces` must map at least one component to its traces.")
    for name, one in traces.items():
        if isinstance(one, Mapping) or not isinstance(name, str):
            raise ValueError(
                f"`traces` must map names of components to loss traces, got {name!r} with a "
                f"{type(one).__name__}."
            )
    found = {name: susceptibility(one, classes, **options) for name, one in traces.items()}
    first = next(iter(found.values()))
    for name, one in found.items():
        for dim in first.dims:
            if not np.array_equal(one[dim].values, first[dim].values):
                raise ValueError(
                    f"`traces` of {name!r} have another `{dim}` than the others; sample all "
                    "components at the same checkpoints with the same observed items."
                )
    names = xr.Variable("component", list(found))
    return xr.concat(
        list(found.values()),
        names,
        coords="different",
        compat="equals",
        join="exact",
        combine_attrs="drop_conflicts",
    )
