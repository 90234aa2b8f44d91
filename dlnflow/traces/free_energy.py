"""Free energies from losses at the rungs of a ladder of posteriors; numpy and scipy only.

    F_k = -log int exp(-c_k . l(theta)) prior(theta) dtheta,    c_k = n_k w_k / N,
    dF = E_c[l] . dc    (thermodynamic integration)

A finite step needs no quadrature: with u = (c_{k+1} - c_k) . l, D = F_{k+1} - F_k solves

    sum over draws of k  s(D - u)  =  sum over draws of k+1  s(u - D),    s(x) = 1 / (1 + e^-x),

for equally many draws of both, which is the estimate of least variance (Bennett 1976). Errors are
those of leaving out one ladder at a time: rungs of one ladder exchange their networks and are not
independent, ladders are.
"""

import warnings

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import optimize, special

from dlnflow import checks
from dlnflow._support import FloatArray

LEAST = 0.01
"""Overlap of neighbours below which free energies mean nothing."""


def free_energy(losses: ArrayLike, pressure: ArrayLike) -> xr.Dataset:
    """Estimate the free energy of every rung relative to the first.

    Parameters
    ----------
    losses : array, shape (K, C, draws, N)
        Losses of the items at K rungs of C independent ladders.
    pressure : array, shape (K, N)
        c_k, what multiplies the losses: n_beta times the item weights over N.

    Returns
    -------
    Dataset, dim (rung)
        `free_energy`, 0 at the first rung, in nats, its `standard_error`, and `dof` = C - 1.
        `left_out` (ladder, rung), the same without one ladder: the error of any combination x of
        free energies is sqrt((C - 1) / C sum_c (x_c - mean x)^2) over them (see `jackknife`).
        `overlap` (step), the mean of s(D - u) over the draws of a rung: 1/2 for equal posteriors,
        and near 0 where neighbours do not overlap and the errors cannot be believed.

    Raises
    ------
    ValueError
        If there are fewer than two rungs or ladders, shapes do not fit, or losses or
        their products with pressure are not finite.

    Warns
    -----
    UserWarning
        Where neighbours overlap by less than `LEAST`.
    """
    losses, pressure = checks.finite("losses", losses), checks.finite("pressure", pressure)
    if losses.ndim != 4 or losses.shape[0] < 2 or losses.shape[1] < 2 or not losses.size:
        raise ValueError(
            "`losses` must have the shape (rung, ladder, draw, item) with at least two rungs, two "
            f"ladders and a draw, got {losses.shape}."
        )
    rungs, ladders = losses.shape[:2]
    if pressure.shape != (rungs, losses.shape[3]):
        raise ValueError(
            f"`pressure` must have one row per rung and one number per item, "
            f"{(rungs, losses.shape[3])}, got {pressure.shape}."
        )
    steps = np.diff(pressure, axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        lower = np.einsum("kcdn,kn->kcd", losses[:-1], steps)
        upper = np.einsum("kcdn,kn->kcd", losses[1:], steps)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise ValueError(
            "`losses` times steps of `pressure` overflow; take another unit of either."
        )
    every = np.arange(ladders)
    whole = np.array([_bennett(a, b) for a, b in zip(lower, upper, strict=True)])
    left_out = np.array(
        [
            [_bennett(a[every != c], b[every != c]) for a, b in zip(lower, upper, strict=True)]
            for c in every
        ]
    )
    total, parts = np.r_[0, whole.cumsum()], left_out.cumsum(1)
    parts = np.pad(parts, ((0, 0), (1, 0)))
    overlap = special.expit(whole[:, None, None] - lower).mean((1, 2))
    apart = np.flatnonzero(overlap < LEAST).tolist()
    if apart:
        warnings.warn(
            f"rungs do not overlap: between {', '.join(f'{k} and {k + 1}' for k in apart)} "
            f"(`overlap` {overlap.min():.2g} at least). Free energies beyond, and their errors, "
            "mean nothing; put rungs between them.",
            stacklevel=2,
        )
    return xr.Dataset(
        {
            "free_energy": ("rung", total),
            "standard_error": ("rung", jackknife(parts)),
            "dof": ladders - 1,
            "left_out": (("ladder", "rung"), parts),
            "overlap": ("step", overlap),
        }
    )


def jackknife(left_out: ArrayLike) -> FloatArray:
    """Return the standard error of what was computed without each of C independent parts.

    Parameters
    ----------
    left_out : array, shape (C, ...)
        The estimate without part c.

    Returns
    -------
    array, shape (...)

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    values = checks.finite("left_out", left_out)
    if not values.ndim or len(values) < 2:
        raise ValueError(
            f"`left_out` must hold two estimates or more on its first axis, got {values.shape}."
        )
    count = len(values)
    return np.sqrt((count - 1) / count * ((values - values.mean(0)) ** 2).sum(0))


def _bennett(lower: FloatArray, upper: FloatArray) -> float:
    """Return D from u at the draws of a rung and of the next."""

    def excess(d: float) -> float:
        return float(special.expit(d - lower).sum() - special.expit(upper - d).sum())

    ends = min(lower.min(), upper.min()) - 1, max(lower.max(), upper.max()) + 1
    return optimize.brentq(excess, *ends, xtol=1e-10)
