"""What class sums give is what the losses give, bit by bit; what they cannot give is refused."""

import numpy as np
import pytest
import xarray as xr

from dlnflow.traces import (
    class_sums,
    diverged,
    groups,
    llc,
    neighbours,
    r_hat,
    summary,
    top_k,
)
from dlnflow.traces.class_sums import ClassSums
from dlnflow.traces.format import item_means
from tests.traces.samples import EXCLUDED, make, random_classes, random_traces, with_ids


@pytest.fixture(scope="module", params=["all kept", "one diverged", "one left", "float32"])
def case(request):
    """Traces of two checkpoints and classes; at the second chains may have diverged."""
    traces = with_ids(random_traces(3, (2, 3, 12, 9)), 3)
    values = traces.values
    bad = {"one diverged": [1], "one left": [0, 2]}.get(request.param, [])
    values[1, bad, 4:] = np.nan if len(bad) == 1 else 1e9
    traces = traces.copy(data=values.astype("f4") if request.param == "float32" else values)
    traces = traces.assign_attrs(n_train=9)
    return traces, random_classes(3), class_sums(traces, random_classes(3))


@pytest.mark.parametrize("exclude", EXCLUDED)
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("differences", [True, False])
def test_groups_are_the_same(case, exclude, normalised, differences):
    options = {"exclude": exclude, "normalised": normalised, "differences": differences}
    traces, classes, sums = case
    assert groups(sums, **options).identical(groups(traces, classes, **options))


def test_verdicts_learning_coefficient_and_mean_losses_are_the_same(case):
    sums = case[2]
    assert summary(sums).identical(summary(case[0]))
    assert diverged(sums).identical(diverged(case[0]))
    for of in (None, "observed", case[1], case[1][:, [2, 0]]):
        assert llc(sums, of).identical(llc(case[0], of))
    with pytest.raises(ValueError, match="class sums, which hold no losses of single items"):
        llc(sums, "item")
    assert item_means(sums).identical(item_means(case[0]))
    assert sums.sizes == {"time": 2, "chain": 3, "draw": 12, "item": 9, "token_class": 3}


def test_some_classes_in_another_order(case):
    traces, classes, sums = case
    few = classes.isel(token_class=[2, 0])
    found = groups(sums, few, exclude="row")
    xr.testing.assert_allclose(found, groups(traces, few, exclude="row"), rtol=1e-12)


def test_without_rows_and_ids():
    traces, classes = random_traces(rows=False), random_classes()
    sums = class_sums(traces, classes)
    assert groups(sums).identical(groups(traces, classes))
    for exclude, word in (("row", "row"), ("token", "token"), (("row", "token"), r"row\+token")):
        with pytest.raises(ValueError, match=f"`exclude` {word}: .* without coordinates"):
            groups(sums, exclude=exclude)


@pytest.mark.parametrize("reader", [neighbours, top_k, r_hat])
def test_what_needs_single_items_is_refused(reader):
    traces, classes = random_traces(), random_classes()
    more = {neighbours: (classes,), top_k: (1,)}.get(reader, ())
    with pytest.raises(ValueError, match="class sums, which hold no losses of single items"):
        reader(class_sums(traces, classes), *more)


def test_other_classes_are_refused():
    traces, classes = random_traces(), random_classes()
    sums = class_sums(traces, classes)
    with pytest.raises(ValueError, match="sums over b were not kept; there are a, b, c"):
        groups(sums, classes ^ (classes.token_class == "b"))
    with pytest.raises(ValueError, match="must be a DataArray with names"):
        groups(sums, classes.values)
    with pytest.raises(ValueError, match="only class sums know theirs"):
        groups(traces)


def test_chains_that_count_as_diverged_only_beside_others_are_refused():
    """The bound grows with the losses at the checkpoints that are looked at together."""
    values = 3 + np.random.default_rng(0).standard_normal((2, 3, 12, 9))
    values[0, 1, 4] = 150  # beyond 100 (1 + 5/60), below 100 (4 + 5/60)
    start = xr.DataArray([[1.0] * 9, [4.0] * 9], dims=("time", "item"))
    traces, classes = make(values).assign_coords(checkpoint_loss=start), random_classes()
    sums = class_sums(traces, classes)
    assert not diverged(traces).values.any() and diverged(traces.isel(time=[0])).values.any()
    alone = ClassSums(sums.names, sums.time[:1], sums.checkpoints[:1], sums.attrs)
    assert groups(alone).identical(groups(traces.isel(time=[0]), classes))
    for reader in (groups, summary, diverged):
        with pytest.raises(ValueError, match=r"at step 0 .*by those of all checkpoints others"):
            reader(sums)


@pytest.mark.parametrize("draws", [20, 400])
def test_the_size_does_not_grow_with_draws(draws):
    """24 sums of R C G^2 numbers, and the means of classes."""
    rows, chains = 6, 2
    traces = with_ids(random_traces(0, (1, chains, draws, 3 * rows)), 0)
    traces = traces.assign_coords(row=("item", np.arange(3 * rows) // 3))
    members = np.random.default_rng(0).random((3 * rows, 3)) < 0.9
    sums = class_sums(traces, members)
    squares = 24 * (rows + 1) * chains * 9 + 4 * (rows + 1) * 9
    per_draw = chains * draws * (3 + 3 + 3)
    per_item = chains * 3 * rows
    assert sums.nbytes == pytest.approx(8 * (squares + per_draw + per_item), rel=0.02)
