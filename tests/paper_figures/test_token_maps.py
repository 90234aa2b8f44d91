"""What a store of text says about maps: planted classes are found, and equal ids told apart."""

import numpy as np
import pytest
import xarray as xr

from dlnflow.analysis import loss_map
from dlnflow.traces import neighbours
from paper_figures.token_maps import ALL, ONE, SHOWN, measure
from tests.traces import samples

NAMES = ["word_part", "induction"]
N_IDS, COPIES = 30, 8


@pytest.fixture(scope="module")
def sampled():
    """30 ids of eight tokens each, in two classes; ids share a factor, and nothing else does."""
    rng = np.random.default_rng(6)
    token = np.tile(np.arange(N_IDS), COPIES)
    factor = rng.standard_normal((2, 4, 150, N_IDS))
    losses = factor[..., token] + 0.3 * rng.standard_normal((2, 4, 150, len(token)))
    array = samples.traces(losses, n_beta=10.0, step_size=0.1, burn_in=10, thin=2)
    array = array.assign_coords(
        time=[100, 200],
        row=("item", np.repeat(np.arange(COPIES), N_IDS)),
        token=("item", token),
    )
    members = np.column_stack([token < 20, token >= 15])
    return array, xr.DataArray(members, dims=("item", "token_class"), coords={"token_class": NAMES})


@pytest.fixture(scope="module")
def found(sampled):
    return measure(*sampled, k=5)


def test_purity_is_that_of_neighbours_and_none_is_left_among_other_ids(sampled, found):
    for pairs, exclude in (("all pairs", "item"), ("other ids", "token")):
        direct = neighbours(*sampled, k=5, exclude=exclude).sel(token_class="word_part")
        value, error, dof = np.array(found["purity"][pairs]["word_part"]).T
        np.testing.assert_allclose(value, direct.purity - direct.purity_chance, rtol=1e-3)
        np.testing.assert_allclose(error, direct.purity_error, rtol=1e-3, atol=1e-5)
        assert (dof == COPIES - 1).all()
        # all of the five nearest are tokens of the own id, or they are chance
        if pairs == "all pairs":
            np.testing.assert_allclose(value, 1 - found["chance"][pairs]["word_part"], rtol=1e-3)
        else:
            assert (np.abs(value) < 5 * error).all()


def test_clusters_of_repeated_ids_are_gone_with_one_token_of_each(sampled):
    """Six groups of ids share a factor, except where an id stands for the first time."""
    traces, classes = sampled
    rng = np.random.default_rng(7)
    shared = rng.standard_normal((2, 4, 150, 6))[..., traces["token"].values % 6]
    losses = np.where(traces["row"] > 0, shared, 0) + 0.3 * rng.standard_normal(traces.shape)
    found = measure(traces.copy(data=losses.astype(traces.dtype)), classes, k=5)
    assert found["ids"] == N_IDS
    assert min(found["stability"][ALL]) > 0.6 > 0.2 > max(found["stability"][ONE])


def test_maps_hold_every_token_where_loss_map_puts_it(sampled, found):
    traces, classes = sampled
    placed = loss_map(traces)
    first, last, alone = found["maps"]
    assert (first["step"], last["step"], alone["step"]) == (100, 200, 200)
    assert (first["of"], alone["of"]) == (ALL, ONE)
    assert {n: len(x) for n, x in first["x"].items()} == {"word_part": SHOWN, "induction": 80}
    # tokens of both classes are drawn as that which is not induction
    only = (classes.values[:, 1]) & ~classes.values[:, 0]
    np.testing.assert_allclose(last["y"]["induction"], placed.values[1, only, 1], atol=5e-4)
    assert sum(map(len, alone["x"].values())) == N_IDS
