"""Loss traces that share slow directions, as tokens of two rows, and a page of them."""

import numpy as np
import pytest
import xarray as xr

from dlnflow.explore import write_page
from dlnflow.traces import labelled

CHAINS, DRAWS, ITEMS = 4, 200, 40
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    '"onmouseover="alert(1)',
    "[[DATA]]",
    '"bytes":"000000000000"',
    "\u2028&lt;\\u003c",
)


def autoregressive(rng, shape, memory):
    """Stationary Gaussian series along axis 1 with unit variance."""
    noise = rng.standard_normal(shape)
    for d in range(1, shape[1]):
        noise[:, d] = memory * noise[:, d - 1] + np.sqrt(1 - memory**2) * noise[:, d]
    return noise


def make_traces(steps=(0, 100, 300), seed=0, draws=DRAWS):
    rng = np.random.default_rng(seed)
    losses = []
    for k in range(len(steps)):
        shared = autoregressive(rng, (CHAINS, draws, 3), 0.5)
        own = autoregressive(rng, (CHAINS, draws, ITEMS), 0.5)
        losses.append(2 + 0.1 * own + 0.05 * k * shared @ rng.standard_normal((3, ITEMS)))
    losses = np.array(losses)
    positions = np.arange(ITEMS)
    found = labelled(
        losses,
        time=steps,
        items=[f"{k // 20}:{k % 20 + 1}" for k in positions],
        checkpoint_loss=losses.mean((1, 2)),
        attrs={"n_beta": 50.0, "localization": 1.0, "n_train": 1000, "n_parameters": 10},
    )
    coords = {"row": positions // 20, "position": positions % 20 + 1, "token": positions % 7}
    return found.assign_coords({name: ("item", value) for name, value in coords.items()})


@pytest.fixture(scope="session")
def traces():
    """Three checkpoints; in the last one no chain is left."""
    made = make_traces()
    made.values[2] = np.nan
    return made


@pytest.fixture(scope="session")
def classes():
    members = np.arange(ITEMS)[:, None] % [2, 3] == 0
    return xr.DataArray(
        members,
        dims=("item", "token_class"),
        coords={"token_class": ["even", "<i>third</i>"]},
    )


@pytest.fixture(scope="session")
def words():
    return [*HOSTILE, *(f" word{k}\n" for k in range(ITEMS - len(HOSTILE)))]


@pytest.fixture(scope="session")
def page(traces, classes, words, tmp_path_factory):
    """(file, what write_page says of it)."""
    out = tmp_path_factory.mktemp("page") / "page.html"
    return out, write_page(traces, classes, words, out, title="<b>&title")
