"""What the figures claim, for the pages that show them."""

import importlib
import json
from functools import cache

from paper_figures._claims import EXPECTED
from paper_figures._data import Scale

MODELS = ("ReLU", "digits", "attention", "language")
"""Order of the models in cells of figure `bif_against_exact`."""
DIGITS = {
    "derivative and retraining, all times: Pearson": ["retraining.pearson"],
    "pairs that harm each other at step 8, 60, 400": [f"harm at {t}" for t in (8, 60, 400)],
    "pairs that change sign": ["flips"],
    "influence and confusions at step 60, 400: Pearson": ["confusion at 60", "confusion at 400"],
    "size, over that on the own class, at step 8, 60, 400": [
        f"others over own at {t}" for t in (8, 60, 400)
    ],
    "digits that are classified right at the end": ["accuracy"],
}
"""Row of the table of figure `digits` -> its claims."""


@cache
def expected(name):
    """Values that the tests of the figures hold at quick scale."""
    stored = json.loads((EXPECTED / f"{name}.json").read_text())
    return {key: one["value"] for key, one in stored.items() if "value" in one}


@cache
def drawn(name):
    """Numbers of a figure drawn anew at paper scale."""
    return importlib.import_module(f"paper_figures.{name}").draw(Scale.paper)[1]


def networks():
    """Measures of all networks of figure `nonlinear` at paper scale."""
    return importlib.import_module("paper_figures.nonlinear").measures(Scale.paper)


def of_models(estimator, quantity):
    """Values of the four models that have one, in the order of a cell."""
    claims = expected("bif_against_exact")
    keys = [f"{model}.{estimator}.{quantity}" for model in MODELS]
    return [claims[key] for key in keys if key in claims]
