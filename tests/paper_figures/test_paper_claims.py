"""Verdicts follow from numbers, and are those that the page and the stored file have."""

import dataclasses
import json
import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dlnflow.lm.runs.model import CONFIGURATIONS
from dlnflow.traces import groups, interval
from paper_figures import claims, lag_figure, section4
from paper_figures._estimates import Estimate, difference
from paper_figures._estimates import interval as t_interval
from paper_figures._lm_claims import Measured, repeats, runs
from paper_figures._verdicts import (
    CONTRADICTED,
    NOT_SHOWN,
    NOT_TESTABLE,
    SHOWN,
    Number,
    above,
    around_zero,
    below,
    smallest,
)
from paper_figures.class_matrix import configuration, measure
from tests.traces import samples

NAMES = ("word_part", "word_end")
ENDS = st.tuples(*3 * (st.floats(-10, 10),)).map(sorted).map(lambda x: Number(x[1], x[0], x[2]))


def test_no_verdict_has_changed():
    """After `python -m paper_figures.claims` the change stands in the commit."""
    assert claims.verdicts() == json.loads(claims.VERDICTS.read_text())


def test_the_page_is_what_the_numbers_give():
    assert claims.PAGE.read_text(encoding="utf-8") == claims.page()


def test_every_claim_has_a_number_or_says_why_it_has_none():
    names = [claim.name for claim in claims.every()]
    assert len(set(names)) == len(names) > 30
    for claim in claims.every():
        assert claim.says.endswith(".") and claim.measured.endswith(".")
        assert (claim.condition is None) == (not claim.rows)
        sources = [row.source for row in claim.rows]
        assert len(set(sources)) == len(sources)
        for row in claim.rows:
            assert row.number.low <= row.number.value <= row.number.high


@given(ENDS, st.floats(-10, 10))
def test_a_verdict_is_that_of_every_point_of_the_interval(number, bound):
    points = np.linspace(number.low, number.high, 101)
    for condition, holds in (
        (above(bound), points > bound),
        (below(bound), points < bound),
        (around_zero(abs(bound)), np.abs(points) < abs(bound)),
    ):
        found = condition.verdict(number)
        if found == SHOWN:
            assert holds.all()
        elif found == CONTRADICTED:
            assert not holds.any()
    assert above(bound).verdict(None) == NOT_TESTABLE
    assert above(0).verdict(Number(1, 1, math.inf)) == SHOWN
    assert above(0).verdict(Number(1, -1, math.inf)) == NOT_SHOWN


@given(ENDS, ENDS, st.floats(0, 1), st.floats(0, 1))
def test_intervals_of_results_hold_the_results_of_what_they_hold(a, b, s, t):
    x, y = (n.low + share * (n.high - n.low) for n, share in ((a, s), (b, t)))
    for number, value in (
        (a - b, x - y),
        (a + b, x + y),
        (-a, -x),
        (abs(a), abs(x)),
        (smallest([a, b]), min(x, y)),
    ):
        assert number.low - 1e-9 <= value <= number.high + 1e-9


@pytest.fixture(scope="module")
def sampled():
    """Six sequences of ten tokens of two classes, 8 chains; ids 0 to 4 share a factor each."""
    rng = np.random.default_rng(5)
    token = rng.integers(0, 5, 60)
    factors, noise = rng.standard_normal((2, 8, 200, 5)), rng.standard_normal((2, 8, 200, 60))
    losses = 0.5 * factors[..., token] + noise
    array = samples.traces(losses, n_beta=10.0, step_size=0.1, burn_in=10, thin=2)
    array = array.assign_coords(
        time=[100, 200], row=("item", np.repeat(np.arange(6), 10)), token=("item", token)
    )
    members = np.zeros((60, 2), bool)
    members[:35, 0] = members[25:, 1] = True
    return array, xr.DataArray(
        members, dims=("item", "token_class"), coords={"token_class": list(NAMES)}
    )


def test_a_file_of_class_influence_gives_the_intervals_of_groups(sampled):
    found = Measured(measure(*sampled) | {"configuration": "fast", "seed": 3})
    for pairs, exclude in (("all pairs", "item"), ("other ids", "token")):
        direct = groups(*sampled, exclude=exclude)
        ends = interval(direct)
        for query, train in (("word_part", "word_part"), ("word_end", "word_part")):
            number = found.influence(query, train, 1, pairs)
            at = {"time": 200, "query": query, "train": train}
            assert number.value == pytest.approx(float(direct.sel(at)), rel=1e-4)
            assert number.low == pytest.approx(float(ends.lower.sel(at)), rel=1e-3, abs=1e-5)
            assert number.high == pytest.approx(float(ends.upper.sel(at)), rel=1e-3, abs=1e-5)
    assert found.source == "`fast`, seed 3" and found.chains == "8"


