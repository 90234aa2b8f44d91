"""The closed form of the paper: aligned modes, perturbed input-output correlation."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow.dynamics.linear import Run
from dlnflow.influence import closed_form
from dlnflow.influence.grid import Grid, Items
from dlnflow.theory.low_rank import chunks

MODES_AT_ONCE = 512
"""Modes followed through the initial weights together: few to save memory, many for speed."""
ROUNDING = 1e-15
"""Relative error of a sum of squares."""


def analytic(
    run: Run,
    steps: ArrayLike,
    *,
    a0: float | None = None,
    response: str = "correlation",
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence from the mode equation, without training.

        K[t, q, i] = - r_q(t)^T (dW_i) x_q,   dW_i = derivative of f_t(S) along y_i x_i^T / c,

    with S = Y X^T / c = U diag(s) V^T, X X^T = c I, f_t(s) = a(t; s, a0) the mode strength and
    r_q = y_q - W x_q. For targets that are a linear function of the inputs (one-hot inputs
    always) this is K = - sum_ab A_ab(t) P_a o P_b / c over distinct singular values, with
    P_a = X^T V_a V_a^T X and `o` the entrywise product.

    Parameters
    ----------
    run : Run
        Whitened inputs; any depth; an optimizer with a flow time (all but Adam).
    steps : sequence of int
        Times at which influence is wanted, strictly increasing within the run.
    a0 : float, optional
        Initial strength of every mode. Default: `matched_strength(run)`.
    response : {"correlation", "exact"}
        What the weight of an item changes: the input-output correlation, with the network aligned
        to the changed modes (the paper), or the data, with the initial weights as they are: the
        exact tangent of an aligned balanced start, from a linear equation per pair of modes. For
        targets that are a linear function of the inputs.
    query, train : item names, optional
        Default: all. Cost and memory are proportional to the number of pairs.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train); negative = the train item helps the query. ``attrs["a0"]`` is
        the initial strength used.

    Raises
    ------
    ValueError
        If inputs are not whitened, the optimizer has no flow time, the network is narrower than
        the rank of the target, or the derivative does not exist; if an argument is invalid.
    FloatingPointError
        If ``response="exact"`` cannot be integrated.

    Notes
    -----
    What is approximated: all modes start aligned with the singular vectors and at one strength;
    only the input-output correlation is reweighted (unless ``response="exact"``), so a reweighted
    item moves the fixed point that is learned; steps are continuous time. `tangent` makes none of
    these approximations.

    References
    ----------
    Lee, Smith, Adam, Hoogland 2025, "Influence dynamics and stagewise data attribution";
    docs/derivations/perturbation.md.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = analytic(run, [400, 800], query=["cat", "pine"], train="dog")
    >>> inf.sel(train="dog").values.round(3).tolist()
    [[-0.518, 0.043], [0.206, -0.0]]
    """
    grid = Grid.of(run, steps, query, train)
    check_run(run)
    checks.one_of("response", response, ("correlation", "exact"))
    a0 = matched_strength(run) if a0 is None else checks.positive("a0", a0)
    values = closed_form.influence(
        run.task,
        grid.flow_time,
        a0,
        run.depth,
        query=grid.query,
        train=grid.train,
        exact=response == "exact",
    )
    return grid.result(values, "analytic", attrs={"a0": a0, "response": response})


def matched_strength(run: Run) -> float:
    """One initial mode strength a0 that stands for the run's own initial weights.

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
    run : Run

    Returns
    -------
    float
        Independent of the choice of singular vectors inside a degenerate block.

    Examples
    --------
    >>> import dlnflow as dln
    >>> a0 = matched_strength(dln.Run(dln.semantic_hierarchy(), hidden=1000, init_std=1e-3))
    >>> round(a0 / (1000 * 1e-3**2 / 2), 1)
    1.0
    """
    weights, modes = run.initial_weights(copy=False), run.task.modes
    depth = len(weights)
    parts = np.empty((depth - 1, 3, modes.rank))  # |f|^2, |b|^2 and f.b at every interface
    for part in chunks(modes.rank, MODES_AT_ONCE):
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


def check_run(run: Run) -> None:
    """Require whitened inputs, a flow time and hidden >= rank.

    Raises
    ------
    ValueError
        If the run is another.
    """
    if run.task.whitening is None:
        raise ValueError(
            "`analytic` needs whitened inputs, X X^T = c I (one-hot inputs are). Whiten them, or "
            "use `tangent` or `leave_one_out`, which work for any inputs."
        )
    if not np.all(np.isfinite(run.flow_time([0, 1]))):
        raise ValueError(
            f"`analytic` needs a flow time, which optimizer={run.optimizer!r} does not have; use "
            "`tangent` or `leave_one_out`, which follow any optimizer."
        )
    rank = run.task.modes.rank
    if run.hidden < rank:
        raise ValueError(
            f"`analytic` describes a network that learns all {rank} modes of the task, but "
            f"`hidden` is {run.hidden}. Use hidden >= {rank}, or `tangent`."
        )
