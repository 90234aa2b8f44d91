"""Random streams, one per chain, named by (seed, checkpoint, chain), or by the step as well.

A chain's numbers depend on its own key alone: not on the other chains of the batch, nor on how
the batch is cut. torch fills Gaussians in groups of 16 and treats a remainder separately, so a
stream is drawn in blocks of steps that hold a multiple of 16 numbers.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

GAUSSIAN, UNIFORM, MINIBATCH = 0, 1, 2
"""Streams of a chain."""
GROUP = 16
"""Numbers that torch draws together."""


def chain_seed(seed: int, checkpoint: int, chain: int, stream: int, *step: int) -> int:
    """Return a 63-bit seed for one stream of one chain, or for one step of that stream.

    Parameters
    ----------
    seed, checkpoint, chain : int
        The user's seed, the optimiser step of the checkpoint, the chain number; all >= 0.
    stream : int
        GAUSSIAN, UNIFORM or MINIBATCH.
    *step : int
        Step of the chain, where its numbers are to be had without those of the steps before, and
        the number of the call within the step where it is not the first.

    Returns
    -------
    int
        A number in [0, 2^63).
    """
    sequence = np.random.SeedSequence([seed, checkpoint, chain, stream, *step])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class Streams:
    """Gaussian and uniform numbers for C chains.

    Parameters
    ----------
    keys : sequence of (seed, checkpoint, chain)
        One per chain.
    size : int
        P, the number of parameters.
    dtype : torch.dtype
        Type of the numbers.
    """

    def __init__(self, keys: Sequence[tuple[int, int, int]], size: int, dtype: torch.dtype):
        self._gaussian = [generator(*key, stream=GAUSSIAN) for key in keys]
        self._keys, self._uniform = keys, []  # made when first asked for: only MALA does
        # Few steps at a time: the block of all chains should stay in cache until it is used.
        self._block = GROUP // math.gcd(GROUP, size)
        normals = torch.empty(len(keys), self._block, size, dtype=dtype)
        uniforms = torch.empty(len(keys), GROUP, dtype=dtype)
        self._normals, self._normal_steps = list(normals), list(normals.unbind(1))
        self._uniforms, self._uniform_steps = list(uniforms), list(uniforms.unbind(1))
        self._next_normal, self._next_uniform = self._block, GROUP

    def normal(self) -> Tensor:
        """Return the next (C, P) Gaussian numbers; valid until the next call."""
        if self._next_normal == self._block:
            for block, stream in zip(self._normals, self._gaussian, strict=True):
                block.normal_(generator=stream)
            self._next_normal = 0
        self._next_normal += 1
        return self._normal_steps[self._next_normal - 1]

    def uniform(self) -> Tensor:
        """Return the next (C,) uniform numbers in [0, 1)."""
        if not self._uniform:
            self._uniform = [generator(*key, stream=UNIFORM) for key in self._keys]
        if self._next_uniform == GROUP:
            for block, stream in zip(self._uniforms, self._uniform, strict=True):
                block.uniform_(generator=stream)
            self._next_uniform = 0
        self._next_uniform += 1
        return self._uniform_steps[self._next_uniform - 1]


class StepNoise:
    """Random numbers of one chain that depend on its step, not on what other steps drew.

    Call k within a step has numbers of its own, and the first call those that it had when every
    call of a step gave the same: kernels that ask once a step draw as they always did. Gaussian
    numbers of call k are always in the same tensor, and filled in when `step` is set, as many as
    the last step asked for: a step that is replayed reads them there.

    Parameters
    ----------
    key : (seed, checkpoint, chain)
        Key of the chain.
    like : Tensor, shape (1, P)
        Shape, type and device of the Gaussian numbers.
    """

    def __init__(self, key: tuple[int, int, int], like: Tensor):
        self._key, self._like = key, like
        self._generator = torch.Generator(like.device)
        self._normals: list[Tensor] = []
        self._asked, self._calls = 1, {GAUSSIAN: 0, UNIFORM: 0}
        self.step = 0

    @property
    def step(self) -> int:
        """Step of the chain; setting it begins the step anew."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._asked = self._calls[GAUSSIAN] or self._asked
        self._step, self._calls, self._filled = step, {GAUSSIAN: 0, UNIFORM: 0}, 0
        for _ in range(self._asked):
            self._fill()

    def normal(self) -> Tensor:
        """Return the next (1, P) Gaussian numbers of this step; the next step overwrites them."""
        call = self._called(GAUSSIAN)
        if call == self._filled:
            self._fill()
        return self._normals[call]

    def uniform(self) -> Tensor:
        """Return the next (1,) uniform number of this step."""
        like, generator = self._like, self._seeded(UNIFORM, self._called(UNIFORM))
        return torch.rand(1, generator=generator, dtype=like.dtype, device=like.device)

    def _fill(self) -> None:
        if self._filled == len(self._normals):
            self._normals.append(torch.empty_like(self._like))
        numbers = self._normals[self._filled]
        numbers.normal_(generator=self._seeded(GAUSSIAN, self._filled))
        self._filled += 1

    def _called(self, stream: int) -> int:
        self._calls[stream] += 1
        return self._calls[stream] - 1

    def _seeded(self, stream: int, call: int) -> torch.Generator:
        named = (self.step, call) if call else (self.step,)
        return self._generator.manual_seed(chain_seed(*self._key, stream, *named))


def generator(seed: int, checkpoint: int, chain: int, *, stream: int) -> torch.Generator:
    """Return the generator of one stream of one chain."""
    made = torch.Generator()
    made.manual_seed(chain_seed(seed, checkpoint, chain, stream))
    return made
