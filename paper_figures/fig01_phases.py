"""Figure 1: two phases compete; at the transition the posterior is bimodal and influence peaks."""

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy import integrate, special, stats

from dlnflow._support import FloatArray
from dlnflow.plots import influence_plots
from dlnflow.theory import phases
from paper_figures import _style
from paper_figures._data import Scale

N_PARAMETERS = 8
ITEMS = ("p", "q", "r")
JUMPS = np.array([0.12, 0.08, -0.05])
"""Mean losses of the items in U minus those in V: p and q are learned at the transition, r lost."""
PAIRS = {("p", "q"): "#0072B2", ("p", "r"): "#D55E00"}
SAMPLE_SIZES = {Scale.quick: 300, Scale.paper: 1000}
COLORS = {"U": "#009E73", "V": "#CC79A7"}
HEADLINES = {
    "n_star": "free energies cross at n = {:.0f}",
    "trough.pq": "influence of p on q is lowest at n = {:.0f}",
    "evidence_error": "equals the second derivative of log evidence within {:.0e}",
}


@dataclass(frozen=True)
class Basin:
    """The neighbourhood l_i = offset_i + K, K = sum_j |w_j|^power over all parameters.

    Under exp(-n K) the sum n K has a Gamma law whose shape is the learning coefficient.
    """

    power: int
    offsets: FloatArray

    @property
    def phase(self) -> phases.Phase:
        """Return the free energy, which is exact here."""
        side = 2 * special.gamma(1 + 1 / self.power)  # integral of exp(-|w|^power)
        constant = -N_PARAMETERS * np.log(side)
        return phases.Phase(self.offsets.mean(), N_PARAMETERS / self.power, constant=constant)

    def log_evidence(self, n: float, item_weights: FloatArray) -> float:
        """Integrate exp(-(n/N) sum_i w_i l_i) numerically, knowing nothing of Gamma laws."""
        share = n * item_weights / len(item_weights)
        edge = (50 / share.sum()) ** (1 / self.power)  # beyond it the integrand is below e^-50
        one = integrate.quad(
            lambda w: np.exp(-share.sum() * abs(w) ** self.power), 0, edge, epsabs=0, epsrel=1e-12
        )[0]
        return N_PARAMETERS * np.log(2 * one) - share @ self.offsets


U = Basin(4, JUMPS)
V = Basin(2, np.zeros(3))


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """a: free energies; b: posterior of the loss; c: influence over the sample size."""
    change = phases.transition(U.phase, V.phase)
    n = np.geomspace(40, 1000, SAMPLE_SIZES[scale])
    within, total = influence(n)
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 2.3)
        axes = figure.subplots(1, 3)
        _free_energies(axes[0], n, change)
        _posterior(axes[1], change.n)
        _influence(axes[2], n, within, total, change)
        _style.letters(axes)
    return figure, _measured(n, total, change)


