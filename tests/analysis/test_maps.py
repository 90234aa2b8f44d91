"""Maps keep distances, do not depend on the gauge, and clusters are those that were planted."""

import sys
import types

import numpy as np
import pytest
import xarray as xr

import dlnflow as dln
from dlnflow.analysis import clusters, loss_map, profile_distances
from dlnflow.traces import influence, neighbours
from dlnflow.traces.neighbours import shared_error
from tests.traces.samples import make


def planted(seed=0, shape=(2, 4, 150), sizes=(6, 5, 7), noise=0.4):
    """Losses of items whose class shares its fluctuation."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(len(sizes)), sizes)
    cause = rng.standard_normal((*shape, len(sizes)))
    return make(cause[..., kind] + noise * rng.standard_normal((*shape, len(kind)))), kind


def distances(placed):
    return np.linalg.norm(placed.values[:, :, None] - placed.values[:, None], axis=-1)


def test_distances_are_those_of_the_loss_kernel():
    traces, _ = planted()
    kernel = -influence(traces, normalised=True, errors=False).values
    found = profile_distances(traces)
    np.testing.assert_allclose(found**2, np.maximum(2 - 2 * kernel, 0), atol=1e-8)
    # with as many components as it takes nothing is lost, and alignment turns without bending
    placed = loss_map(traces, 17)
    np.testing.assert_allclose(distances(placed), found, atol=1e-7)
    np.testing.assert_allclose(placed.explained.sum("component"), 1, rtol=1e-9)


def test_from_influence_the_profile_is_a_row():
    run = dln.Run(dln.semantic_hierarchy(), hidden=8)
    curves = dln.influence.tangent(run, [200, 800])
    found = profile_distances(curves)
    rows = curves.values / np.linalg.norm(curves.values, axis=2, keepdims=True)
    expected = np.linalg.norm(rows[:, :, None] - rows[:, None], axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert loss_map(curves).dims == ("time", "item", "component")


def test_the_plane_is_the_best_one():
    """Against scikit-learn's principal components, up to signs."""
    from sklearn.decomposition import PCA

    traces, _ = planted(seed=1, shape=(1, 2, 9))
    placed = loss_map(traces, 2)
    z = traces.values[0] - traces.values[0].mean(1, keepdims=True)
    z = (z / np.sqrt((z**2).sum((0, 1)))).reshape(18, -1).T
    other = PCA(2, svd_solver="full").fit(z)
    expected = other.transform(z)
    np.testing.assert_allclose(np.abs(placed[0]), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(placed.explained[0], other.explained_variance_ratio_, rtol=1e-8)


@pytest.mark.parametrize("method", ["pca", "mds"])
def test_maps_are_deterministic_and_free_of_the_order_of_chains(method):
    traces, _ = planted()
    placed = loss_map(traces, method=method)
    assert placed.identical(loss_map(traces, method=method))
    turned = traces.isel(chain=[2, 0, 3, 1])
    tolerance = {"pca": 1e-8, "mds": 1e-2}[method]
    again = distances(loss_map(turned, method=method))
    np.testing.assert_allclose(again, distances(placed), atol=tolerance)


def test_alignment_undoes_a_rotation():
    """The same kernel at every time, in another basis of draws: aligned maps do not move."""
    traces, _ = planted(shape=(1, 2, 60))
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    centred = traces.values - traces.values.mean(2, keepdims=True)
    # keeps the mean over draws at 0, and with it every covariance
    basis = np.linalg.qr(np.column_stack([np.ones(60), np.eye(60)[:, 1:]]))[0][:, 1:]
    turn = basis @ np.linalg.qr(rng.standard_normal((59, 59)))[0] @ basis.T
    moved = np.einsum("de,tcek->tcdk", turn, centred)
    both = make(np.concatenate([centred, moved, centred[:, ::-1]]))
    placed = loss_map(both)
    for t in (1, 2):
        np.testing.assert_allclose(placed[t], placed[0], atol=1e-8)


def test_stress_scaling_bends_distances_less():
    traces, _ = planted(sizes=(4, 4, 4, 4), noise=0.6)
    exact = profile_distances(traces).values
    stress = [np.mean((distances(loss_map(traces, method=m)) - exact) ** 2) for m in ("pca", "mds")]
    assert stress[1] < stress[0]


def test_clusters_are_found_and_stable_and_noise_is_not():
    traces, kind = planted()
    found = clusters(traces, 3, n_components=3)
    for row in found.cluster.values:
        assert len({(k, c) for k, c in zip(kind, row, strict=True)}) == 3
    assert (found.stability == 1).all() and (found.least_stability == 1).all()
    np.testing.assert_array_equal(found.cluster[0], found.cluster[1])  # the numbers stay
    noise = make(np.random.default_rng(0).standard_normal((1, 4, 150, 40)))
    assert abs(float(clusters(noise, 3).stability[0])) < 0.15
    few = clusters(traces.isel(chain=[0, 1]), 3)
    assert np.isnan(few.stability).all() and (few.cluster >= 0).all()


def test_purity_counts_neighbours_of_the_own_class():
    traces, kind = planted(noise=0.1)
    members = kind[:, None] == np.arange(3)
    found = neighbours(traces, members, k=4)
    np.testing.assert_allclose(found.purity, 1)
    n = members.sum(0)
    np.testing.assert_allclose(found.purity_chance, (n - 1) / (len(kind) - 1))
    noise = make(np.random.default_rng(0).standard_normal((1, 4, 200, 120)))
    mixed = np.random.default_rng(1).random((120, 2)) < 0.5
    found = neighbours(noise, mixed, k=20)
    z = (found.purity - found.purity_chance) / found.purity_error
    assert (abs(z) < 4).all()
    # the error of independent tokens is sd / sqrt(n), by hand
    similarity = -influence(noise, True, errors=False).values[0]
    np.fill_diagonal(similarity, -np.inf)
    best = np.argsort(-similarity, axis=1)[:, :20]
    share = mixed[best].mean(1)
    for c in range(2):
        own = share[mixed[:, c], c]
        assert float(found.purity[0, c]) == pytest.approx(own.mean())
        error = own.std(ddof=1) / np.sqrt(len(own))
        assert float(found.purity_error[0, c]) == pytest.approx(error)


def test_the_error_of_purity_counts_tokens_that_share_a_row_or_an_id():
    """Against the double sum over pairs."""
    rng = np.random.default_rng(3)
    noise = make(rng.standard_normal((1, 4, 60, 40)))
    row, token = rng.integers(0, 5, 40), rng.integers(0, 8, 40)
    traces = noise.assign_coords(row=("item", row), token=("item", token))
    members = np.column_stack([np.arange(40) < 30, np.arange(40) > 15])
    found = neighbours(traces, members, k=5)
    similarity = -influence(noise, True, errors=False).values[0]
    np.fill_diagonal(similarity, -np.inf)
    share = members[np.argsort(-similarity, axis=1)[:, :5]].mean(1)
    for c in range(2):
        own = np.flatnonzero(members[:, c])
        e = share[own, c] - share[own, c].mean()
        same = [one[own][:, None] == one[own] for one in (row, token)]
        sums = [e @ pairs @ e for pairs in (*same, same[0] | same[1])]
        n = min(len(np.unique(one[own])) for one in (row, token))
        error = np.sqrt(max(sums) * n / (n - 1)) / len(own)
        assert float(found.purity_error[0, c]) == pytest.approx(error)
        assert int(found.purity_dof[c]) == n - 1


def test_the_error_of_purity_is_the_spread_over_rows_and_ids():
    """Effects of rows and ids: the error is right, that of independent tokens too small."""
    rng = np.random.default_rng(4)
    row, token = np.repeat(np.arange(30), 20), rng.integers(0, 30, 600)
    members = np.ones((600, 1))
    means, errors = [], []
    for _ in range(200):
        share = rng.standard_normal(30)[row] + rng.standard_normal(30)[token]
        share = (share + rng.standard_normal(600))[:, None]
        means.append(float(share.mean()))
        errors.append(float(shared_error(share, members, [row, token])[0]))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.15)
    assert np.std(means) > 3 * np.sqrt(3 / 600)


