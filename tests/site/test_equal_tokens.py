"""The example that sorts pairs of tokens by what stands before them, against sums over pairs."""

import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest

from tests.explore.conftest import make_traces

script = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "equal_tokens.py"))


def test_means_are_those_of_single_pairs():
    traces = make_traces(steps=(0, 100))
    place = np.arange(traces.sizes["item"])
    token = np.random.default_rng(1).integers(0, 3, len(place))
    coords = {"row": place // 8, "position": place % 8 + 1, "token": token}
    traces = traces.assign_coords({name: ("item", value) for name, value in coords.items()})
    found = script["by_context"](traces).set_index(["step", "kind"])
    row = coords["row"]
    for t, step in enumerate((0, 100)):
        z = traces.values[t] - traces.values[t].mean(1, keepdims=True)
        r = -np.corrcoef(z.reshape(-1, len(row)).T)
        pairs = {kind: [] for kind in script["KINDS"].values()}
        for i, j in itertools.combinations(range(len(row)), 2):
            if row[i] != row[j] and i % 8 and j % 8:  # the first of a row has none before it
                pairs[token[i] == token[j], token[i - 1] == token[j - 1]].append(r[i, j])
        for kind, key in script["KINDS"].items():
            one = found.loc[(step, kind)]
            assert one.influence == pytest.approx(np.mean(pairs[key]), abs=1e-12)
            assert one.pairs == len(pairs[key]) > 20


def test_errors_are_those_of_independent_chains_and_rows():
    """Shares of pairs that are a chain's own number, or a row's, have a known spread."""
    rng = np.random.default_rng(2)
    rows = np.repeat(np.eye(40), 3, axis=0)
    chosen = (rows @ rows.T) == 0
    of_chains = rng.standard_normal(200)[:, None, None] * np.ones((200, 120, 120))
    value, error = script["mean_and_error"](of_chains, chosen, rows)
    assert value == pytest.approx(of_chains[:, 0, 0].sum())
    assert error == pytest.approx(np.sqrt(200) * of_chains[:, 0, 0].std(ddof=1))
    effect = rows @ rng.standard_normal(40)
    of_rows = np.stack([np.add.outer(effect, effect)] * 2) / 2
    value, error = script["mean_and_error"](of_rows, chosen, rows)
    assert value == pytest.approx(2 * effect.mean())
    assert error == pytest.approx(2 * effect[::3].std(ddof=1) / np.sqrt(40), rel=0.1)
