"""Figures of torch models: what they claim, and the measures that they claim it with."""

import importlib
import json
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

from paper_figures import _claims, _data, _networks, _results
from paper_figures.__main__ import TORCH, app
from tests.tolerances import ALGEBRA


@cache
def claims(name):
    return importlib.import_module(f"paper_figures.{name}").draw(_data.Scale.quick)[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:damped_hessian")  # its poles are part of what is shown
@pytest.mark.parametrize("name", TORCH.values())
def test_claims_hold_and_each_has_an_expectation(name):
    if name == "bif_against_exact":
        pytest.importorskip("curvlinops")
    assert _claims.failures(name, claims(name)) == []
    expected = json.loads((_claims.EXPECTED / f"{name}.json").read_text())
    assert set(expected) == set(claims(name))
    assert np.all(np.isfinite(list(claims(name).values())))


def test_a_network_starts_from_zero_and_a_linear_one_learns_as_the_numpy_run():
    run = _networks.run_of("linear", 64, 1e-3, 0)
    steps = np.array([0, 100, 200])
    losses = run.losses(steps, np.ones((1, 8)))[0]
    np.testing.assert_allclose(losses[0], 0.5 * np.sum(run.data[1].numpy() ** 2, 1), rtol=ALGEBRA)
    when, learned = _networks._transitions(run, np.arange(0, 201, 2))
    assert np.all(np.diff(when) > 0) and learned > 0.95
    out = torch.func.functional_call(run.model, run.weights([200])[0], (run.data[0],))
    np.testing.assert_allclose(out, run.data[1], atol=0.15)


def curves(centres):
    """Troughs at given steps for (query, train), shape (101, 8, 8)."""
    time = np.arange(101.0)
    values = -np.exp(-(((time[:, None, None] - centres) / 4) ** 2))
    labels = [f"item{k}" for k in range(8)]
    coords = {"time": time, "query": labels, "train": labels}
    return xr.DataArray(values, coords, ("time", "query", "train"))


def test_measures_of_order_and_distance():
    relation = np.bitwise_xor.outer(np.arange(8), np.arange(8))
    sibling_late = np.where(relation == 1, 80.0, 20.0)
    assert _networks._order(curves(sibling_late)) == 1
    assert _networks._order(curves(100 - sibling_late)) == 0
    assert _networks._order(curves(np.full((8, 8), 50.0))) == 0.5
    transitions = np.array([20.0, 80.0])
    assert _networks._distance(curves(sibling_late), transitions) == 0
    assert _networks._distance(curves(np.full((8, 8), 50.0)), transitions) == pytest.approx(
        30 / 12, abs=0.01
    )  # a time in [0, 96] is within 12 of 20 or 80 for half of the times


def test_numbers_are_written_before_drawing(tmp_path, monkeypatch):
    monkeypatch.setattr(_results, "OUT", [tmp_path])
    data = xr.Dataset({"value": ("time", [1.0, 2.0])}, {"time": [0, 5]})
    assert _results.saved("some", data) is data
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "some.nc", engine="scipy"), data)


def test_unknown_figures_are_refused_with_those_of_the_other_commands():
    shown = CliRunner().invoke(app, ["torch", "--only", "3"])
    words = " ".join(shown.output.replace("│", " ").split())
    assert shown.exit_code == 2 and "no figure 3 here" in words and "command toy has" in words
