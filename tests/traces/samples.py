"""Loss traces and classes of items whose answers are known."""

import numpy as np
import xarray as xr

from dlnflow.traces import labelled

NAMES = ["a", "b", "c"]
EXCLUDED = ["item", "row", "token", ("row", "token")]


def autoregressive(chains, draws, items, rho, seed=0):
    """AR(1) with variance 1: integrated autocorrelation time (1 + rho) / (1 - rho)."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((chains, draws, items))
    z[:, 1:] *= np.sqrt(1 - rho**2)
    for k in range(1, draws):
        z[:, k] += rho * z[:, k - 1]
    return z


def traces(losses, n_beta=100.0, checkpoint_loss=None, **attrs):
    """Loss traces of (time, chain, draw, item) values."""
    losses = np.asarray(losses)
    items = [f"i{k}" for k in range(losses.shape[-1])]
    start = np.ones((len(losses), len(items))) if checkpoint_loss is None else checkpoint_loss
    about = {"n_beta": n_beta, "localization": 1.0, "n_train": len(items), "n_parameters": 4}
    return labelled(
        losses, time=range(len(losses)), items=items, checkpoint_loss=start, attrs=about | attrs
    )


def correlated(chains, draws, rho, seed=0, items=3):
    """AR(1) losses with a known covariance between items."""
    mix = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.3, 0.2, 0.5]])[:items, :items]
    z = autoregressive(chains, draws, items, rho, seed)
    return 5 + z @ mix.T, mix @ mix.T


def make(values, rows=None, **attrs):
    values = np.asarray(values)
    n_items = values.shape[-1]
    about = {"n_beta": 30.0, "localization": 1.0, "n_train": 10, "n_parameters": 5} | attrs
    traces = labelled(
        values,
        time=np.arange(len(values)) * 10,
        items=[f"i{k}" for k in range(n_items)],
        checkpoint_loss=np.ones((len(values), n_items)),
        attrs=about,
    )
    return traces if rows is None else traces.assign_coords(row=("item", np.asarray(rows)))


def random_traces(seed=0, shape=(2, 3, 12, 9), rows=True):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((*shape[:3], 1)) * np.linspace(-1, 1, shape[-1])
    values = 3 + shared + rng.standard_normal(shape)
    return make(values, np.arange(shape[-1]) // 3 if rows else None)


def with_ids(traces, seed):
    """Give the items vocabulary ids, some of them shared within and between rows."""
    ids = np.random.default_rng(seed).integers(0, 5, traces.sizes["item"])
    return traces.assign_coords(token=("item", ids))


def random_classes(seed=0, n_items=9):
    members = np.random.default_rng(seed).random((n_items, 3)) < 0.4
    members[[0, 1, 4], [0, 1, 2]] = True
    members[[5, 6, 7], [0, 1, 2]] = True  # no class has a single token
    return xr.DataArray(members, dims=("item", "token_class"), coords={"token_class": NAMES})


def different(traces, exclude):
    """Which pairs of items are kept, (K, K)."""
    kept = ~np.eye(traces.sizes["item"], dtype=bool)
    for name in set(np.atleast_1d(exclude)) - {"item"}:
        kept &= traces[name].values[:, None] != traces[name].values
    return kept
