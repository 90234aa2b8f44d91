"""Figure llc_over_training: learning coefficients beside loss and influence, and their truth."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow import sampling
from dlnflow.dynamics.trajectory import Trajectory
from dlnflow.plots import influence_plots
from dlnflow.theory.one_layer import layer_posterior
from dlnflow.theory.rlct import learning_coefficient
from dlnflow.traces import influence, llc
from dlnflow.traces.intervals import t_quantile
from paper_figures import _data, _layers, _style, susceptibility, token_coefficients

CHOSEN = susceptibility.CHOSEN
RATIOS = (1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Localization over n_beta of the last panel."""
DRAWS = 1500
PARTS = {"layer1": "#0072B2", "layer2": "#D55E00", "whole": "black"}
TITLES = {"layer1": "layer 1", "layer2": "layer 2", "whole": "all weights"}

HEADLINES = {
    "calibration.whole": "all weights at the end: {:.1f} at the weakest localization",
    "calibration.exact": "exact {:.0f}",
    "layers.within_3_errors": "{:.0%} of the checkpoints of layers within 3 errors of the truth",
    "fast.coefficient.least": "fast: local coefficient {:.0f} at least",
    "fast.coefficient.last": "{:.0f} at the end",
}


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Loss, coefficients, influence, and the localization's share; then language models."""
    found = {name: llc(_traces(scale, name)) for name in PARTS}
    closed = {f"layer{k}": _closed(scale, k) for k in (1, 2)}
    ends = _ends()
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.2 + 4.2)
        toy, language = figure.subfigures(2)
        axes = toy.subplot_mosaic("ad;bd;cd", width_ratios=[1.35, 1], height_ratios=[1, 1.7, 1])
        for letter in "bc":
            axes[letter].sharex(axes["a"])
        _loss(axes["a"], scale)
        _coefficients(axes["b"], scale, found, closed)
        _influence(axes["c"], scale)
        for letter in "abc":
            _style.mark_levels(axes[letter], _data.half_times(scale), labelled=letter == "a")
            axes[letter].tick_params(labelbottom=letter == "c")
        claims = _calibration(axes["d"], ends)
        _style.letters([axes[k] for k in "abcd"])
        of_tokens = token_coefficients.draw(language, "e")
    z = np.concatenate(
        [
            (found[name].llc.values - closed[name]) / found[name].standard_error.values
            for name in closed
        ]
    )
    minimum = found["whole"].at_minimum.values
    time = _data.run().flow_time(_layers.steps(scale))
    claims |= {
        "layers.within_3_errors": float(np.mean(np.abs(z) <= 3)),
        "layers.share_mixed": float(
            np.mean([(found[name].verdict == "mixed").mean() for name in closed])
        ),
        "whole.share_mixed": float((found["whole"].verdict == "mixed").mean()),
        "whole.at_minimum_from": float(time[np.flatnonzero(~minimum)[-1] + 1]),
        "parts_average_to_whole": _average(scale),
    }
    return figure, claims | of_tokens | _shares()


def _traces(scale: _data.Scale, name: str) -> xr.DataArray:
    return _layers.sampled(scale, None if name == "whole" else name, CHOSEN)


def _closed(scale: _data.Scale, layer: int) -> np.ndarray:
    """Return the exact expectation of the estimate for a layer, (T,)."""
    posteriors = _layers.exact(scale, layer, CHOSEN)
    return CHOSEN.n_beta * np.array([(e.mean - e.checkpoint_loss).mean() for e in posteriors])


def _average(scale: _data.Scale) -> float:
    """Return how far coefficients of the items are from averaging to the whole, relatively."""
    traces = _traces(scale, "whole")
    parts, whole = llc(traces, "item").llc.mean("item"), llc(traces).llc
    return float(np.abs(parts - whole).max() / np.abs(whole).max())


def _loss(axis: Axes, scale: _data.Scale) -> None:
    traces = _traces(scale, "whole")
    time = _data.run().flow_time(traces.time.values)
    axis.plot(time, traces.checkpoint_loss.mean("item"), color="black", linewidth=1.2)
    axis.set(ylabel="mean loss", ylim=(0, None))


def _coefficients(
    axis: Axes,
    scale: _data.Scale,
    found: dict[str, xr.Dataset],
    closed: dict[str, np.ndarray],
) -> None:
    time = _data.run().flow_time(_layers.steps(scale))
    for name, color in PARTS.items():
        one = found[name]
        if name in closed:
            axis.plot(time, closed[name], color=color, linewidth=1.1)
        for minimum, face in ((True, color), (False, "white")):
            chosen = one.at_minimum.values == minimum
            style = {"color": color, "markerfacecolor": face, "markersize": 3, "linestyle": ""}
            label = TITLES[name] if minimum else None
            axis.plot(
                time[chosen],
                one.llc.values[chosen],
                marker="o",
                markeredgewidth=0.7,
                label=label,
                **style,
            )
    axis.plot([], [], "o", color="0.4", markerfacecolor="white", markersize=3, label="no minimum")
    axis.set_yscale("symlog", linthresh=10, linscale=0.7)
    axis.set_yticks([-1000, -100, -10, 0, 10], ["-1000", "-100", "-10", "0", "10"])
    axis.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    axis.set_ylabel(r"$n\beta\,(E[L]-L(\theta_t))$")
    axis.legend(loc="lower right", **_style.LEGEND)