def test_umap_is_asked_for_neighbourhoods_of_the_profiles(monkeypatch):
    traces, _ = planted()
    asked = []

    class UMAP:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, points):
            assert points.shape == (18, 600)
            return points[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    loss_map(traces, method="umap", seed=5, neighbors=7)
    assert asked[0]["metric"] == "cosine" and asked[0]["random_state"] == 5
    assert asked[0]["n_neighbors"] == 7
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ModuleNotFoundError, match=r"dlnflow\[umap\]"):
        loss_map(traces, method="umap")


@pytest.mark.slow
def test_umap_itself_keeps_planted_classes_together_and_repeats_itself():
    """Slow: its libraries are compiled when they are first used."""
    pytest.importorskip("umap", reason="needs the extra umap")
    traces, kind = planted(sizes=(15, 15, 15))
    placed = loss_map(traces, method="umap", seed=3, neighbors=8)
    np.testing.assert_array_equal(placed, loss_map(traces, method="umap", seed=3, neighbors=8))
    for apart in distances(placed):
        np.fill_diagonal(apart, np.inf)
        assert (kind[apart.argmin(1)] == kind).all()


def test_diverged_checkpoints_are_left_blank():
    traces, _ = planted()
    traces[0] = np.nan
    placed, found = loss_map(traces), clusters(traces, 3)
    assert np.isnan(placed[0]).all() and np.isfinite(placed[1]).all()
    assert (found.cluster[0] == -1).all() and np.isnan(found.stability[0])


