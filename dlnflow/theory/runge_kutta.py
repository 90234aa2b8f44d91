"""The Runge-Kutta pair of order 8 (DOP853) with all work in place.

The same rule, error estimate and dense output as scipy's, whose coefficients it takes. Nothing is
allocated per step and a state is read out where it is wanted, so that memory does not grow with
the number of recorded times and small problems stay in the processor cache.
"""

from collections.abc import Callable

import numpy as np
from scipy.integrate import DOP853 as RULE

from dlnflow._support import FloatArray

Velocity = Callable[[FloatArray, FloatArray], None]
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
"""Of the next step: margin, smallest and largest factor."""
FIRST = 1e-4
"""First step, relative to |z| / |z'|."""


class Solver:
    """Solve z' = velocity(z) for a state of shape (B, n), B systems that share their steps.

    Parameters
    ----------
    what : str
        What is integrated, for the error.
    velocity : function of (z, out)
        Writes z' into `out`.
    start : array, shape (B, n)
    rtol, atol : float
        Per step, for the root mean square over each system.
    """

    def __init__(
        self, what: str, velocity: Velocity, start: FloatArray, *, rtol: float, atol: float
    ) -> None:
        self.what, self.velocity, self.rtol, self.atol = what, velocity, rtol, atol
        self.z, self.new, self.scratch = (start.copy() for _ in range(3))
        self.stages = np.zeros((RULE.n_stages + 1 + len(RULE.A_EXTRA), *start.shape))
        self.flat = self.stages.reshape(len(self.stages), -1)
        self.t, self.width = 0.0, 0.0

    def run(self, times: FloatArray, record: Callable[[FloatArray], FloatArray]) -> list:
        """Return `record(z)` at increasing times >= 0.

        Parameters
        ----------
        times : array, shape (T,)
        record : function of a state (B, n), which it must not keep

        Returns
        -------
        list of length T

        Raises
        ------
        FloatingPointError
            If the step becomes too small to advance the time.
        """
        with np.errstate(all="ignore"):  # what overflows is too large an error, and told as such
            return self._run(times, record)

    def _run(self, times: FloatArray, record: Callable[[FloatArray], FloatArray]) -> list:
        kept, done, end = [], 0, float(times[-1])
        self.velocity(self.z, self.stages[0])
        speed = float(np.abs(self.stages[0]).max())
        self.width = min(end, FIRST * float(np.abs(self.z).max()) / speed if speed else end)
        while done < len(times) and times[done] <= self.t:
            kept.append(record(self.z))
            done += 1
        while done < len(times):
            before, width = self.t, self._step(end)
            stop = int(np.searchsorted(times, self.t, side="right"))
            if stop > done:
                kept += self._between((times[done:stop] - before) / width, width, record)
                done = stop
            self.z, self.new = self.new, self.z
            self.stages[0] = self.stages[RULE.n_stages]
        return kept

    def _stage(self, row: int, weights: FloatArray, width: float, out: FloatArray) -> None:
        """Write z + width * sum of `weights` times the stages before `row` into `out`."""
        np.dot(width * weights[:row], self.flat[:row], out=out.reshape(-1))
        out += self.z

    def _step(self, end: float) -> float:
        """Advance by one accepted step, whose width is returned; `new` is the state after it."""
        grow = GROW
        while True:
            width = min(self.width, end - self.t)
            if self.t + width <= self.t:
                raise FloatingPointError(f"{self.what} could not be integrated: step too small.")
            for row in range(1, RULE.n_stages):
                self._stage(row, RULE.A[row], width, self.scratch)
                self.velocity(self.scratch, self.stages[row])
            self._stage(RULE.n_stages, RULE.B, width, self.new)
            self.velocity(self.new, self.stages[RULE.n_stages])
            error = self._error(width)
            if error < 1:
                factor = SAFETY * error**-0.125 if error > 0 else grow
                self.width, self.t = width * min(grow, factor), self.t + width
                return width
            self.width = width * (max(SHRINK, SAFETY * error**-0.125) if error > 1 else SHRINK)
            grow = 1.0

    def _error(self, width: float) -> float:
        """Largest error over systems in units of the tolerance; NaN counts as too large."""
        size = np.maximum(np.abs(self.z, out=self.scratch), np.abs(self.new))
        size *= self.rtol
        size += self.atol
        used = self.flat[: RULE.n_stages + 1]
        fifth, third = (
            np.sum(np.square((rule @ used).reshape(size.shape) / size), axis=1)
            for rule in (RULE.E5, RULE.E3)
        )
        total = np.sqrt((fifth + 0.01 * third) * size.shape[1])
        return width * float(np.max(np.divide(fifth, total, where=total > 0, out=total)))

    def _between(
        self, parts: FloatArray, width: float, record: Callable[[FloatArray], FloatArray]
    ) -> list:
        """Record at fractions of the last step, from a polynomial of degree 7."""
        if len(parts) == 1 and parts[0] == 1.0:
            return [record(self.new)]
        for row, weights in enumerate(RULE.A_EXTRA, start=RULE.n_stages + 1):
            self._stage(row, weights, width, self.scratch)
            self.velocity(self.scratch, self.stages[row])
        # The polynomial is linear in the stages and in z, new: one weight for each, per fraction.
        shape = np.zeros((7, len(self.stages)))
        shape[3:] = RULE.D
        shape[1, 0], shape[2, 0], shape[2, RULE.n_stages] = 1.0, -1.0, -1.0
        change = np.array([1.0, -1.0, 2.0, 0, 0, 0, 0])  # of new - z
        kept = []
        for x in parts:
            basis = np.cumprod([x, 1 - x, x, 1 - x, x, 1 - x, x])
            np.dot(width * (basis @ shape), self.flat, out=self.scratch.reshape(-1))
            self.scratch += self.z
            self.scratch += float(basis @ change) * (self.new - self.z)
            kept.append(record(self.scratch))
        return kept
