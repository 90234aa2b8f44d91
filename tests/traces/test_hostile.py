"""What is no loss trace, class, observable or option is named before any number is computed."""

import numpy as np
import pytest
import xarray as xr

from dlnflow.traces import (
    class_sums,
    groups,
    influence,
    llc,
    matrix,
    neighbours,
    summary,
    susceptibility,
    top_k,
)
from tests.traces import samples

TRACES = samples.random_traces()
CLASSES = samples.random_classes()
READERS = {
    "neighbours": lambda traces, classes=CLASSES: neighbours(traces, classes, k=2),
    "susceptibility": susceptibility,
    "groups": lambda traces, classes=CLASSES: groups(traces, classes),
    "llc": lambda traces, classes=CLASSES: llc(traces, classes),
    "class_sums": lambda traces, classes=CLASSES: class_sums(traces, classes),
    "matrix": matrix,
    "top_k": lambda traces: top_k(traces, 2),
    "influence": influence,
    "summary": summary,
}
OF_CLASSES = ["neighbours", "susceptibility", "groups", "llc", "class_sums"]
WRONG_TRACES = {
    "text": (TRACES.astype(str), "must be real numbers"),
    "complex": (TRACES * 1j, "must be real numbers"),
    "objects": (TRACES.astype(object), "must be real numbers"),
    "no item": (TRACES.isel(item=[]), "have no item"),
    "no chain": (TRACES.isel(chain=[]), "have no chain"),
    "no checkpoint": (TRACES.isel(time=[]), "have no time"),
    "equal names": (TRACES.assign_coords(item=["a"] * 9), "different names"),
    "start by time alone": (
        TRACES.drop_vars("checkpoint_loss").assign_coords(checkpoint_loss=("time", [1.0, 2.0])),
        r"`checkpoint_loss` of dims \(time, item\)",
    ),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", WRONG_TRACES)
def test_losses_are_real_numbers_of_named_items(name, kind):
    """Imaginary parts were dropped, and names that stand twice were found once."""
    traces, words = WRONG_TRACES[kind]
    with pytest.raises(ValueError, match=f"^`traces` .*{words}"):
        READERS[name](traces)


def labelled(members, names, **coords):
    dims = ("item", "token_class")
    return xr.DataArray(members, dims=dims, coords={"token_class": names, **coords})


HALF = np.arange(9)[:, None] % 2 == np.arange(2)
WRONG_CLASSES = {
    "NaN": (np.full((9, 2), np.nan), "must be True or False .* got nan"),
    "infinite": (np.full((9, 2), np.inf), "must be True or False .* got inf"),
    "negative": (-1.0 * HALF, "must be True or False .* got -1"),
    "a share": (0.5 * HALF, "must be True or False .* got 0.5"),
    "text": (np.full((9, 2), "a"), "must be True or False of each item: "),
    "a word": ("induction", "must be True or False"),
    "ragged": ([[1], [1, 0]], "must be True or False"),
    "none": (HALF[:, :0], "at least one"),
    "equal names": (labelled(HALF, ["a", "a"]), "different names"),
    "another dim": (xr.DataArray(HALF, dims=("item", "kind")), "the dim token_class"),
    "a dataset": (xr.Dataset(), "must be a DataArray"),
    "other items": (labelled(HALF, ["a", "b"], item=[*"abcdefghi"]), "name other items"),
    "another order": (
        labelled(HALF, ["a", "b"], item=TRACES["item"].values[::-1]),
        "in another order",
    ),
}


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("kind", WRONG_CLASSES)
def test_classes_say_yes_or_no_of_the_items_observed(name, kind):
    """Shares were counted as members, and classes of items in another order as in this one."""
    classes, words = WRONG_CLASSES[kind]
    word = kind == "a word" and name == "llc"  # which takes words, and says which
    with pytest.raises(ValueError, match="`of` must be" if word else f"`classes` .*({words})"):
        READERS[name](TRACES, classes)


def test_classes_in_the_order_of_the_items_are_taken():
    named = labelled(HALF, ["a", "b"], item=TRACES["item"].values)
    assert groups(TRACES, named).identical(groups(TRACES, named.drop_vars("item")))
    turned = named.isel(item=slice(None, None, -1)).reindex(item=TRACES["item"])
    assert groups(TRACES, turned).identical(groups(TRACES, named))


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        *(("differences", wrong) for wrong in ("no", None, 1)),
        *(("normalised", wrong) for wrong in ("no", None, 1)),
        *(("exclude", wrong) for wrong in (None, 3, "rows")),
        *(("seed", wrong) for wrong in (-1, 1.5, "a", None, True)),
        *(("errors", wrong) for wrong in ("no", None)),
    ],
)
def test_options_are_what_they_say(option, wrong):
    """A word for a flag was True."""
    takes = {
        "differences": (neighbours, groups, matrix),
        "normalised": (susceptibility, groups, matrix),
        "exclude": (neighbours, groups),
        "seed": (neighbours,),
        "errors": (susceptibility,),
    }
    for reader in takes[option]:
        classes = {} if reader is matrix else {"classes": CLASSES}
        k = {"k": 2} if reader is neighbours else {}
        with pytest.raises(ValueError, match=f"^`{option}` must be"):
            reader(TRACES, **classes, **k, **{option: wrong})


@pytest.mark.parametrize("row", [("time", [0, 1]), ((), 3), ("item", np.full(9, np.nan))])
def test_rows_are_of_every_item(row):
    with pytest.raises(ValueError, match='one number for each item in the coordinate "row"'):
        neighbours(TRACES.assign_coords(row=row), CLASSES, k=2, exclude="row")


def test_an_observable_belongs_to_the_draws_it_is_given_for():
    """Checkpoints in another order were multiplied with those of the traces."""
    phi = TRACES.mean("item").reset_coords(drop=True)
    expected = susceptibility(TRACES, observable=phi)
    assert susceptibility(TRACES, observable=phi.transpose()).identical(expected)
    for wrong in (phi.isel(time=[1, 0]), phi.assign_coords(chain=[7, 8, 9])):
        with pytest.raises(ValueError, match="`observable` has other values of"):
            susceptibility(TRACES, observable=wrong)
    for wrong in (phi.values, 3, ["a"], phi.to_dataset(name="x")):
        with pytest.raises(ValueError, match="`observable` must be a name or a DataArray"):
            susceptibility(TRACES, observable=wrong)
    for wrong in (phi.astype(str), phi + 1j):
        with pytest.raises(ValueError, match="`observable` must be numeric"):
            susceptibility(TRACES, observable=wrong)


@pytest.mark.parametrize("wrong", [{"a": {"b": TRACES}}, {("a", "b"): TRACES}, {1: TRACES}])
def test_components_have_names_and_traces(wrong):
    with pytest.raises(ValueError, match="`traces` must map names of components"):
        susceptibility(wrong)


def test_errors_of_classes_are_not_left_out():
    with pytest.warns(UserWarning, match="`errors` has no effect with `classes`"):
        found = susceptibility(TRACES, CLASSES, errors=False)
    assert found.identical(susceptibility(TRACES, CLASSES))