def _influence(axis: Axes, scale: _data.Scale) -> None:
    traces = _traces(scale, "whole")
    time = _data.run().flow_time(traces.time.values)
    found = influence(traces, query=["cat"], train=["dog"])[:, 0, 0]
    axis.errorbar(
        time,
        found,
        t_quantile(found.dof) * found.standard_error,
        color="#0072B2",
        linewidth=1.1,
        elinewidth=0.7,
    )
    axis.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    axis.set(xlabel=_style.TIME, ylabel="dog on cat\n(negative helps)")


def _ends() -> dict[float, xr.Dataset]:
    """Return the estimate for all weights at the end of training, by localization."""
    run = _data.run()
    return {
        ratio: llc(
            sampling.trace_run(
                run,
                [run.n_steps],
                draws=DRAWS,
                dtype="float64",
                **_layers.Chosen(CHOSEN.n_beta, ratio).settings(),
            )
        )
        for ratio in RATIOS
    }


def _calibration(axis: Axes, ends: dict[float, xr.Dataset]) -> dict[str, float]:
    """Sampled, expected and exact coefficients at the end of training against localization."""
    run = _data.run()
    last = run.train([run.n_steps])
    fine = np.geomspace(3e-4, 20, 40)
    expected = {f"layer{k}": np.array([_layer_end(last, k, r) for r in fine]) for k in (1, 2)}
    expected["whole"] = np.array([_whole_end(last, ratio) for ratio in fine])
    for name, color in PARTS.items():
        axis.plot(fine, expected[name], color=color, linewidth=1.1)
    value = np.array([float(e.llc[0]) for e in ends.values()])
    error = np.array([float(e.standard_error[0]) for e in ends.values()])
    axis.errorbar(list(ends), value, 2 * error, fmt="o", color="black", markersize=3.5)
    exact = learning_coefficient((8, _data.HIDDEN, 15), 8).coefficient
    n_in, d_out, rank = 8, 15, 8
    layers = {"layer1": rank * n_in / 2, "layer2": d_out * rank / 2}
    for limit, text in ((exact, "all weights, and layer 2: 60"), (layers["layer1"], "layer 1: 32")):
        axis.axhline(limit, color="0.6", linewidth=0.7, linestyle="--", zorder=0)
        style = {"fontsize": 6.5, "ha": "right", "va": "bottom", "color": "0.3"}
        axis.annotate(text, (20, limit + 0.5), **style)
    axis.set(xscale="log", xlim=(3e-4, 20), ylim=(0, 68))
    axis.set(xlabel=r"localization / $n\beta$", ylabel="learning coefficient at the end")
    axis.set_title("what localization hides")
    z = (value - np.array([_whole_end(last, ratio) for ratio in ends])) / error
    return {
        "calibration.whole": float(value[0]),
        "calibration.exact": float(exact),
        "calibration.error": float(error[0]),
        "calibration.share_at_1": float(value[RATIOS.index(1.0)] / exact),
        "calibration.largest_z": float(np.abs(z).max()),
        "calibration.layer1": float(expected["layer1"][0]),
        "calibration.layer2": float(expected["layer2"][0]),
    }


def _shares() -> dict[str, float]:
    """Return what is left of the toy coefficient at the localizations of language models."""
    run = _data.run()
    last, exact = run.train([run.n_steps]), learning_coefficient((8, _data.HIDDEN, 15), 8)
    ratios = {
        name: settings["localization"] / settings["n_beta"]
        for name, settings in token_coefficients.settings().items()
    }
    return {
        f"{name}.share_left_in_toy": _whole_end(last, ratio) / exact.coefficient
        for name, ratio in ratios.items()
    }


def _layer_end(last: Trajectory, layer: int, ratio: float) -> float:
    task, settings = last.run.task, _layers.Chosen(CHOSEN.n_beta, ratio).settings()
    pair = last.w1[0], last.w2[0]
    one = layer_posterior(pair, layer, task.x, task.y, **settings)
    return CHOSEN.n_beta * float((one.mean - one.checkpoint_loss).mean())


def _whole_end(last: Trajectory, ratio: float) -> float:
    """Half the sum of h / (h + ratio) over the curvatures h = (a_j + b_k) / N at a minimum."""
    a = np.linalg.eigvalsh(last.w2[0] @ last.w2[0].T)
    b = np.linalg.eigvalsh(last.w1[0].T @ last.w1[0])
    h = (a[:, None] + b) / len(b)
    return float(0.5 * np.sum(h / (h + ratio)))
