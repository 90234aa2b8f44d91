"""The numbers in a page of a table are those of influence and run, and names are text."""

import numpy as np
import pytest
import xarray as xr

import dlnflow as dln
from dlnflow.analysis import embedding, tree
from dlnflow.analysis.explain_events import mode_contributions
from dlnflow.explore import of_table
from dlnflow.explore.table import FINE_SHARE, SHARE
from tests.explore.conftest import HOSTILE, NAMES, TABLE_ESTIMATORS
from tests.explore.reading import Elements, curves_of, data_of, numbers


def square(one, data):
    """Curves of all pairs (T, Q, I)."""
    times, queries, trains = (len(data[name]) for name in ("steps", "query", "train"))
    values = curves_of(one, times)
    if not one["symmetric"]:
        return values.reshape(times, queries, trains)
    found = np.empty((times, queries, trains))
    found[:, *np.triu_indices(queries)] = values
    found[:, *np.triu_indices(queries)[::-1]] = values
    return found


def shown_order(curves, data):
    """Curves in the order of the page, in which neighbours of the tree stand together."""
    return curves.sel(query=data["query"], train=data["train"])


def test_curves_are_those_of_the_estimators(table_page, table_curves):
    data = data_of(table_page[0])
    errors = []
    for one in data["estimators"]:
        exact = shown_order(table_curves, data).sel(estimator=one["name"]).values
        apart = np.abs(square(one, data) - exact).max()
        np.testing.assert_allclose(apart, one["error"], rtol=1e-9)
        errors.append(apart)
        off = ~np.eye(8, dtype=bool)
        floor = 1e-3 * np.abs(exact[:, off]).max()
        assert apart <= FINE_SHARE * floor
        assert one["largest"] == np.abs(exact).max()
    assert [one["name"] for one in data["estimators"]] == list(TABLE_ESTIMATORS)
    assert [one["symmetric"] for one in data["estimators"]] == [True, False, False]
    assert data["first"] == "leave_one_out"
    np.testing.assert_allclose(table_page[1]["largest_error"], max(errors), rtol=1e-9)
    assert 0 < table_page[1]["error_over_floor"] <= FINE_SHARE


def test_what_a_page_of_a_table_says_of_itself(table_page, table_curves):
    out, found = table_page
    data = data_of(out)
    assert found["bytes"] == out.stat().st_size == int(data["bytes"]) < 250_000
    assert (found["queries"], found["items"]) == (8, 8)
    assert found["steps"] == table_curves.sizes["time"] == len(data["steps"])
    assert found["estimators"] == list(TABLE_ESTIMATORS)


def test_parts_of_modes_are_those_of_the_closed_form(table_page, table_run):
    data = data_of(table_page[0])
    modes, task = data["modes"], table_run.task
    sizes = modes["sizes"]
    x = numbers(modes["items"], (8, sum(sizes)))
    table = curves_of(modes["coefficients"], len(modes["times"]))
    rows, columns = np.triu_indices(len(sizes))
    starts = np.cumsum([0, *sizes[:-1]])
    for query, train in ((0, 1), (3, 3), (7, 0)):
        shared = np.add.reduceat(x[query] * x[train], starts)
        rest = float(query == train) - shared.sum()
        for place, k in enumerate(modes["times"]):
            matrix = np.zeros((len(sizes), len(sizes)))
            matrix[rows, columns] = matrix[columns, rows] = table[place, : len(rows)]
            null = table[place, len(rows) :]
            parts = -shared * (matrix @ shared + null * rest) / modes["whitening"]
            exact = mode_contributions(
                task, [data["flow_time"][k]], [query], [train], a0=modes["a0"]
            )[0]
            np.testing.assert_allclose(parts, exact, atol=2e-5)


