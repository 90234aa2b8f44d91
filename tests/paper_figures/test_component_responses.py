"""What stores of restricted posteriors say: covariances by hand, component by component."""

import numpy as np
import pytest
import xarray as xr

from paper_figures.component_responses import ALL, LOSS, measure
from tests.traces import samples

N_BETA = 40.0
MIX = {ALL: (1.0, -0.5), "embedding": (0.3, 0.0)}
"""How much one hidden cause moves the losses of either class."""


@pytest.fixture(scope="module")
def sampled():
    """Tokens of two classes that follow one cause, and a score that is half of it."""
    rng = np.random.default_rng(8)
    members = np.arange(24)[:, None] // 12 == np.arange(2)
    found = {}
    for name, mix in MIX.items():
        cause = rng.standard_normal((2, 8, 400, 1))
        losses = 3 + cause * (members @ mix) + 0.1 * rng.standard_normal((2, 8, 400, 24))
        array = samples.traces(losses, N_BETA, step_size=0.1, burn_in=10, thin=2)
        array = array.assign_coords(checkpoint_loss=(("time", "item"), np.full((2, 24), 2.0)))
        found[name] = array.assign_coords(
            time=[100, 200],
            row=("item", np.tile(np.arange(6), 4)),
            score=(("time", "chain", "draw"), 0.5 * cause[..., 0]),
            checkpoint_score=("time", [0.0, 0.0]),
            still=(("time", "chain", "draw"), np.full((2, 8, 400), 0.25)),
            checkpoint_still=("time", [0.25, 0.25]),
        )
    names = {"token_class": ["word_part", "word_end"]}
    return found, xr.DataArray(members, dims=("item", "token_class"), coords=names)


def test_responses_are_those_of_the_cause(sampled):
    """-n_beta Cov(phi, l_class - L), which is n_beta times coefficients of the one cause."""
    found = measure(*sampled)
    assert found["steps"] == [100, 200]
    for name, (a, b) in MIX.items():
        for of, moved in (("mean loss", (a + b) / 2), ("score", 0.5)):
            responses = found["components"][name]["responses"][of]
            for kind, sign in (("word_part", 1), ("word_end", -1)):
                truth = -N_BETA * moved * sign * (a - b) / 2
                for value, error, dof in responses[kind]:
                    assert abs(value - truth) < 5 * error < 0.1 * abs(truth) + 1
                    assert dof > 3


def test_every_component_says_how_it_was_sampled(sampled):
    one = measure(*sampled)["components"]["embedding"]
    assert (one["chains"], one["draws"], one["parameters"]) == (8, 400, 4)
    assert one["verdict"] == ["mixed", "mixed"] and max(one["r_hat"]) < 1.05


def test_coefficients_are_those_of_the_mean_loss(sampled):
    """Losses are 3 on average and 2 at the checkpoints: n_beta (3 - 2)."""
    for one in measure(*sampled)["components"].values():
        for value, error, _ in one["coefficient"]:
            assert abs(value - N_BETA) < 5 * error < 0.1 * N_BETA


def test_what_a_component_cannot_move_is_left_out(sampled):
    for one in measure(*sampled)["components"].values():
        assert set(one["responses"]) == {LOSS, "score"}
