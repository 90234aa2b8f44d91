"""Class means, nearest neighbours and top-k against loops over pairs of items."""

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from dlnflow.influence.bif import from_traces
from dlnflow.traces.format import labelled
from dlnflow.traces.groups import groups
from dlnflow.traces.neighbours import neighbours, predicted, wilson
from dlnflow.traces.pairs import matrix, top_k
from tests.tolerances import ALGEBRA

NAMES = ["a", "b", "c"]


EXCLUDED = ["item", "row", "token", ("row", "token")]


def make(values, rows=None, **attrs):
    values = np.asarray(values)
    n_items = values.shape[-1]
    about = {"n_beta": 30.0, "localization": 1.0, "n_train": 10, "n_parameters": 5} | attrs
    traces = labelled(
        values, time=np.arange(len(values)) * 10, items=[f"i{k}" for k in range(n_items)],
        checkpoint_loss=np.ones((len(values), n_items)), attrs=about,
    )  # fmt: skip
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


def pair_mean(full, members, g, h, kept):
    """Mean of full[k, l] over k in class g and l in class h by a loop over pairs."""
    k, l = np.flatnonzero(members[:, g]), np.flatnonzero(members[:, h])
    pairs = [(i, j) for i, j in itertools.product(k, l) if kept[i, j]]
    return np.mean([full[p] for p in pairs]) if pairs else np.nan, len(pairs)


def different(traces, exclude):
    """Which pairs of items are kept, (K, K)."""
    kept = ~np.eye(traces.sizes["item"], dtype=bool)
    for name in set(np.atleast_1d(exclude)) - {"item"}:
        kept &= traces[name].values[:, None] != traces[name].values
    return kept


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(EXCLUDED), st.booleans())
def test_groups_from_sums_are_those_of_the_matrix(seed, normalised, exclude, differences):
    traces, classes = with_ids(random_traces(seed), seed), random_classes(seed)
    found = groups(traces, classes, normalised=normalised, exclude=exclude, differences=differences)
    used = make(np.diff(traces, axis=2), traces.row) if differences else traces
    full = from_traces(used, normalised, errors=False)
    kept = different(traces, exclude)
    for t, g, h in itertools.product(range(2), range(3), range(3)):
        mean, n = pair_mean(full.values[t], classes.values, g, h, kept)
        assert found.values[t, g, h] == pytest.approx(mean, rel=1e-9, abs=ALGEBRA, nan_ok=True)
        assert found.pairs.values[g, h] == n


@given(st.integers(0, 10**6))
def test_order_of_tokens_and_chains_changes_nothing(seed):
    traces, classes = random_traces(seed), random_classes(seed)
    rng = np.random.default_rng(seed)
    items, chains = rng.permutation(9), rng.permutation(3)
    moved = groups(traces.isel(item=items, chain=chains), classes.isel(item=items))
    expected = groups(traces, classes)
    for name in ("standard_error", "chain_error", "row_error"):
        np.testing.assert_allclose(moved[name], expected[name], atol=1e-12)
    np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_blocks_do_not_matter(monkeypatch):
    traces, classes = random_traces(), random_classes()
    whole, full, best = groups(traces, classes), matrix(traces), top_k(traces, 3)
    monkeypatch.setattr("dlnflow.traces.columns.BLOCK", 4)
    monkeypatch.setattr("dlnflow.traces.pairs.BLOCK", 4)
    np.testing.assert_allclose(groups(traces, classes), whole, atol=1e-13)
    np.testing.assert_allclose(matrix(traces), full, atol=1e-13)
    assert (top_k(traces, 3).train == best.train).all()


def test_they_belong_to_bif():
    from dlnflow import influence

    assert (influence.bif.groups, influence.bif.matrix, influence.bif.top_k) == (
        groups, matrix, top_k,
    )  # fmt: skip


