"""Windows of changed weight against one retraining per window, and their derivative."""

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.dynamics import windows
from dlnflow.influence import windowed
from tests.influence.small_runs import DISCRETE, small_run
from tests.tolerances import TANGENT_VS_DIFFERENCE

STARTS = [0, 3, 4, 20, 47]


def _retrained(run, starts, width, weight, at):
    """One training from the beginning per (window, item), by `Run.losses`."""
    n_items = run.task.n_items
    steps = np.arange(run.n_steps + 1)
    full = run.losses(steps, np.ones((1, n_items)))[0]
    result = np.zeros((len(starts), n_items, n_items))
    for s, start in enumerate(starts):
        changed = 1 - (1 - weight) * np.eye(n_items)
        schedule = dln.Schedule.window(np.ones(n_items), changed, start=start, stop=start + width)
        difference = (full - run.losses(steps, schedule)) / (1 - weight)  # (train, step, query)
        inside = slice(start + 1, start + width + 1)
        chosen = difference[:, inside].mean(axis=1) if at == "window" else difference[:, at]
        result[s] = chosen.T
    return result


@pytest.mark.parametrize(("optimizer", "depth"), DISCRETE)
@pytest.mark.parametrize("one_hot", [True, False])
def test_branches_are_the_retrainings(optimizer, depth, one_hot):
    run = small_run(optimizer, depth, one_hot=one_hot)
    for width, weight, at in [(1, 0.0, "window"), (9, 2.5, "window"), (9, 0.0, 60), (9, 0.3, 57)]:
        got = windowed(run, STARTS, window=width, weight=weight, at=at)
        expected = _retrained(run, STARTS, width, weight, at)
        assert np.abs(got.values - expected).max() <= 1e-11 * np.abs(expected).max()


@pytest.mark.parametrize(("optimizer", "depth"), DISCRETE)
@pytest.mark.parametrize("at", ["window", "end", 58])
def test_first_order_is_the_central_difference(optimizer, depth, at):
    run = small_run(optimizer, depth)
    options = {"window": [1, 10], "at": at}
    exact = windowed(run, STARTS, first_order=True, **options)
    eps = 1e-5
    both = [windowed(run, STARTS, weight=1 + e, **options).values for e in (eps, -eps)]
    assert np.abs(np.mean(both, axis=0) - exact.values).max() <= (
        TANGENT_VS_DIFFERENCE * np.abs(exact.values).max()
    )


@pytest.mark.parametrize("side", [1, -1])
def test_small_changes_tend_to_first_order_linearly(paper_run, side):
    starts = np.arange(0, 2000, 100)
    truth = windowed(paper_run, starts, window=200, first_order=True, train="dog").values
    errors = [
        np.abs(
            windowed(paper_run, starts, window=200, weight=1 + side * e, train="dog").values - truth
        ).max()
        for e in (0.02, 0.01, 0.005)
    ]
    assert np.all(np.abs(np.log2(np.array(errors[:-1]) / errors[1:]) - 1) < 0.1)


def test_a_list_of_widths_is_a_leading_dimension():
    run = small_run()
    several = windowed(run, STARTS, window=[2, 7])
    assert several.dims == ("window", "time", "query", "train")
    for width in (2, 7):
        alone = windowed(run, STARTS, window=width)
        assert alone.attrs["window"] == width
        np.testing.assert_array_equal(several.sel(window=width).values, alone.values)


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("at", ["window", "end"])
def test_default_windows_are_a_twentieth_and_stop_at_the_end(first_order, at):
    run = small_run()
    got = windowed(run, [0, 56, 58, 60], at=at, first_order=first_order)
    assert got.attrs["window"] == 3
    options = {"at": at, "first_order": first_order}
    np.testing.assert_allclose(got[:2], windowed(run, [0, 56], window=3, **options), rtol=1e-12)
    np.testing.assert_allclose(got[2], windowed(run, [58], window=2, **options)[0], rtol=1e-12)
    assert np.all(got[3] == 0)
    assert np.all(windowed(run, [60], **options) == 0)


