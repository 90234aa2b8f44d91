"""What a run looks like in a notebook."""

import numpy as np

from dlnflow._support import html
from dlnflow.dynamics.protocol import Dynamics


def table(run: Dynamics) -> str:
    """Return a short table as HTML: items, data and network, length; nothing is trained.

    Parameters
    ----------
    run : Run or TorchRun

    Returns
    -------
    str
        All names are escaped.
    """
    rows = {"items": html.names(run.items)}
    if tuple(run.queries) != tuple(run.items):
        rows["queries"] = html.names(run.queries)
    rows["about"] = "<br>".join(map(html.line, run.description))
    time = float(run.flow_time(run.n_steps))
    flow = "" if np.isnan(time) else f", flow time {time:.3g}"
    rows["length"] = f"{run.n_steps:,} steps of {run.learning_rate:.3g}{flow}"
    return html.summary(type(run).__name__, rows)