def test_what_stands_beside_influence_is_of_the_run(table_page, table_run, table_curves):
    data = data_of(table_page[0])
    steps = table_curves.time.values
    trajectory = table_run.train(steps)
    assert data["frames"] == list(range(len(steps)))
    loss = numbers(data["loss"], (len(steps), 8))
    np.testing.assert_allclose(loss, trajectory.loss.values, rtol=1e-6, atol=1e-9)
    strength = numbers(data["strength"], (len(steps), 4))
    level = trajectory.mode_strengths[:, table_run.task.modes.blocks[2]].mean(axis=1)
    np.testing.assert_allclose(strength[:, 2], level, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(strength[-1], data["goals"], rtol=2e-3)
    picture = data["representation"]
    places = numbers(picture["places"], (len(steps), 8, picture["components"]))
    exact = embedding.embedding(trajectory, 3, common_drift=False)
    np.testing.assert_allclose(places, exact.values, atol=1e-6)
    order = [NAMES.index(name) for name in data["train"]]
    heights = numbers(data["tree"]["heights"], (len(steps), 7))
    joins = np.array(data["tree"]["joins"])
    exact = tree.heights(joins, trajectory.hidden[:, :, order])
    np.testing.assert_allclose(heights, exact, rtol=1e-5)
    assert tree.leaf_order(joins).tolist() == list(range(8))  # no branches cross
    assert data["query"] == data["train"] and sorted(order) == list(range(8))


def test_no_name_is_markup(table_page):
    elements = Elements(table_page[0])
    tags = [tag for tag, _ in elements.found]
    assert "img" not in tags and tags.count("script") == 2 and "i" not in tags
    assert not any(name.startswith("on") for _, attrs in elements.found for name in attrs)
    data = data_of(table_page[0])
    assert data["items"] == NAMES and data["modes"]["feature_names"][0] == HOSTILE[0]
    text = table_page[0].read_text(encoding="utf-8")
    assert not any(name in text for name in HOSTILE if "<" in name)


def test_a_page_of_a_table_needs_no_network(table_page):
    elements = Elements(table_page[0])
    assert [a["href"] for tag, a in elements.found if tag == "link"] == ["data:,"]
    assert not any("src" in attrs for _, attrs in elements.found)
    policy = next(a["content"] for _, a in elements.found if "http-equiv" in a)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_seeds_have_a_band_from_the_smallest_to_the_largest(tmp_path):
    task = dln.semantic_hierarchy()
    curves = dln.ensemble(task, 3, "analytic", [0, 100, 300, 700], train=["dog"])
    run = dln.Run(task, learning_rate=curves.attrs["learning_rate"])
    out = tmp_path / "page.html"
    of_table(run, curves, out)
    (one,) = (data := data_of(out))["estimators"]
    assert one["band"] == "range of 3 seeds"
    times = len(data["steps"])
    atol = 0.1 * one["different_floor"]
    for name, exact in (("low", curves.min("seed")), ("high", curves.max("seed"))):
        np.testing.assert_allclose(
            curves_of(one["bands"][name], times), shown_order(exact, data).values[..., 0], atol=atol
        )
    np.testing.assert_allclose(
        curves_of(one, times), shown_order(curves.mean("seed"), data)[..., 0], atol=atol
    )


def sampled(run, steps):
    """Curves with standard errors and verdicts, and no values at the third step."""
    exact = dln.influence.analytic(run, steps)
    values = exact.values.copy()
    values[2] = np.nan
    error = xr.full_like(exact, 0.1).drop_vars("standard_error", errors="ignore")
    verdict = np.array(["mixed"] * len(steps), dtype=object)
    verdict[1] = "not mixed"
    found = exact.copy(data=values).assign_attrs(estimator="bif")
    return found.assign_coords(standard_error=error, verdict=("time", verdict))


def test_sampled_curves_have_bands_gaps_and_verdicts(tmp_path):
    run = dln.Run(dln.semantic_hierarchy(), optimizer="flow")
    curves = sampled(run, run.grid(12))
    out = tmp_path / "page.html"
    of_table(run, curves, out)
    (one,) = (data := data_of(out))["estimators"]
    known = [k for k in range(len(data["steps"])) if k != 2]
    assert one["known"] == known and one["verdicts"][1] == "not mixed"
    assert one["band"] == "two standard errors"
    low, high = (curves_of(one["bands"][name], len(known)) for name in ("low", "high"))
    np.testing.assert_allclose(high - low, 0.4, rtol=1e-3)


def test_a_torch_run_has_curves_and_losses(tmp_path):
    torch = pytest.importorskip("torch")
    x, y = torch.eye(3), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    run = dln.TorchRun(
        torch.nn.Linear(3, 2), (x, y), loss="mse", optimizer="gd", learning_rate=0.1, n_steps=20
    )
    curves = dln.influence.tangent(run, [0, 5, 10, 20])
    out = tmp_path / "page.html"
    found = of_table(run, curves, out)
    data = data_of(out)
    assert (data["tree"], data["modes"], data["representation"]) == (None, None, None)
    assert found["error_over_floor"] <= FINE_SHARE
    exact = run.losses(np.array([0, 5, 10, 20]), np.ones((1, 3)))[0]
    np.testing.assert_allclose(numbers(data["loss"], (4, 3)), exact, rtol=1e-6)


def test_curves_that_a_page_cannot_show_are_refused(table_run, table_curves, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("old")
    one = table_curves.isel(estimator=0, drop=True).assign_attrs(estimator="analytic")
    swept = one.expand_dims(damping=[0.1, 1.0]).transpose("damping", ...)
    with pytest.raises(ValueError, match=r"dims damping.*curves.isel\(damping=0\)"):
        of_table(table_run, swept, out)
    with pytest.raises(ValueError, match="not of this run"):
        of_table(dln.Run(dln.semantic_hierarchy()), one, out)
    with pytest.raises(ValueError, match="analytic are not finite"):
        of_table(table_run, one * np.nan, out)
    with pytest.raises(ValueError, match="is a folder"):
        of_table(table_run, one, tmp_path, done=lambda *_: pytest.fail("began"))
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_a_page_of_a_thousand_items_stays_small(tmp_path):
    task = dln.Task((np.random.default_rng(0).random((60, 1000)) < 0.3).astype(float))
    run = dln.Run(task, optimizer="flow", hidden=120)
    curves = dln.influence.analytic(run, run.grid(60))
    found = of_table(run, curves, tmp_path / "page.html")
    assert found["bytes"] <= 30e6 and found["error_over_floor"] <= SHARE
    one = data_of(tmp_path / "page.html")["estimators"][0]
    assert one["symmetric"] and one["error"] <= SHARE * one["different_floor"]