def test_chain_error_is_the_spread_of_chains():
    traces, classes = random_traces(), random_classes()
    found = groups(traces, classes, normalised=False)
    single = [groups(traces.isel(chain=[c]), classes, normalised=False).values for c in range(3)]
    expected = np.std(single, axis=0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(found.chain_error, expected, rtol=1e-9)


@pytest.mark.parametrize("exclude", EXCLUDED)
def test_row_error_is_a_jackknife(exclude):
    traces = with_ids(random_traces(shape=(2, 3, 12, 18)), 0)
    traces = traces.assign_coords(row=("item", np.arange(18) // 6))
    members = (
        np.random.default_rng(0).random((18, 3)) < np.where(np.arange(18) % 6 < 3, 1, 0.3)[:, None]
    )
    classes = xr.DataArray(members, dims=("item", "token_class"), coords={"token_class": NAMES})
    found = groups(traces, classes, exclude=exclude)
    keep = [np.flatnonzero(traces.row.values != r) for r in range(3)]
    without = [groups(traces.isel(item=i), classes.isel(item=i), exclude=exclude).values
               for i in keep]  # fmt: skip
    deviation = without - np.mean(without, axis=0)
    expected = np.sqrt(2 / 3 * np.sum(deviation**2, axis=0))
    np.testing.assert_allclose(found.row_error, expected, rtol=1e-9, atol=1e-13)


def test_error_shrinks_with_chains_and_covers_the_truth():
    """Independent items: the mean correlation is 0 within its error, which falls as 1/sqrt."""
    rng = np.random.default_rng(3)
    classes = np.repeat([[1, 0], [0, 1]], 20, axis=0)
    errors = []
    for n_chains in (8, 32):
        traces = make(rng.standard_normal((1, n_chains, 200, 40)))
        found = groups(traces, classes)
        assert (abs(found.values) < 5 * found.standard_error.values).all()
        errors.append(float(found.standard_error.mean()))
    assert 0.3 < errors[1] / errors[0] < 0.8


def test_shared_fluctuation_has_its_known_correlation():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((1, 4, 3000, 1))
    traces = make(shared + rng.standard_normal((1, 4, 3000, 10)))
    found = groups(traces, np.ones((10, 1)))
    assert float(found.squeeze()) == pytest.approx(-0.5, abs=0.02)
    assert found.verdict.item() == "mixed"


def test_unknown_or_impossible_exclusions_are_refused():
    traces, classes = random_traces(), random_classes()
    with pytest.raises(ValueError, match="`exclude`"):
        groups(traces, classes, exclude="column")
    with pytest.raises(ValueError, match="vocabulary ids"):
        groups(traces, classes, exclude=("row", "token"))


def test_differences_remove_a_slow_drift():
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 20, 400)[:, None]
    traces = make((drift + rng.standard_normal((4, 400, 10)))[None])
    assert float(groups(traces, np.ones((10, 1))).squeeze()) < -0.9
    fast = groups(traces, np.ones((10, 1)), differences=True)
    assert abs(float(fast.squeeze())) < 0.02
    assert groups(traces, np.ones((10, 1))).verdict.item() == "not mixed"


def test_classes_of_sequences_drop_position_zero():
    traces = random_traces(shape=(1, 2, 8, 6))
    members = np.zeros((2, 4, 1), bool)
    members[:, 0] = True  # position 0 has no loss
    members[1, 2:] = True
    dims = ("sequence", "position", "token_class")
    classes = xr.DataArray(members, dims=dims, coords={"token_class": ["x"]})
    flat = np.array([0, 0, 0, 0, 1, 1])[:, None]
    np.testing.assert_allclose(groups(traces, classes), groups(traces, flat))


def test_diverged_chains_are_left_out():
    traces = random_traces()
    traces.values[0, 1, 5:] = np.nan
    traces.values[1, 1:] = np.nan
    found = groups(traces, random_classes())
    expected = groups(traces.isel(chain=[0, 2], time=[0]), random_classes())
    np.testing.assert_allclose(found.values[0], expected.values[0])
    assert found.verdict.values[1] == "diverged"
    assert np.isnan(found.values[1]).all()


def test_items_that_never_move_are_uncorrelated():
    traces = random_traces()
    traces.values[..., 4] = 2.0
    assert np.isfinite(groups(traces, random_classes())).all()
    assert (matrix(traces).isel(query=4) == 0).all()


def test_bad_groups():
    traces, classes = random_traces(), random_classes()
    with pytest.raises(ValueError, match="`classes` b have no tokens"):
        groups(traces, classes.where(classes.token_class != "b", False))
    with pytest.raises(ValueError, match="each of the 9 items"):
        groups(traces, classes.isel(item=slice(5)))
    with pytest.raises(ValueError, match="needs at least 4"):
        groups(traces.isel(draw=slice(3)), classes)
    with pytest.raises(ValueError, match="`exclude`"):
        groups(traces, classes, exclude="rows")


@pytest.mark.parametrize("normalised", [True, False])
def test_matrix_is_that_of_from_traces(normalised):
    traces = random_traces()
    expected = from_traces(traces, normalised, errors=False)
    np.testing.assert_allclose(matrix(traces, normalised=normalised), expected, rtol=1e-9)
    some = matrix(traces, normalised=normalised, query=["i7", "i2"])
    np.testing.assert_allclose(some, expected.sel(query=["i7", "i2"]), rtol=1e-9)


@pytest.mark.parametrize("normalised", [True, False])
def test_results_of_traces_say_what_they_are(normalised):
    """Units of the form, the traces' own objective and hashes; not the squared loss."""
    traces, classes = random_traces(), random_classes()
    traces.attrs |= {"units": "nats", "observed_sha256": "abc"}
    found = [
        f(traces, *arguments, normalised=normalised)
        for f, *arguments in ((from_traces,), (matrix,), (groups, classes), (top_k, 2))
    ]
    for one in found:
        assert ("Pearson" in one.attrs["units"]) == normalised
        assert one.attrs["objective"] == "(1/N) sum_i w_i l_i"
        assert one.attrs["loss_units"] == "nats" and one.attrs["observed_sha256"] == "abc"
    assert neighbours(traces, classes, k=2).attrs["observed_sha256"] == "abc"


def test_top_k_is_the_sorted_matrix():
    traces = random_traces()
    full, found = matrix(traces), top_k(traces, 4)
    for t, q in itertools.product(range(2), range(9)):
        others = [k for k in range(9) if k != q]
        order = sorted(others, key=lambda k: full.values[t, q, k])[:4]
        assert found.train.values[t, q].tolist() == [f"i{k}" for k in order]
        np.testing.assert_allclose(found.influence.values[t, q], full.values[t, q, order])
    with pytest.raises(ValueError, match="`k` must be below"):
        top_k(traces, 9)
    with pytest.raises(ValueError, match="'i99', which was not observed"):
        top_k(traces, 2, query=["i99"])


def test_prediction_by_hand():
    """Classes of 4 and 2 of 7 tokens: two votes for the rare one outweigh three for the other."""
    members = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 0]], float)
    # query 6: votes (3, 2); query 4, left out of its class: votes (3, 1); query 0: no votes
    for frequency, best, expected in (
        ([4 / 6, 2 / 6], [0, 1, 2, 4, 5], [0, 1]),
        ([4 / 6, 1 / 6], [0, 1, 2, 5], [0, 1]),
        ([3 / 6, 2 / 6], [6], [0, 0]),
    ):
        assert predicted(members, np.array([frequency]), np.array([best])).tolist() == [expected]


