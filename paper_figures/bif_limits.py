"""Figure "bif_limits": sampled Bayesian influence, its closed form, and what both tend to."""

from dataclasses import dataclass
from functools import cache

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dlnflow._support import FloatArray
from dlnflow.influence import bif
from dlnflow.plots import influence_plots
from dlnflow.traces.intervals import TWO_SIGMA, interval
from paper_figures import _data, _localized, _scores, _style
from paper_figures._localized import HELD, RATIOS

TRAIN = "dog"
QUERIES = ("cat", "sparrow", "pine")
BETAS = (1e6, 1e2)
"""n beta; one row of panels each."""
FINE = np.geomspace(RATIOS[0], RATIOS[-1], 10)
SHOWN = 2.2
"""Flow time of the checkpoint whose entries are drawn: the second mode is being learned."""
WEAK = next(j for j, ratio in enumerate(RATIOS) if ratio >= HELD)
"""Index of the weakest localization that holds the saddles."""
CHAINS = 4
DRAWS = {_data.Scale.quick: 250, _data.Scale.paper: 2000}
KERNEL, DAMPED, RETRAINED = "gradient kernel", "damped influence", "leave-one-out"
COLORS = {KERNEL: "#56B4E9", DAMPED: "#000000", RETRAINED: "#CC79A7"}
"""Not those of the queries, which are drawn beside."""

HEADLINES = {
    "n_beta 1e+06.within_3": "n beta = 1e6: {:.1%} of entries within 3 standard errors",
    "n_beta 100.within_3": "100: {:.1%}",
    "n_beta 1e+06.gradient kernel.exact at 100": "Pearson with the gradient kernel {:.4f}",
    "n_beta 1e+06.damped influence.exact at 3": "with damped influence {:.4f}",
}
"""Claims that the runner prints, as sentences."""


@dataclass(frozen=True)
class Found:
    """One n beta: arrays over (localization, time, query, train), localization being the ratio."""

    sampled: xr.DataArray
    exact: xr.DataArray

    @property
    def z(self) -> FloatArray:
        """(sampled - exact) / standard error, NaN where chains have not mixed."""
        z = (self.sampled - self.exact) / self.sampled.standard_error
        return z.where(self.sampled.verdict != "not mixed").values


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """One row per n beta: entries over localization, z-scores, agreement with the limits."""
    references = _references(scale)
    claims: dict[str, float] = {}
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.9)
        upper, lower = figure.subfigures(2, 1, hspace=0.02, height_ratios=(1.16, 1))
        for row, n_beta in zip((upper, lower), BETAS, strict=True):
            left, middle, right = row.subplots(1, 3, width_ratios=(1.25, 0.75, 1))
            found, name = _found(scale, n_beta), f"n_beta {n_beta:g}"
            _entries(left, found, scale, n_beta)
            claims |= {f"{name}.{key}": value for key, value in _errors(middle, found).items()}
            agreement = _agreement(right, found, references)
            claims |= {f"{name}.{key}": value for key, value in agreement.items()}
            _style.letters([left, middle, right], start="a" if row is upper else "d")
        _key(upper)
    return figure, claims


@cache
def _found(scale: _data.Scale, n_beta: float) -> Found:
    """Sample and evaluate all entries at all checkpoints over `RATIOS`."""
    sampled = [
        bif(
            _data.run(),
            _localized.steps(scale),
            n_beta=n_beta,
            localization=value * n_beta * _localized.unit(scale),
            chains=CHAINS,
            draws=DRAWS[scale],
        )
        for value in RATIOS
    ]
    ratio = xr.Variable("localization", list(RATIOS))
    together = xr.concat(sampled, ratio, combine_attrs="drop_conflicts")
    return Found(together, _localized.exact(scale, n_beta))


@cache
def _references(scale: _data.Scale) -> dict[str, xr.DataArray]:
    """Return what is compared with: no dim of sweeps, except for the damped influence."""
    steps = _localized.steps(scale)
    return {
        KERNEL: _localized.kernel(scale),
        DAMPED: _localized.damped(scale, steps, np.array(RATIOS)),
        RETRAINED: _data.influence(scale, "leave_one_out").sel(time=steps),
    }


def _entries(axis: Axes, found: Found, scale: _data.Scale, n_beta: float) -> None:
    """Influence times lambda of dog on three items: flat where it is the gradient kernel."""
    time = found.sampled.flow_time.values
    when = int(np.abs(time - SHOWN).argmin())
    step, unit = _localized.steps(scale)[[when]], _localized.unit(scale)
    lines = {
        "-": _localized.laplace(scale, step, n_beta, FINE)[:, 0],
        (0, (1.2, 1.2)): _localized.damped(scale, step, FINE)[:, 0],
    }
    dots = found.sampled[:, when]
    mixed = dots.verdict.values != "not mixed"
    axis.axvspan(RATIOS[0] / 1.5, HELD, color="0.93", linewidth=0)
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    for query in QUERIES:
        color = _style.KINSHIP_COLORS[_data.kinship(TRAIN, query)]
        for style, curve in lines.items():
            scaled = FINE * unit * curve.sel(query=query, train=TRAIN).values
            axis.plot(FINE, scaled, color=color, linestyle=style, linewidth=1.3)
        strength = np.array(RATIOS) * unit
        entry = dots.sel(query=query, train=TRAIN)
        half = interval(entry, TWO_SIGMA).upper.values - entry.values
        for chosen, shade in ((mixed, color), (~mixed, "0.6")):
            axis.errorbar(
                np.array(RATIOS)[chosen],
                (strength * entry.values)[chosen],
                yerr=(strength * half)[chosen],
                color=shade,
                linestyle="",
                marker="o",
                markersize=3.2,
                elinewidth=0.9,
                capsize=1.5,
            )
    axis.set(
        xscale="log",
        xlim=(RATIOS[0] / 1.5, RATIOS[-1] * 1.5),
        xlabel="localization $\\gamma\\ /\\ (n\\beta\\,\\max_t|D_t|)$",
        ylabel="influence $\\times\\ \\gamma / n\\beta$\n"
        "$\\leftarrow$ helps    harms $\\rightarrow$",
    )
    inside = dots.sel(query=list(QUERIES), train=TRAIN).values * np.array(RATIOS)[:, None]
    axis.set_ylim(*(1.6 * unit * np.array([inside.min(), inside.max()])))
    axis.set_title(f"$n\\beta$ = {_power(n_beta)}, flow time {time[when]:.1f}")


