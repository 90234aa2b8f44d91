"""Chosen settings of a sampler as lines for a terminal: what was measured, and what it means."""

from collections.abc import Mapping, Sequence
from math import sqrt
from textwrap import wrap
from typing import Any

WIDTH = 79
"""Columns of a line at most."""


def lines(record: Mapping[str, Any]) -> list[str]:
    """Return what `dlnflow.lm.experiment.suggest(...).record()` says, in lines of `WIDTH`.

    Parameters
    ----------
    record : mapping
        Settings, verdict, what was measured at checkpoints, and pilots.

    Returns
    -------
    list of str
    """
    settings, measured = record["settings"], record["measured"]
    shown = ["setting       value    what it means", *_meanings(record), ""]
    shown += _rows(
        ("step", "loss", "largest", "lowest", "ratio", "x", "noise", "variance"),
        [
            (
                f"{g['step']}",
                f"{g['loss']:.3f}",
                f"{g['stiffest']:.3g}",
                f"{g['lowest']:.2g}",
                f"{settings['n_beta'] * g['stiffest'] / settings['localization']:.2f}",
                f"{g['overshoot']:.2f}",
                f"{g['heat']:.2f}",
                f"{g['variance']:.2f}",
            )
            for g in measured
        ],
    )
    border = settings["localization"] / settings["n_beta"]
    shown += _wrapped(
        "largest and lowest are curvatures of the mean loss. Above localization / n_beta = "
        f"{border:.3g} the posterior rules a direction, below it the localization; ratio is the "
        "largest over that. In the stiffest direction x is the step size times curvature (unstable "
        "at 4), noise what minibatches add, and variance how many times too large both make it."
    )
    if record["pilots"]:
        shown += ["", *_pilots(record)]
    return [*shown, "", *_wrapped(_verdict(record))]


def _meanings(record: Mapping[str, Any]) -> list[str]:
    """Return a line for every setting."""
    s, measured = record["settings"], record["measured"]
    one = 1 / sqrt(s["localization"])
    together = one * sqrt(measured[-1]["n_parameters"])
    share = 100 * together / measured[-1]["length"]
    relaxation = record["relaxation"]
    words = {
        "n_beta": "inverse temperature of the mean loss",
        "localization": f"a weight moves by {one:.2g}, all by {together:.4g} "
        f"({share:.0f} % of |theta|)",
        "step_size": f"what the localization rules relaxes in {relaxation:.3g} steps",
        "burn_in": f"{s['burn_in'] / relaxation:.0f} relaxations before the first draw",
        "thin": f"{s['thin'] / relaxation:.2f} relaxations between draws",
    }
    return [f"{name:13} {s[name]:<8.6g} {meaning}" for name, meaning in words.items()]


def _pilots(record: Mapping[str, Any]) -> list[str]:
    """Return the table of pilots."""
    header = ("pilot at", "R-hat", "steps per draw", "slowest", "rise", "n_beta", "localization")
    rows = [
        (
            f"{p['step']}",
            _number(p["r_hat"], ".3f"),
            _number(p["steps_per_draw"], ".0f"),
            _number(p["slowest"], ".0f"),
            _number(p["rise"], "+.3f"),
            f"{p['n_beta']:.6g}",
            f"{p['localization']:.6g}",
        )
        for p in record["pilots"]
    ]
    return _rows(header, rows) + _wrapped(
        "steps per draw are worth one independent draw of the median class mean; slowest and R-hat "
        "are the largest of all class means and their squared deviations; rise is that of the "
        "observed loss, in nats."
    )


def _verdict(record: Mapping[str, Any]) -> str:
    s = record["settings"]
    given = " ".join(f"--set {name}={value:.6g}" for name, value in s.items())
    if record["verdict"] == "mixed":
        slowest = max(p["steps_per_draw"] for p in _last(record))
        worth = 1000 * min(1.0, s["thin"] / slowest)
        return (
            f"The pilot mixes: 1,000 draws are worth about {worth:.0f} independent ones. "
            f"`dlnflow lm sample` chooses the same; to give them: {given}"
        )
    if record["verdict"] == "no pilot":
        return f"No pilot was run. To give these settings: {given}"
    return (
        "The pilot does NOT mix. Give a larger localization or a smaller n_beta (`--set`), and "
        f"look at the verdict of `dlnflow lm groups`. These settings: {given}"
    )


def _last(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the pilots of the settings."""
    names = ("n_beta", "localization", "step_size")
    return [p for p in record["pilots"] if all(p[n] == record["settings"][n] for n in names)]


def _number(value: float | None, how: str) -> str:
    return "none" if value is None else format(value, how)


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table whose columns end below each other."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (header, *rows)
    ]


def _wrapped(text: str) -> list[str]:
    return wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