@pytest.mark.parametrize("at", ["window", "end"])
def test_items_that_take_turns_for_memory_change_nothing(at, monkeypatch):
    run = small_run("adam")
    whole = windowed(run, STARTS, window=9, at=at).values
    monkeypatch.setattr(windows, "MAX_NUMBERS", 0)
    np.testing.assert_allclose(windowed(run, STARTS, window=9, at=at).values, whole, rtol=1e-9)


def test_number_of_windows_open_at_once():
    starts = np.array([0, 3, 4, 20, 47])
    for width, most in ((1, 1), (2, 2), (4, 2), (5, 3), (17, 3), (18, 3), (60, 5)):
        assert windows.Windows(starts, starts + width, None).most_open == most
    assert windows.Windows(starts, starts + 1, 60).most_open == 5


def test_subsets_are_slices():
    run = small_run()
    for options in ({}, {"first_order": True}):
        whole = windowed(run, STARTS, window=5, **options)
        names = whole["query"].values
        part = windowed(run, STARTS, window=5, query=names[[2, 0]], train=names[1], **options)
        chosen = whole.sel(query=names[[2, 0]], train=names[[1]])
        np.testing.assert_allclose(part.values, chosen.values, rtol=1e-11)


def test_the_window_in_which_dog_matters_is_earlier_for_sparrow_than_for_cat(paper_run):
    """Paper, appendix C.5: the critical period follows the level of the hierarchy."""
    starts = np.arange(0, 3500, 50)
    curves = windowed(paper_run, starts, window=200, train="dog", query=["sparrow", "cat"])
    sparrow, cat = curves.values[:, :, 0].T
    assert sparrow.min() < -1e-3 and cat.min() < -1e-3
    assert starts[sparrow.argmin()] + 100 < starts[cat.argmin()]


def test_bad_input_is_refused():
    run = small_run()
    with pytest.raises(ValueError, match=r"`window` must end within the run, of length 60: 2 of 3"):
        windowed(run, [0, 51, 60], window=10)
    with pytest.raises(ValueError, match=r"measurement, at step 20.* latest possible start is 10"):
        windowed(run, [0, 15], window=10, at=20)
    for weight in (1, 1 - 1e-13, 1 + 1e-15, -0.1, np.nan, np.inf, "a"):
        with pytest.raises(ValueError, match="`weight`"):
            windowed(run, [0], window=10, weight=weight)
    for window in (0, -3, 2.5, [5, 0], [5, 2.5], [], [5, 5], [[5]]):
        with pytest.raises(ValueError, match="`window`"):
            windowed(run, [0], window=window)
    for at in ("start", 0, 61, 3.5):
        with pytest.raises(ValueError, match="`at`"):
            windowed(run, [0], window=10, at=at)
    with pytest.raises(ValueError, match="gradient flow has none"):
        windowed(small_run("flow"), [0], window=10)


def test_up_weighting_beyond_stability_says_so():
    with pytest.raises(dln.DivergenceError, match="diverged at step"):
        windowed(small_run(), [10], window=30, weight=500.0)


def test_at_the_smallest_change_of_weight_the_derivative_is_resolved(paper_run):
    first = windowed(paper_run, [400], window=10, first_order=True)
    near = windowed(paper_run, [400], window=10, weight=1 - 1e-8)
    assert np.abs(near - first).max() < 1e-4 * np.abs(first).max()


def test_options_that_do_not_fit_are_named_as_python_writes_them(paper_run):
    for options, reason in (
        ({"first_order": "no"}, "`first_order` must be True or False, got 'no'"),
        ({"first_order": True, "weight": 0.5}, "`weight` 0.5 does not belong to `first_order"),
        ({"at": None}, "`at` must be 'window' or 'end' or a step >= 1 of the run; got None"),
        ({"at": "windw"}, "Did you mean 'window'"),
        ({"window": np.float64(1.5)}, "got 1.5"),
        ({"window": "10"}, "got '10'"),
        ({"window": np.array([True])}, r"got \[True\]"),
    ):
        with pytest.raises(ValueError, match=reason):
            windowed(paper_run, [400], **options)