def _power(value: float) -> str:
    return f"$10^{{{round(np.log10(value))}}}$"


def _errors(axis: Axes, found: Found) -> dict[str, float]:
    """Histogram of z-scores where the saddles are held, and where they are not."""
    held = np.array(RATIOS) >= HELD
    edges = np.linspace(-5, 5, 41)
    claims = {"mixed": float(np.isfinite(found.z).mean())}
    for chosen, color, key in ((held, "0.55", "within_3"), (~held, "#A0527D", "left.within_3")):
        z = found.z[chosen]
        z = z[np.isfinite(z)]
        claims[key] = float((np.abs(z) <= 3).mean())
        # What is out of range is counted in the outermost bins.
        axis.hist(
            np.clip(z, -4.99, 4.99),
            edges,
            density=True,
            color=color,
            histtype="stepfilled" if key == "within_3" else "step",
            linewidth=1.1,
        )
    grid = np.linspace(-5, 5, 201)
    axis.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color="black", linewidth=1.0)
    for side in (-3, 3):
        axis.axvline(side, color="0.5", linewidth=0.6, linestyle=(0, (1, 1.5)))
    axis.set_ylim(0, 0.66)
    texts = (
        ("0.35", "saddles held:", claims["within_3"]),
        ("#A0527D", "not held:", claims["left.within_3"]),
    )
    for k, (color, text, share) in enumerate(texts):
        axis.text(
            0.55,
            1.1 - 0.08 * k,
            f"{text} {share:.1%} within 3",
            transform=axis.transAxes,
            ha="center",
            fontsize=6.5,
            color=color,
        )
    axis.set(xlabel="(sampled $-$ exact) / std. error", ylabel="density", yticks=(0, 0.2, 0.4))
    return claims


def _agreement(axis: Axes, found: Found, references: dict[str, xr.DataArray]) -> dict[str, float]:
    """Pearson over training, median of all pairs: line exact, dots sampled with quartiles."""
    claims: dict[str, float] = {}
    axis.axvspan(RATIOS[0] / 1.5, HELD, color="0.93", linewidth=0)
    for k, (name, reference) in enumerate(references.items()):
        fits = [
            reference[j] if "damping" in reference.dims else reference for j in range(len(RATIOS))
        ]
        exact = [_scores.median(a, b) for a, b in zip(found.exact, fits, strict=True)]
        axis.plot(RATIOS, exact, color=COLORS[name], linewidth=1.3, label=name)
        pairs = [_scores.pearson(a, b).ravel() for a, b in zip(found.sampled, fits, strict=True)]
        low, middle, high = np.quantile(pairs, (0.25, 0.5, 0.75), axis=1)
        axis.errorbar(
            np.array(RATIOS) * 1.12 ** (k - 1),
            middle,
            yerr=(middle - low, high - middle),
            color=COLORS[name],
            linestyle="",
            marker="o",
            markersize=3.2,
            elinewidth=0.8,
        )
        for j in (0, WEAK, -1):
            claims[f"{name}.exact at {RATIOS[j]:g}"] = exact[j]
        for j in (WEAK, -1):
            claims[f"{name}.sampled at {RATIOS[j]:g}"] = middle[j]
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    axis.set(
        xscale="log",
        xlim=(RATIOS[0] / 1.5, RATIOS[-1] * 1.5),
        ylim=(-0.5, 1.06),
        xlabel="localization $\\gamma\\ /\\ (n\\beta\\,\\max_t|D_t|)$",
        ylabel="Pearson of BIF over training\n(median and quartiles of pairs)",
    )
    return {key: float(value) for key, value in claims.items()}


def _key(figure: Figure) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=_style.KINSHIP_COLORS[_data.kinship(TRAIN, query)],
            linewidth=2,
            label=f"{TRAIN} on {query}",
        )
        for query in QUERIES
    ]
    dot = {"linestyle": "", "marker": "o", "markersize": 3.2}
    handles += [
        Line2D([], [], color="0.2", label="sampled ($\\pm$ 2 std. errors)", **dot),
        Line2D([], [], color="0.2", label="Gaussian, exact"),
        Line2D([], [], color="0.2", linestyle=(0, (1.2, 1.2)), label="damped influence"),
        Line2D([], [], color="0.93", linewidth=5, label="saddles not held"),
        *[Line2D([], [], color=color, label=f"with {name}") for name, color in COLORS.items()],
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, handlelength=1.4)
