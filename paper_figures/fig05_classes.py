"""Figure 5: influence between structural classes of tokens over the checkpoints."""

import xarray as xr
from matplotlib.figure import Figure

from dlnflow.plots import tokens
from dlnflow.traces import groups
from paper_figures import _lm_data
from paper_figures._data import Scale

HEADLINES = {
    "induction.induction.last": "induction on induction at the last checkpoint {:.4f}",
    "loss.last": "held-out loss {:.2f} nats",
}


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """One panel per query class; last, loss and learning coefficient."""
    traces, classes = _lm_data.traces(scale, "text")
    return show(groups(traces, classes), traces, groups(traces, classes, exclude="token"))


def show(
    found: xr.DataArray, traces: xr.DataArray, apart: xr.DataArray | None = None
) -> tuple[Figure, dict[str, float]]:
    """Draw class influence and the usual companion from results.

    `apart`: the same without pairs of one vocabulary id; drawn dashed for a class on itself.
    """
    names = [str(n) for n in found["query"].values]
    figure = tokens.class_influence(found, traces, apart)
    last = found.isel(time=-1)
    claims = {f"{q}.{i}.last": float(last.sel(query=q, train=i)) for q in names for i in names}
    if apart is not None:
        claims |= {
            f"{q}.other_ids.{k}": float(apart.sel(query=q, train=q)[t])
            for q in names
            for k, t in (("first", 0), ("last", -1))
        }
    loss = traces.checkpoint_loss.mean("item")
    return figure, claims | {"loss.last": float(loss[-1])}