def test_pairs_of_one_id_have_the_correlation_of_their_factor(sampled):
    """0.25 / 1.25 = 0.2, and one by one the same as in one go."""
    traces, classes = sampled
    value, error, dof = measure(*sampled)["equal ids"]["word_part"][0]
    assert dof == 7 and abs(value + 0.2) < 5 * error < 0.1
    token, member = traces["token"].values[:35], classes.values[:35, 0]
    assert member.all()
    same = (token[:, None] == token) & ~np.eye(35, dtype=bool)
    chains = [-np.corrcoef(c[:, :35].T)[same].mean() for c in traces.values[0]]
    assert value == pytest.approx(np.mean(chains), rel=1e-4)
    assert error == pytest.approx(np.std(chains, ddof=1) / np.sqrt(8), rel=1e-4)


def test_responses_of_recorded_observables_are_covariances(sampled):
    """Against -n_beta Cov(phi, mean loss of the class - mean loss), chain by chain."""
    traces, classes = sampled
    phi = ("time", "chain", "draw"), traces.values[..., 3]
    recorded = traces.assign_coords(phi=phi, checkpoint_phi=("time", [0.5, 0.25]))
    found = measure(recorded, classes)["responses"]["phi"]
    assert found["at the checkpoint"] == [0.5, 0.25]
    losses = traces.values[1]
    excess = losses[:, :, 25:].mean(-1) - losses.mean(-1)
    covariance = [np.cov(a, b)[0, 1] for a, b in zip(losses[..., 3], excess, strict=True)]
    value, error, _ = found["word_end"][1]
    assert value == pytest.approx(-10 * np.mean(covariance), rel=1e-3) and error > 0


def test_a_contrast_is_that_of_two_independent_means():
    """Against Welch's interval of scipy for the same two samples."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 8), rng.normal(0.5, 2, 8)
    found = t_interval(
        difference(*(Estimate(x.mean(), x.std(ddof=1) / np.sqrt(8), 7) for x in (a, b)))
    )
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-6)


def test_late_means_cover_the_exact_value():
    """Three checkpoints, whose chains differ and whose sequences are the same."""
    rng = np.random.default_rng(3)
    covered, n = 0, 2000
    for _ in range(n):
        rows, means = rng.normal(0, 1, 30), rng.normal(0, 1, (3, 8))
        chain = means.std(1, ddof=1) / np.sqrt(8)
        row = rows.std(ddof=1) / np.sqrt(30)
        values = means.mean(1) + rows.mean()
        table = [[v, np.hypot(c, row), 9, c] for v, c in zip(values, chain, strict=True)]
        data = {"chains": 8, "sequences": 30, "influence": {"all pairs": {"a, b": table}}}
        number = Measured(data).late("a", "b")
        covered += number.low < 0 < number.high
    assert covered / n == pytest.approx(0.95, abs=4 * np.sqrt(0.05 * 0.95 / n))


def test_a_run_is_named_by_its_configuration():
    fast = dataclasses.replace(CONFIGURATIONS["fast"], seed=5, n_steps=700, every=100)
    assert configuration(fast) == "fast"
    assert configuration(CONFIGURATIONS["natural"]) == "natural"
    assert configuration(dataclasses.replace(fast, repeat_share=0.5)) == "another"


def test_the_figures_show_the_numbers_of_the_claims(tmp_path):
    run, repeated = runs()[0], repeats()[0]
    axes = section4.draw((run,)).axes
    (delimiters,) = [one for one in axes[0].get_lines() if one.get_marker() == "D"]
    found = [run.influence("left_delimiter", "right_delimiter", k) for k in range(len(run.steps))]
    np.testing.assert_allclose(delimiters.get_ydata(), [number.value for number in found])
    above, below = lag_figure.draw((repeated,)).axes
    assert above.get_ylim()[0] < min(line.get_ydata()[-1] for line in above.get_lines()[:1]) < 0
    quarter = repeated.data["score"]["quarter-rise"]
    vertical = sorted(x for line in below.get_lines() for x in set(line.get_xdata()))
    assert {quarter, quarter + repeated.data["lag"][0]} <= set(vertical)
    section4.write(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