@pytest.mark.parametrize("exclude", ["item", "row", "token", ("row", "token")])
def test_recall_and_chance_against_loops(exclude):
    """Neighbours, frequencies and random neighbours come from the same allowed items."""
    rng = np.random.default_rng(5)
    classes = rng.random((30, 3)) < 0.4
    classes[:3] |= np.eye(3, dtype=bool)
    row, token = np.repeat(np.arange(6), 5), rng.integers(9, size=30)
    traces = make(rng.standard_normal((1, 2, 60, 30)), row).assign_coords(token=("item", token))
    found = neighbours(traces, classes, k=4, exclude=exclude, seed=1)
    similarity = -matrix(traces).values[0]
    kinds = {"item": np.arange(30), "row": row, "token": token}
    labels = [kinds[e] for e in ([exclude] if isinstance(exclude, str) else exclude)]
    hits, chance = np.zeros((30, 3)), np.zeros((30, 3))
    for q in np.flatnonzero(classes.any(1)):
        allowed = [j for j in range(30) if not any(label[j] == label[q] for label in labels)]
        frequency = classes[allowed].mean(0)

        def vote(best, frequency=frequency):
            score = classes[best].sum(0) / np.where(frequency > 0, frequency, np.inf)
            return np.eye(3)[score.argmax()] * (score.max() > 0)

        hits[q] = vote(sorted(allowed, key=lambda j: -similarity[q, j])[:4])
        chance[q] = np.mean([vote(rng.choice(allowed, 4, replace=False)) for _ in range(400)], 0)
    count = classes.sum(0)
    np.testing.assert_allclose(found.recall[0], (hits * classes).sum(0) / count, atol=1e-12)
    # binomial error of 20 and 400 draws for each of the class's tokens
    error = np.sqrt(0.25 / count * (1 / 20 + 1 / 400))
    assert (abs(found.chance - (chance * classes).sum(0) / count) < 4 * error).all()


