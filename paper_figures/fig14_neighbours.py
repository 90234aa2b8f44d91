"""Figure 14: whether a token's class shows in the tokens of high influence on it."""

import xarray as xr
from matplotlib.figure import Figure

from dlnflow.plots import tokens
from dlnflow.traces import neighbours
from paper_figures import _lm_data
from paper_figures._data import Scale

HEADLINES = {
    "induction.last": "recall of induction patterns {:.2f}",
    "induction.other_ids": "among other ids only {:.2f}",
    "induction.chance": "by chance {:.2f}",
}


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """Recall by class over checkpoints, against chance."""
    sampled = _lm_data.traces(scale, "text")
    return show(neighbours(*sampled), neighbours(*sampled, exclude="token"))


def show(found: xr.Dataset, apart: xr.Dataset | None = None) -> tuple[Figure, dict[str, float]]:
    """Draw recall with 95 % intervals; dashed: k random neighbours.

    `apart`: the same with neighbours of other vocabulary ids only, drawn dotted, like its chance.
    """
    claims = {}
    for name in map(str, found.token_class.values):
        one = found.sel(token_class=name)
        if apart is not None:
            other = apart.sel(token_class=name)
            claims[f"{name}.other_ids"] = float(other.recall[-1])
            claims[f"{name}.other_ids.above_chance"] = float(other.low[-1] - other.chance)
        claims |= {
            f"{name}.last": float(one.recall[-1]),
            f"{name}.chance": float(one.chance),
            f"{name}.above_chance": float(one.low[-1] - one.chance),
        }
    return tokens.recall(found, apart), claims