def influence(n: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return -(n/N) Cov(l_i, l_j) at every n, the part within phases and the whole, (T, N, N)."""
    shapes = [basin.phase.learning_coefficient for basin in (U, V)]
    within, total = [], []
    for size in np.atleast_1d(n):
        means = [basin.offsets + k / size for basin, k in zip((U, V), shapes, strict=True)]
        covariances = [np.full((3, 3), k / size**2) for k in shapes]
        share = phases.weights([U.phase, V.phase], size)
        parts = phases.mixture_covariance(share, means, covariances)
        within.append(-size / 3 * parts.within)
        total.append(-size / 3 * parts.total)
    return np.array(within), np.array(total)


def _free_energies(axis: Axes, n: FloatArray, change: phases.Transition) -> None:
    for name, basin in (("U", U), ("V", V)):
        axis.plot(n, basin.phase.free_energy(n), color=COLORS[name], label=_label(name, basin))
    axis.axvline(change.n, color="0.6", linewidth=0.6, linestyle=":")
    axis.annotate(
        f"n* = {change.n:.0f}",
        (change.n, axis.get_ylim()[0]),
        xytext=(3, 4),
        textcoords="offset points",
        fontsize=6.5,
    )
    axis.set(xscale="log", xlabel="sample size n", ylabel="free energy (nats)")
    axis.legend(**_style.LEGEND)


def _label(name: str, basin: Basin) -> str:
    phase = basin.phase
    return f"{name}: L = {phase.loss:.2g}, $\\lambda$ = {phase.learning_coefficient:g}"


def _posterior(axis: Axes, n_star: float) -> None:
    """Density of the mean loss before, at and after the transition."""
    loss = np.linspace(0, 0.1, 600)
    for factor, color, style in ((0.5, "0.65", "--"), (1.0, "black", "-"), (2.0, "0.45", ":")):
        n = factor * n_star
        share = phases.weights([U.phase, V.phase], n)
        density = sum(
            w * stats.gamma.pdf(loss - b.phase.loss, b.phase.learning_coefficient, scale=1 / n)
            for w, b in zip(share, (U, V), strict=True)
        )
        name = "n*" if factor == 1 else f"{factor:g} n*"
        axis.plot(loss, density, style, color=color, label=f"n = {name}")
    for name, basin in (("U", U), ("V", V)):
        axis.axvline(basin.phase.loss, color=COLORS[name], linewidth=0.8, zorder=0)
        axis.annotate(
            name,
            (basin.phase.loss, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(-2, 0),
            textcoords="offset points",
            va="top",
            ha="right",
            fontsize=7,
            color=COLORS[name],
        )
    axis.set(
        xlabel="loss L(w) (nats)", ylabel="posterior density", ylim=(0, None), xlim=(-0.008, 0.1)
    )
    axis.legend(**_style.LEGEND)


def _influence(
    axis: Axes, n: FloatArray, within: FloatArray, total: FloatArray, change: phases.Transition
) -> None:
    axis.axvspan(*change.half_maximum, color="0.92", linewidth=0)
    axis.axvline(change.n, color="0.6", linewidth=0.6, linestyle=":")
    axis.axhline(0, color="0.7", linewidth=0.5)
    for (i, j), color in PAIRS.items():
        a, b = ITEMS.index(i), ITEMS.index(j)
        axis.plot(n, total[:, b, a], color=color, label=f"{i} on {j}")
    axis.plot(n, within[:, 0, 1], color="0.3", linestyle="--", label="within phases (all pairs)")
    axis.set(xscale="log", xlabel="sample size n", ylabel=_style.INFLUENCE)
    axis.set_ylim(-0.17, 0.24)
    axis.legend(loc="upper left", **_style.LEGEND | {"framealpha": 0})


def _measured(n: FloatArray, total: FloatArray, change: phases.Transition) -> dict[str, float]:
    """Read off extrema; compare influence at n* with finite differences of the log evidence."""
    at_star = influence(change.n)[1][0]
    exact = -3 / change.n * evidence_curvature(change.n)
    flips = np.flatnonzero(np.diff(np.sign(total[:, 2, 0])))
    return {
        "n_star": change.n,
        "half_maximum.low": change.half_maximum[0],
        "half_maximum.high": change.half_maximum[1],
        "trough.pq": float(n[np.argmin(total[:, 1, 0])]),
        "peak.pr": float(n[np.argmax(total[:, 2, 0])]),
        "influence.pq.at_star": float(at_star[1, 0]),
        "influence.pr.at_star": float(at_star[2, 0]),
        "sign_flips.pr": float(len(flips)),
        "evidence_error": float(abs(at_star - exact).max() / abs(exact).max()),
    }


def evidence_curvature(n: float, *, step: float = 1e-3) -> FloatArray:
    """Second derivatives of the log evidence in the item weights at 1, (N, N)."""

    def log_evidence(change: FloatArray) -> float:
        return np.logaddexp(*(basin.log_evidence(n, 1 + change) for basin in (U, V)))

    unit, found = step * np.eye(3), np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            corners = [
                a * b * log_evidence(a * unit[i] + b * unit[j]) for a in (1, -1) for b in (1, -1)
            ]
            found[i, j] = sum(corners) / (4 * step**2)
    return found