def test_more_neighbours_than_exclude_leaves():
    traces = make(np.random.default_rng(0).standard_normal((1, 2, 9, 6)), np.repeat([0, 1], 3))
    neighbours(traces, np.eye(2)[np.arange(6) % 2], k=3, exclude="row")
    with pytest.raises(ValueError, match="`k` must be at most 3"):
        neighbours(traces, np.eye(2)[np.arange(6) % 2], k=4, exclude="row")
    for kind in ("row", "token"):
        with pytest.raises(ValueError, match=f'no coordinate "{kind}"'):
            neighbours(traces.drop_vars("row"), np.ones((6, 1)), k=1, exclude=kind)


def test_separate_clusters_are_recalled_and_noise_is_chance():
    rng = np.random.default_rng(0)
    classes = xr.DataArray(np.repeat(np.eye(3), 40, axis=0), dims=("item", "token_class"),
                           coords={"token_class": NAMES})  # fmt: skip
    cause = rng.standard_normal((1, 2, 300, 3)) @ classes.values.T
    noise = rng.standard_normal((1, 2, 300, 120))
    found = neighbours(make(cause + noise), classes, k=5)
    np.testing.assert_array_equal(found.recall, 1.0)
    assert (found.low > found.chance).all()
    nothing = neighbours(make(noise), classes, k=5)
    assert (abs(nothing.recall - nothing.chance) < 0.2).all()
    # f_c(q) leaves q out, so a draw between classes goes to q's own: chance is above 1/3
    assert (found.chance > 1 / 3).all()
    assert (found.chance < 0.5).all()
    assert not found.too_rare.any()


def test_neighbours_of_the_same_row_can_be_excluded():
    rng = np.random.default_rng(0)
    cause = np.repeat(rng.standard_normal((1, 2, 100, 8)), 2, axis=3)  # pairs within a row
    rows = np.repeat(np.arange(8), 2)
    classes = np.zeros((16, 2))
    classes[:8, 0] = classes[8:, 1] = 1
    traces = make(cause + 0.01 * rng.standard_normal((1, 2, 100, 16)), rows)
    assert (neighbours(traces, classes, k=1).recall == 1).all()
    apart = neighbours(traces, classes, k=1, exclude="row")
    assert (apart.recall < 1).any()
    assert apart.too_rare.all()
    same = neighbours(traces.assign_coords(token=("item", rows)), classes, k=1, exclude="token")
    assert same.drop_attrs().identical(apart.drop_attrs())


def test_wilson_interval():
    low, high = wilson(np.array([0.0, 0.5, 1.0]), np.array([10, 10, 10]))
    np.testing.assert_allclose(low, [0.0, 0.2366, 0.7225], atol=1e-4)
    np.testing.assert_allclose(high, [0.2775, 0.7634, 1.0], atol=1e-4)
