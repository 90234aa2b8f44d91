"""Averages over a stretch of a torch run that SOURCE treats as stationary.

Up to `torch_matrices.MAX_PARAMETERS` parameters the mean matrix is formed. Beyond, its product is
that of the matrices at up to `LOOKED_AT` steps of the stretch, evenly spaced.
"""

from collections.abc import Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import linalg
from torch.func import vmap

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import torch_matrices
from dlnflow.dynamics.torch_matrices import flat, from_flat
from dlnflow.dynamics.torch_steps import Tensors

if TYPE_CHECKING:
    from dlnflow.dynamics.torch_sweeps import TorchMoment

LOOKED_AT = 8
"""Steps of a stretch whose matrices are averaged where the mean is not formed."""


def segments(
    moments: Iterator["TorchMoment"],
    bounds: IntArray,
    steps: IntArray,
    train: IntArray,
    matrix: str,
) -> Iterator["TorchSegment"]:
    """Yield averages between consecutive bounds; see `dlnflow.dynamics.segment.segments`."""
    wanted, number, segment = set(steps.tolist()), 0, None
    for moment in moments:
        if segment is None:
            segment = TorchSegment(moment, int(bounds[number + 1]), train, matrix)
        segment.add(moment)
        if moment.step + 1 in wanted:
            segment.kept[moment.step + 1] = moment.after
        if moment.step + 1 == bounds[number + 1]:
            yield segment
            number, segment = number + 1, None


class TorchSegment:
    """Mean matrix, mean displacements by single items and mean rate, accumulated over steps."""

    def __init__(self, start: "TorchMoment", stop: int, train: IntArray, matrix: str) -> None:
        self.first, self.steps, self.kept = start.step, 0, {}
        self._problem, self._train, self._matrix_name = start.problem, train, matrix
        problem = start.problem
        self._dense = torch_matrices.is_small(problem)
        size = problem.n_parameters if self._dense else 0
        self._matrix = np.zeros((size, size))
        count = min(LOOKED_AT, stop - start.step)
        self._looked_at = np.linspace(start.step, stop - 1, count).round().astype(int)
        self._points: list[TorchMoment] = []
        self._displaced = [w.new_zeros(len(train), *w.shape) for w in start.weights]
        self._rate: list[torch.Tensor] = [torch.zeros_like(w) for w in start.weights]
        self.flat = flat
        self.vectors = partial(from_flat, like=problem.initial)

    def add(self, moment: "TorchMoment") -> None:
        """Include one step."""
        self.steps += 1
        name = self._matrix_name
        if self._dense:
            found = torch_matrices.matrix_of(self._problem, moment.weights, moment.step, name)
            self._matrix += found
        elif moment.step in self._looked_at:
            self._points.append(moment)
        rates = moment.rate
        rates = rates if isinstance(rates, list) else [rates] * len(self._rate)
        self._rate = [total + part for total, part in zip(self._rate, rates, strict=True)]
        moved = moment.displacements(self._train)
        self._displaced = [a + b for a, b in zip(self._displaced, moved, strict=True)]

    @cached_property
    def displacements(self) -> Tensors:
        """Mean of what the optimizer makes of share_i grad l_i, one row per train item."""
        return [part / self.steps for part in self._displaced]

    def pull(self, vectors: Tensors) -> Tensors:
        """Mean of what the optimizer makes of a gradient, of the mean matrix times every vector."""
        if self._dense:
            curved = self.vectors(flat(vectors) @ self._matrix / self.steps)
        else:
            curved = self._products(vectors)
        return [rate / self.steps * part for rate, part in zip(self._rate, curved, strict=True)]

    def _products(self, vectors: Tensors) -> Tensors:
        """Mean over the steps that are looked at, so many vectors at once as fit."""
        problem, parts, count = self._problem, [], len(vectors[0])
        for rows in problem.turns(
            count, problem.numbers_per_network(derivatives=True), least=count
        ):
            chosen = [part[rows] for part in vectors]
            every = [self._product(point, chosen) for point in self._points]
            parts.append([sum(found) / len(every) for found in zip(*every, strict=True)])
        return [torch.cat(found) for found in zip(*parts, strict=True)]

    def _product(self, point: "TorchMoment", vectors: Tensors) -> Tensors:
        """The matrix of one step times every vector."""
        problem = self._problem
        pair, items = problem.at_step(point.step)
        shares = problem.shares(np.ones(problem.n_items), items)
        still = torch.zeros_like(shares)

        def product(*vector: torch.Tensor) -> Tensors:
            moved = list(vector), still
            return problem.gradient_tangent(point.weights, shares, moved, pair, self._matrix_name)[
                1
            ]

        return vmap(product)(*vectors)

    @cached_property
    def eigen(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues and eigenvectors (columns) of the mean matrix.

        Raises
        ------
        ValueError
            If there are more than `MAX_PARAMETERS` parameters.
        """
        if not self._dense:
            raise ValueError(
                "`filter='exponential'` needs the eigenvalues of a matrix of all pairs of "
                f"parameters, for at most {torch_matrices.MAX_PARAMETERS} of them; `model` has "
                f"{self._problem.n_parameters}. Use filter='discrete', which needs products alone."
            )
        return linalg.eigh(self._matrix / self.steps, driver="evd")

    def along(self, step: int, vectors: Tensors, query: IntArray) -> FloatArray:
        """Return grad l_q . vector_k at a kept step, shape (n_query, K)."""
        return self._problem.along(self.kept[step], vectors, query)
