"""A chain's random numbers depend on its own key alone."""

import numpy as np
import pytest
import torch

from dlnflow.sampling.noise import (
    GAUSSIAN,
    GROUP,
    MINIBATCH,
    UNIFORM,
    StepNoise,
    Streams,
    chain_seed,
)

KEYS = [(0, 0, 0), (0, 0, 1), (0, 10, 0), (3, 10, 0)]


def _draw(keys, size, steps=2 * GROUP + 3, dtype=torch.float32):
    streams = Streams(keys, size, dtype)
    return torch.stack([streams.normal().clone() for _ in range(steps)]).numpy()


@pytest.mark.parametrize("size", [1, 5, 16, 23])
def test_streams_do_not_depend_on_the_batch(size):
    together = _draw(KEYS, size)
    for k, key in enumerate(KEYS):
        np.testing.assert_array_equal(_draw([key], size)[:, 0], together[:, k])


def test_streams_differ_and_are_standard():
    draws = _draw(KEYS, 50, steps=400, dtype=torch.float64)
    flat = np.moveaxis(draws, 1, 0).reshape(len(KEYS), -1)
    n = flat.shape[1]
    assert np.abs(np.corrcoef(flat) - np.eye(len(KEYS))).max() < 4 / np.sqrt(n)
    assert np.abs(flat.mean(1)).max() < 4 / np.sqrt(n)
    assert np.abs(flat.var(1) - 1).max() < 4 * np.sqrt(2 / n)
    assert len({chain_seed(*key, GAUSSIAN) for key in KEYS}) == len(KEYS)


def test_uniforms_are_their_own_stream():
    alone, mixed = Streams(KEYS, 4, torch.float64), Streams(KEYS, 4, torch.float64)
    first = torch.stack([alone.normal().clone() for _ in range(20)])
    second = []
    for _ in range(20):
        u = mixed.uniform()
        assert ((u >= 0) & (u < 1)).all()
        second.append(mixed.normal().clone())
    assert torch.equal(first, torch.stack(second))


def test_seeds_are_those_of_stored_chains():
    """Stored chains are continued with them; other numbers need another revision of the store."""
    streams = (GAUSSIAN, UNIFORM, MINIBATCH)
    assert [chain_seed(3, 10, 1, stream) for stream in streams] == [
        161871178662236121,
        5213724828465623225,
        8899883985927502716,
    ]
    assert chain_seed(3, 10, 1, GAUSSIAN, 7) == 7741675971244291240
    assert chain_seed(3, 10, 1, UNIFORM, 7) == 2348172829140091144


def test_two_calls_in_a_step_differ_and_a_step_is_the_same_again():
    """The first call is the one that it was when a step had one set of numbers."""
    noise = StepNoise((3, 10, 1), torch.zeros(1, 40, dtype=torch.float64))

    def step(number):
        noise.step = number
        return torch.cat([noise.normal()[0], noise.normal()[0], noise.uniform(), noise.uniform()])

    found = {number: step(number) for number in (7, 8, 9)}
    for number in (9, 7, 8):
        assert torch.equal(step(number), found[number])
    numbers = torch.cat(list(found.values()))
    assert len(numbers.unique()) == len(numbers)
    first = torch.Generator().manual_seed(chain_seed(3, 10, 1, GAUSSIAN, 7))
    assert torch.equal(found[7][:40], torch.randn(40, generator=first, dtype=torch.float64))