def test_what_cannot_be_placed_is_refused():
    traces, _ = planted()
    with pytest.raises(ValueError, match="must be below the number of items, 18"):
        loss_map(traces, 18)
    with pytest.raises(ValueError, match="`n_clusters` must be below"):
        clusters(traces, 18)
    with pytest.raises(ValueError, match="Select one entry of a sweep"):
        loss_map(xr.DataArray(np.zeros((2, 2)), dims=("a", "b")))
    with pytest.raises(ValueError, match="`method`"):
        loss_map(traces, method="tsne")


TRACES, _ = planted(shape=(1, 4, 20))


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        *(("seed", wrong) for wrong in (-1, 1.5, "a", None, True, 2**40)),
        *(("neighbors", wrong) for wrong in (0, -1, 1.5, "no", None)),
        *(("align", wrong) for wrong in ("no", None, 1)),
    ],
)
def test_options_of_maps_are_checked_whatever_the_method(option, wrong):
    for method in ("pca", "mds"):
        with pytest.raises(ValueError, match=f"^`{option}` must be"):
            loss_map(TRACES, method=method, **{option: wrong})
    if option == "seed":
        with pytest.raises(ValueError, match=r"^`seed` must be"):
            clusters(TRACES, 2, seed=wrong)


def test_options_of_maps_without_effect_are_said():
    expected = loss_map(TRACES)
    for option in ({"seed": 3}, {"neighbors": 4}):
        with pytest.warns(UserWarning, match="have no effect on 'pca'"):
            assert loss_map(TRACES, **option).identical(expected)


def test_whole_numbers_of_clusters_may_be_floats():
    expected = clusters(TRACES, 3, n_components=2)
    assert clusters(TRACES, 3.0, n_components=2.0).identical(expected)


def test_maps_are_of_numbers_and_of_different_items():
    """Imaginary parts were dropped, and no train item at all made a map of one point."""
    found = influence(TRACES)
    names = ["a"] * found.sizes["query"]
    for wrong, words in (
        (found * 1j, "real numbers"),
        (found.astype(str), "real numbers"),
        (found.isel(train=[]), "real numbers, got float64 of sizes"),
        (found.assign_coords(query=names), "different names"),
        (found.to_dataset(name="x"), "must be an xarray.DataArray"),
        (found.values, "must be an xarray.DataArray"),
    ):
        for reader in (loss_map, profile_distances):
            with pytest.raises(ValueError, match=f"^`source` .*{words}"):
                reader(wrong)
