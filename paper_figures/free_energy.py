"""Figure free_energy: stages of a small network as phases in n, and how the posterior passes."""

from collections.abc import Sequence
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import integrate, signal, stats

from dlnflow._support import FloatArray
from dlnflow.plots import influence_plots
from dlnflow.theory import phases
from dlnflow.traces import summary
from dlnflow.traces.free_energy import free_energy, jackknife
from dlnflow.traces.intervals import t_quantile
from paper_figures import _data, _results, _stages, _style

LEVELS = ("0 to 1", "1 to 2", "2 to 4")
"""Ranks before and after each level."""
COLORS = _style.LEVEL_COLORS[:3]
N_BETA = "$n\\beta$"
KIN = ("sibling", "cousin", "far")
FINE = np.geomspace(2, 400, 400)
DENSITY_AT = (6.0, 13.0, 30.0)
"""n beta near, at and beyond the passage of the first level."""

OPEN = {
    "marker": "o", "markersize": 2.2, "markerfacecolor": "white", "markeredgewidth": 0.6,
    "linestyle": "", "zorder": 3,
}  # fmt: skip
"""Dots of the broader prior."""

HEADLINES = {
    "half.0": "rank 1 is reached at n = {:.1f}",
    "predicted_half.0": "2 dlambda / dL says {:.1f}",
    "integrated_half.0": "the free energy with all terms says {:.2f}",
    "crossing.0": "free energies without constants {:.1f}",
    "identity.largest_z": "second derivatives of F within {:.1f} errors of covariances",
}


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Free energies, coefficients, strengths, their density, influence, and identity (8)."""
    gaps, pairs = _gaps(scale), _kin(scale)
    sampled, broad = (_strengths(scale, prior) for prior in (_stages.PRIOR, _stages.BROAD))
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.4)
        axes = figure.subplots(2, 3).ravel()
        _free_energies(axes[0], gaps)
        coefficients = _coefficients(axes[1], scale)
        _passage(axes[2], sampled, broad)
        peaks = _density(axes[3], scale)
        _influence(axes[4], pairs)
        identity = _identity(axes[5], scale)
        _style.letters(axes)
    _results.saved("free_energy", xr.merge([gaps, sampled, pairs]))
    claims = (
        coefficients
        | peaks
        | identity
        | _of_gaps(gaps)
        | _of_constants(scale)
        | _of_passage(sampled, broad)
        | _of_curves([sampled, broad])
        | _of_integral(scale, {"": sampled, "_broad_prior": broad})
    )
    return figure, claims | _of_influence(pairs) | _mixing(scale)


def _gaps(scale: _data.Scale) -> xr.Dataset:
    """Return F_before - F_after of each level: with all terms, and as appendix A has it."""
    found = [_stages.stage_free_energy(scale, rank) for rank in _stages.STAGES]
    n = _stages.FROM_PRIOR
    value = np.array([a[0] - b[0] for a, b in pairwise(found)])
    error = np.array([np.hypot(a[1], b[1]) for a, b in pairwise(found)])
    dims = ("level", "n_free")
    return xr.Dataset({"gap": (dims, value), "gap_error": (dims, error)}, {"n_free": n})


def _of_gaps(gaps: xr.Dataset) -> dict[str, float]:
    beyond = gaps.sel(n_free=slice(1, None))
    claims = {"gap.smallest_z": float((beyond.gap / beyond.gap_error).min())}
    for level in range(len(LEVELS)):
        star = _stages.crossing(level)
        at = np.interp(np.log(star), np.log(gaps.n_free), gaps.gap[level])
        claims |= {f"crossing.{level}": star, f"gap_at_crossing.{level}": float(at)}
    return claims


def _of_constants(scale: _data.Scale) -> dict[str, float]:
    """Return c_r of every stage, and the least difference of neighbours with them.

    Of dL n + dlambda log n + dc, which is least at n = -dlambda / dL; no crossing if above 0.
    """
    found = [_stages.constant(scale, rank) for rank in _stages.STAGES]
    claims = {}
    for rank, (value, error) in zip(_stages.STAGES, found, strict=True):
        claims |= {f"constant.{rank}": value, f"constant_error.{rank}": error}
    for level, ((c, error), (later, later_error)) in enumerate(pairwise(found)):
        before, after = (_stages.phase(rank) for rank in _stages.STAGES[level : level + 2])
        n = _stages.half_strength(level)[0] / 2  # dlambda / dL
        least = float(before.free_energy(n) - after.free_energy(n)) + c - later
        claims[f"least_with_constants.{level}"] = least
        claims[f"least_with_constants_error.{level}"] = float(np.hypot(error, later_error))
    return claims


def _free_energies(axis: Axes, gaps: xr.Dataset) -> None:
    n = gaps.n_free.values
    fine = np.geomspace(3, 400, 200)
    for level, (name, color) in enumerate(zip(LEVELS, COLORS, strict=True)):
        axis.errorbar(
            n, gaps.gap[level], 2 * gaps.gap_error[level], color=color, fmt="-o", markersize=2,
            linewidth=1, elinewidth=0.7, label=name,
        )  # fmt: skip
        before, after = (_stages.phase(r) for r in _stages.STAGES[level : level + 2])
        without = before.free_energy(fine) - after.free_energy(fine)
        axis.plot(fine, without, "--", color=color, linewidth=1)
    axis.axhline(0, color="0.6", linewidth=0.6)
    axis.set(xscale="log", xlim=(1, 400), ylim=(-22, 42), xlabel=N_BETA)
    axis.set_ylabel("$F$ before $-$ $F$ after (nats)")
    handles, labels = axis.get_legend_handles_labels()
    handles.append(axis.plot([], [], "--", color="0.3", linewidth=1)[0])
    axis.legend(handles, [*labels, "no constants"], title="rank", **_legend("upper left"))


def _legend(where: str) -> dict[str, object]:
    return _style.LEGEND | {"loc": where, "title_fontsize": 6.5}


def _coefficients(axis: Axes, scale: _data.Scale) -> dict[str, float]:
    """Draw n E[L] where the best map of a rank is the truth, against lambda; m = 1 for all."""
    claims = {}
    for rank, color in zip(_stages.STAGES, ("black", *COLORS), strict=True):
        ladder = _stages.stage(scale, rank)
        every = ladder.n_beta[:, None] * ladder.losses.mean((2, 3))  # (K, C)
        value, error = every.mean(1), every.std(1, ddof=1) / np.sqrt(every.shape[1])
        axis.errorbar(
            ladder.n_beta, value, 2 * error, fmt="o", color=color, markersize=2.2, elinewidth=0.7,
            label=f"{rank}",
        )  # fmt: skip
        exact = _stages.phase(rank).learning_coefficient
        axis.axhline(exact, color=color, linewidth=0.9, linestyle="--")
        claims |= {
            f"lambda.{rank}": exact,
            f"sampled_lambda.{rank}": value[-3:].mean(),
            f"sampled_lambda_error.{rank}": np.sqrt((error[-3:] ** 2).mean()),
        }
    axis.set(xscale="log", xlim=(1, 500), ylim=(0, 44), xlabel=N_BETA)
    axis.set_ylabel("$n\\beta$ E[L], truth of rank r")
    axis.legend(title="rank r", ncols=2, **_legend("lower right"))
    return claims


def _strengths(scale: _data.Scale, prior: float) -> xr.Dataset:
    """Return mean strengths of levels over n, sampled and predicted, and n of the half."""
    ladder = _stages.passage(scale, prior)
    predicted, predicted_error = _stages.predicted_strengths(scale, prior)
    each, c = ladder.observed.mean(2), ladder.observed.shape[1]  # (K, C, level)
    half = np.array(
        [[_half(each[:, k, level], ladder.n_beta) for k in range(c)] for level in range(3)]
    )
    return xr.Dataset(
        {
            "strength": (("n", "level"), each.mean(1)),
            "strength_error": (("n", "level"), each.std(1, ddof=1) / np.sqrt(c)),
            "predicted": (("n", "level"), predicted),
            "predicted_error": (("n", "level"), predicted_error),
            "half": ("level", np.array([_half(one, ladder.n_beta) for one in each.mean(1).T])),
            "half_error": ("level", half.std(1, ddof=1) / np.sqrt(c)),
        },
        {"n": ladder.n_beta},
    )


def _half(strength: FloatArray, n: FloatArray) -> float:
    """Return n at which a strength last rises through 1/2."""
    first = np.flatnonzero(strength < 0.5)[-1]
    pair = slice(first, first + 2)
    return float(np.exp(np.interp(0.5, strength[pair], np.log(n[pair]))))


def _passage(axis: Axes, sampled: xr.Dataset, broad_prior: xr.Dataset) -> None:
    fine = np.geomspace(2, 400, 300)
    for level, color in enumerate(COLORS):
        value, error = sampled.strength[:, level], sampled.strength_error[:, level]
        style = {"fmt": "o", "color": color, "markersize": 2.2, "elinewidth": 0.7}
        axis.errorbar(sampled.n, value, 2 * error, zorder=3, **style)
        axis.plot(broad_prior.n, broad_prior.strength[:, level], color=color, **OPEN)
        for one, width in ((sampled, 1.0), (broad_prior, 0.5)):
            value, error = one.predicted[:, level], one.predicted_error[:, level]
            axis.errorbar(one.n, value, 2 * error, color=color, linewidth=width, elinewidth=0.5)
        broad, narrow = (1 - half / (2 * fine) for half in _stages.half_strength(level))
        shown = broad > 0.35
        band = fine[shown], np.maximum(narrow[shown], 0), broad[shown]
        axis.fill_between(*band, color=color, alpha=0.25, linewidth=0)
        style = {"color": color, "linewidth": 0.8, "linestyle": "--", "zorder": 0}
        axis.axvline(_stages.crossing(level), ymax=0.74, **style)
    axis.axhline(0.5, color="0.7", linewidth=0.5, zorder=0)
    axis.set(xscale="log", xlim=(2, 400), ylim=(0, 1), xlabel=N_BETA)
    axis.set_ylabel("strength of a level / $s$")
    style = {"color": "0.3", "markersize": 2.2}
    handles = [
        axis.plot([], [], "o", **style)[0],
        axis.plot([], [], linewidth=1, **style)[0],
        axis.plot([], [], **OPEN | {"color": "0.3", "linestyle": "-", "linewidth": 0.5})[0],
    ]
    style = _legend("upper left") | {"handlelength": 1.0, "handletextpad": 0.4}
    axis.legend(handles, ["sampled", "predicted", "broader prior"], **style)


def _of_passage(sampled: xr.Dataset, broad_prior: xr.Dataset) -> dict[str, float]:
    claims = {}
    for level in range(len(LEVELS)):
        half, error = float(sampled.half[level]), float(sampled.half_error[level])
        broad, narrow = _stages.half_strength(level)
        claims |= {
            f"half.{level}": half,
            f"half_error.{level}": error,
            f"predicted_half.{level}": broad,
            f"predicted_half_narrow.{level}": narrow,
            f"crossing_over_half.{level}": _stages.crossing(level) / half,
            f"half_broad_prior.{level}": float(broad_prior.half[level]),
            f"half_broad_prior_error.{level}": float(broad_prior.half_error[level]),
        }
    return claims


def _of_curves(sampled: Sequence[xr.Dataset]) -> dict[str, float]:
    """Return how far predicted strengths are from sampled ones, over all rungs and levels."""
    gaps = [(one.predicted - one.strength).values.ravel() for one in sampled]
    errors = [np.hypot(one.predicted_error, one.strength_error).values.ravel() for one in sampled]
    gap, error = map(np.concatenate, (gaps, errors))
    return {
        "curve.largest_gap": float(abs(gap).max()),
        "curve.rms_gap": float(np.sqrt((gap**2).mean())),
        "curve.rms_z": float(np.sqrt(((gap / error) ** 2).mean())),
    }


def _of_integral(scale: _data.Scale, sampled: dict[str, xr.Dataset]) -> dict[str, float]:
    """Return where levels are half learned by the free energy with all its terms, by prior."""
    claims = {}
    for name, prior in (("", _stages.PRIOR), ("_broad_prior", _stages.BROAD)):
        for level in range(len(LEVELS)):
            found = _stages.predicted_half(scale, level, prior)
            half, error = (float(sampled[name][key][level]) for key in ("half", "half_error"))
            both = np.hypot(found.error, error)
            claims |= {
                f"integrated_half{name}.{level}": found.n,
                f"integrated_half_error{name}.{level}": found.error,
                f"integrated_over_sampled{name}.{level}": found.n / half,
                f"integrated_over_sampled_error{name}.{level}": both / half,
                f"integrated_z{name}.{level}": abs(found.n - half) / both,
            }
    return claims


def _density(axis: Axes, scale: _data.Scale) -> dict[str, float]:
    """Density of the strength of the first mode before, at and after its passage."""
    ladder, claims = _stages.passage(scale, _stages.PRIOR), {}
    grid = np.linspace(-0.4, 1.4, 400)
    for n, color, style in zip(DENSITY_AT, ("0.6", "black", "0.4"), ("--", "-", ":"), strict=True):
        rung = int(np.abs(np.log(ladder.n_beta / n)).argmin())
        density = stats.gaussian_kde(ladder.observed[rung, :, :, 0].ravel())(grid)
        at = ladder.n_beta[rung]
        axis.plot(grid, density, style, color=color, label=f"$n\\beta$ = {at:.0f}")
        peaks = signal.find_peaks(density, prominence=0.05 * density.max())[0]
        claims[f"peaks_of_density.{n:g}"] = float(len(peaks))
    for where in (0, 1):
        axis.axvline(where, color="0.8", linewidth=0.6, zorder=0)
    axis.set(xlabel="strength of the first mode / $s$", ylabel="posterior density")
    axis.set(xlim=(-0.4, 1.4), ylim=(0, None))
    axis.legend(**_legend("upper left"))
    return claims


def _kin(scale: _data.Scale) -> xr.Dataset:
    """Return influence over n by kinship: sampled, its part between stages, two-phase formula."""
    ladder = _stages.passage(scale, _stages.PRIOR)
    members = {kin: _members(_stages.task().items, kin) for kin in KIN}
    found = [_pair_means(ladder.losses[k], n, members) for k, n in enumerate(ladder.n_beta)]
    total = np.array([one.mean(1) for one in found])  # (K, 3)
    error = np.array([one.std(1, ddof=1) / np.sqrt(one.shape[1]) for one in found])
    between = [_between(ladder, k, members) for k in range(len(ladder.n_beta))]
    dims = ("n", "kin")
    return xr.Dataset(
        {
            "influence": (dims, total),
            "influence_error": (dims, error),
            "between": (dims, np.array(between)),
            "formula": ("n_formula", np.array([_formula(n) for n in FINE])),
        },
        {"n": _stages.RUNGS, "kin": list(KIN), "n_formula": FINE},
    )


def _members(items: list[str], kin: str) -> FloatArray:
    """Return which pairs are relatives, (N, N); all of a kind are equal by symmetry."""
    return np.array([[_data.kinship(a, b) == kin for b in items] for a in items])


def _pair_means(losses: FloatArray, n: float, members: dict[str, FloatArray]) -> FloatArray:
    """Return the mean influence of relatives in every ladder, (kinds, C); losses (C, draws, N)."""
    covariances = np.array([np.cov(one, rowvar=False) for one in losses])
    return (
        -n / losses.shape[-1] * np.array([covariances[:, who].mean(1) for who in members.values()])
    )


def _between(ladder: object, rung: int, members: dict[str, FloatArray]) -> list[float]:
    """Return the part of influence that comes from which levels are above half their strength."""
    above = (ladder.observed[rung] > 0.5).reshape(-1, 3) @ (1, 2, 4)
    losses = ladder.losses[rung].reshape(-1, len(_stages.task().items))
    cells = [losses[above == cell] for cell in np.unique(above)]
    share = [len(cell) / len(losses) for cell in cells]
    means = [cell.mean(0) for cell in cells]
    zero = [np.zeros((losses.shape[1],) * 2)] * len(cells)
    part = phases.mixture_covariance(share, means, zero).total
    scale = -ladder.n_beta[rung] / losses.shape[1]
    return [float(scale * part[who].mean()) for who in members.values()]


def _formula(n: float) -> float:
    """Return influence as appendix A has it: stages at their minima, weights without constants.

    Every mode of a level has the same share of every item, so that it is the same for all pairs.
    """
    modes, size = _stages.task().modes, _stages.task().n_items
    left = [0.5 * (modes.s[r:] ** 2 * modes.v[:, r:] ** 2).sum(1) for r in _stages.STAGES]
    share = phases.weights([_stages.phase(r) for r in _stages.STAGES], n)
    zero = [np.zeros((size, size))] * len(left)
    return float(-n / size * phases.mixture_covariance(share, left, zero).total.mean())


def _influence(axis: Axes, pairs: xr.Dataset) -> None:
    for j, kin in enumerate(KIN):
        color = _style.KINSHIP_COLORS[kin]
        value, error = pairs.influence[:, j], pairs.influence_error[:, j]
        axis.errorbar(
            pairs.n, value, 2 * error, fmt="-o", color=color, markersize=2.2, linewidth=1,
            elinewidth=0.7, label=kin,
        )  # fmt: skip
    style = {"linestyle": "--", "color": "0.4", "linewidth": 0.9, "zorder": 1}
    axis.plot(pairs.n_formula, pairs.formula, label="formula, all pairs", **style)
    axis.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    axis.set(xscale="log", xlim=(2, 400), ylim=(-0.68, 0.48), xlabel=N_BETA)
    axis.set_ylabel(_style.INFLUENCE)
    axis.legend(ncols=2, **_legend("upper left"))


def _of_influence(pairs: xr.Dataset) -> dict[str, float]:
    claims = {}
    for j, kin in enumerate(KIN):
        value, error = pairs.influence[:, j].values, pairs.influence_error[:, j].values
        low, high = value.argmin(), value.argmax()
        claims |= {
            f"{kin}.trough": float(value[low]),
            f"{kin}.trough_error": float(error[low]),
            f"{kin}.peak": float(value[high]),
            f"{kin}.peak_error": float(error[high]),
        }
    value, formula = pairs.influence[:, 0].values, pairs.formula.values
    between = float(pairs.between[:, 0].values.min())
    return claims | {
        "sibling.trough_n": float(pairs.n[value.argmin()]),
        "sibling.flips_at": _flip(pairs),
        "sibling.between_stages": between,
        "formula.trough": float(formula.min()),
        "formula.trough_n": float(FINE[formula.argmin()]),
    }


def _flip(pairs: xr.Dataset) -> float:
    """Return n at which siblings change from helping to harming."""
    value = pairs.influence[:, 0].values
    last = np.flatnonzero(value < 0)[-1]
    pair = slice(last, last + 2)
    return float(np.exp(np.interp(0, value[pair], np.log(pairs.n.values[pair]))))


def _identity(axis: Axes, scale: _data.Scale) -> dict[str, float]:
    """Second differences of F in item weights against covariances, both as influence."""
    found = {name: _both_sides(scale, k) for k, name in enumerate(_stages.DIRECTIONS)}
    shown = {"dog.dog": found["dog"], "dog.cat": (found["both"] - found["against"]) / 4}
    claims, largest = {}, 0.0
    for x, (name, sides) in enumerate(shown.items()):  # sides (2, 1 + C): whole, then left out
        errors = jackknife(sides[:, 1:].T)
        half = t_quantile(sides.shape[1] - 2) * errors
        for k, (shift, marker, face) in enumerate(((-0.1, "s", "white"), (0.1, "o", "black"))):
            style = {"fmt": marker, "color": "black", "markersize": 4, "markerfacecolor": face}
            label = ("of the free energy", "covariance")[k] if x == 0 else None
            axis.errorbar(x + shift, sides[k, 0], half[k], label=label, **style)
        gap = sides[0] - sides[1]
        largest = max(largest, float(abs(gap[0]) / jackknife(gap[1:])))
        claims |= {f"identity.{name}": sides[0, 0], f"identity.{name}.error": errors[0]}
        claims[f"identity.{name}.covariance"] = sides[1, 0]
    axis.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    axis.set_xticks([0, 1], ["dog on dog", "dog on cat"])
    axis.set(xlim=(-0.5, 1.5), ylabel="influence on loss")
    axis.legend(**_legend("lower right"))
    return claims | {"identity.largest_z": largest}


def _both_sides(scale: _data.Scale, direction: int) -> FloatArray:
    """Return influence along a direction of item weights, (2, 1 + C): whole, and left out.

    F(e) - 2 F(0) + F(-e) = int (e - |u|) F''(u) du over |u| < e,  F'' = -(n/N)^2 Var(v . l),

    so that finite steps compare without bias; both are divided by e^2 n / N.
    """
    ladder, u = _stages.tilted(scale), _stages.TILT
    rows = slice(direction * len(u), (direction + 1) * len(u))
    middle, edge = len(u) // 2, u[-1]
    losses, weights = ladder.losses[rows], ladder.weights[rows]
    pressure = _stages.TILTED_AT / losses.shape[-1]
    found = free_energy(losses, ladder.pressure[rows])
    every = np.vstack([found.free_energy.values, found.left_out.values])
    exact = every[:, -1] - 2 * every[:, middle] + every[:, 0]
    along = losses @ ((weights[-1] - weights[0]) / (2 * edge))  # v . l, (K, C, draws)
    ladders = np.arange(along.shape[1])
    kept = [ladders, *(ladders[ladders != c] for c in ladders)]
    curve = -(pressure**2) * np.array([along[:, keep].var((1, 2)) for keep in kept])
    curve *= edge - abs(u)
    covariance = integrate.simpson(curve[:, : middle + 1], x=u[: middle + 1])
    covariance += integrate.simpson(curve[:, middle:], x=u[middle:])
    return np.array([exact, covariance]) / (edge**2 * pressure)


def _mixing(scale: _data.Scale) -> dict[str, float]:
    """Return shares of verdicts over the rungs of all ladders."""
    ladders = [_stages.passage(scale, prior) for prior in (_stages.PRIOR, _stages.BROAD)]
    ladders.append(_stages.tilted(scale))
    ladders += [_stages.stage(scale, rank) for rank in _stages.STAGES]
    verdicts = [
        str(summary(one.traces(k)).verdict.values[0])
        for one in ladders
        for k in range(len(one.n_beta))
    ]
    names = {"mixed": "mixed", "short": "short", "not_mixed": "not mixed"}
    return {f"share.{key}": verdicts.count(name) / len(verdicts) for key, name in names.items()}
