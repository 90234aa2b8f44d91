"""Steps on tensors that stay, repeated as a CUDA graph would: bits of the plain driver."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from dlnflow.sampling import chains
from dlnflow.sampling.fixed_step import CALLS, FixedStep, Repeated, moved, same_bits
from dlnflow.sampling.noise import StepNoise
from dlnflow.sampling.settings import Settings
from tests.sampling.targets import quadratic

KEY = (3, 10, 1)


def uncalled(function):
    """What stands in for capturing: nothing happens now, and the same call happens later.

    As of a graph, what Python knew when the function was made is what every repetition has.
    """
    return function


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgld", {}),
        ("underdamped", {}),
        ("rmsprop_sgld", {}),
        ("rmsprop_sgld", {"freeze_after": 9}),
    ],
)
def test_repeated_steps_are_those_of_the_driver(name, options):
    known = quadratic(np.diag([2.0, 0.5, 1.0]), 1, n_beta=4.0, localization=1.0)
    settings = Settings(
        4.0, 1.0, 0.1, draws=20, burn_in=10, dtype="float64", kernel_options=options
    )
    found = []
    for capture in (None, uncalled):
        kernel, posterior = chains.around(known.evaluate, known.center, name, settings)
        noise = StepNoise(KEY, known.center)

        def begin(step, noise=noise):
            noise.step = step

        if capture is None:
            losses, state = chains.run(
                kernel,
                posterior.evaluate,
                kernel.init(known.center),
                noise,
                lengths=settings.lengths(),
                begin=begin,
            )
            found.append((losses[0], state))
            continue
        step, rows = FixedStep(kernel, kernel.init(known.center), noise, Repeated(capture)), []
        address = step.state.theta.data_ptr()
        for k, drawn in chains.schedule(settings.lengths()):
            begin(k)
            step.take()
            assert step.state.theta.data_ptr() == address
            if drawn:
                rows.append(posterior.evaluate.observe(step.state.theta)[0])
        found.append((torch.stack(rows), step.state))
    (a, last), (b, state) = found
    assert torch.equal(a, b) and torch.equal(last.theta, state.theta)
    assert getattr(last, "steps", 0) == getattr(state, "steps", 0)


def test_a_kernel_that_does_not_say_is_not_captured():
    known = quadratic(np.eye(2), 1, n_beta=4.0, localization=1.0)
    settings = Settings(4.0, 1.0, 0.1)
    kernel, _ = chains.around(known.evaluate, known.center, "sgld", settings)

    def refused(function):
        raise AssertionError

    state = kernel.init(known.center)
    noise = StepNoise(KEY, known.center)
    step = FixedStep(kernel._replace(form=None), state, noise, Repeated(refused))
    for _ in range(2 * CALLS):
        step.take()


def test_what_cannot_be_captured_is_called():
    calls = []

    def impossible(function):
        raise RuntimeError("operation not permitted\nand more")

    repeated = Repeated(impossible)
    for k in range(CALLS):
        assert repeated("a", lambda k=k: calls.append(k))
    with pytest.warns(RuntimeWarning, match="captured.*operation not permitted"):
        assert repeated("a", lambda: calls.append("last"))
    assert repeated("a", lambda: calls.append("after"))
    assert calls == [*range(CALLS), "last", "after"]


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor | None
    count: int = 0


def test_tensors_that_change_places_are_not_mixed_up():
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    places = one.data_ptr(), two.data_ptr()
    found = moved(Pair(one, two), Pair(two, one, 5))
    assert (found.a.data_ptr(), found.b.data_ptr()) == places
    assert (found.a.item(), found.b.item(), found.count) == (2.0, 1.0, 5)
    new = torch.tensor([7.0])
    assert moved(Pair(one, None), Pair(one, new)).b is new


def test_the_choice_of_operations_is_given_back():
    before = torch.are_deterministic_algorithms_enabled()
    with same_bits(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        with same_bits(torch.device("cpu")):
            assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.are_deterministic_algorithms_enabled() == before
    assert torch.utils.deterministic.fill_uninitialized_memory
