"""One initial mode strength that stands for the initial weights of a network."""

from collections.abc import Sequence

import numpy as np

from dlnflow._support import FloatArray
from dlnflow.theory.modes import Modes

MODES_AT_ONCE = 512
"""Modes followed through the initial weights together: few to save memory, many for speed."""
ROUNDING = 1e-15
"""Relative error of a sum of squares."""


def matched_strength(weights: Sequence[FloatArray], modes: Modes) -> float:
    """Initial strength a0 of every mode that reproduces the times of the transitions.

    Two layers: each mode's own start is |W_1 v + W_2^T u|^2 / 4, because of its two hidden vectors
    W_1 v and W_2^T u only the mean grows and their difference decays. Starts are averaged over the
    modes of a degenerate block, so that the choice of singular vectors does not matter, and a0 is
    the geometric mean over blocks: a start enters the time of a transition through its logarithm,
    and every distinct strength makes one transition. L layers: at every interface l the same with
    W_l ... W_1 v and (W_L ... W_{l+1})^T u, each rescaled to the strength of one layer (its root
    mean square over modes to the power 1/l, 1/(L-l)); their mean over interfaces is a0^(2/L).
    Exact for a balanced aligned network of equal strengths; for random weights about
    (h std^2 / 2)^(L/2). For L > 2 this is a convention: random deep layers align nonlinearly, and
    their transitions come earlier than it predicts (docs/derivations/perturbation.md).

    Parameters
    ----------
    weights : sequence of arrays (out, in)
        W_1, ..., W_L.
    modes : Modes
        Modes of the task.

    Returns
    -------
    float
        Independent of the choice of singular vectors inside a degenerate block.
    """
    depth = len(weights)
    parts = np.empty((depth - 1, 3, modes.rank))  # |f|^2, |b|^2 and f.b at every interface
    for first in range(0, modes.rank, MODES_AT_ONCE):
        part = slice(first, first + MODES_AT_ONCE)
        forward, backward = [modes.v[:, part]], [modes.u[:, part]]
        for w in weights[:-1]:
            forward.append(w @ forward[-1])
        for w in weights[:0:-1]:
            backward.append(w.T @ backward[-1])
        for row, f, b in zip(parts, forward[1:], backward[:0:-1], strict=True):
            pairs = ((f, f), (b, b), (f, b))
            row[:, part] = [np.einsum("hm,hm->m", *pair) for pair in pairs]
    ff, bb, fb = np.swapaxes(parts, 0, 1)
    below = np.arange(1, depth)  # layers below the interface
    forward_scale = ff.mean(axis=1) ** (0.5 / below - 0.5)
    backward_scale = bb.mean(axis=1) ** (0.5 / below[::-1] - 0.5)
    separate = (forward_scale**2)[:, None] * ff + (backward_scale**2)[:, None] * bb
    joint = separate + (2 * forward_scale * backward_scale)[:, None] * fb
    # A mode whose two vectors cancel starts at about 0; rounding must not put it below.
    squares = np.maximum(joint, ROUNDING * separate).mean(axis=0) / 4
    by_block = [squares[block].mean() for block in modes.blocks]
    return float(np.exp(np.mean(np.log(by_block)) * depth / 2))
