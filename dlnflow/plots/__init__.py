"""Figures of influence over training, on matplotlib, which is loaded on first use.

``plots.plot_influence`` and ``plots.overview`` draw curves of items, ``plots.class_influence``,
``plots.recall`` and ``plots.repeats`` those of a language model; ``plots.save_figure`` writes
PNG, PDF and SVG. To build a figure of your own, draw on one axis with the functions of
``plots.panels``.
"""

from dlnflow._support.lazy import on_request

_NAMES = {
    "STYLE": "dlnflow.plots.panels",
    "class_influence": "dlnflow.plots.tokens",
    "overview": "dlnflow.plots.influence_plots",
    "plot_influence": "dlnflow.plots.influence_plots",
    "recall": "dlnflow.plots.tokens",
    "repeats": "dlnflow.plots.tokens",
    "save_figure": "dlnflow.plots.influence_plots",
}
"""Public name -> the module that defines it."""
_MODULES = {
    name: f"dlnflow.plots.{name}"
    for name in ("influence_plots", "keys", "overviews", "panels", "tokens")
}

__all__ = sorted([*_NAMES, *_MODULES])
__getattr__ = on_request(__name__, _NAMES, _MODULES)
