"""Deep linear network: initial weights, losses, gradients and their exact derivatives.

Weights are a list [W_1, ..., W_L] of arrays of shape (..., out, in); leading axes are independent
networks that are computed together. One-hot inputs are passed as ``x=None``, which saves the
products with the identity.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from dlnflow import checks
from dlnflow._support import FloatArray

Weights = list[FloatArray]


def initial_weights(sizes: Sequence[int], std: float, seed: int) -> Weights:
    """Draw independent N(0, std^2) entries for layers of the given sizes.

    Parameters
    ----------
    sizes : sequence of int, length L + 1
        n_in, hidden widths, d_out.
    std : float
        Standard deviation of every entry.
    seed : int
        Seed of numpy's default generator; the first layer is drawn first.

    Returns
    -------
    list of arrays, shapes (sizes[l+1], sizes[l])
    """
    generator = np.random.default_rng(seed)
    pairs = zip(sizes[1:], sizes[:-1], strict=True)
    return [std * generator.standard_normal(shape) for shape in pairs]


def checked_weights(given: Sequence[ArrayLike], n_in: int, n_out: int) -> Weights:
    """Return weights (W_1, ..., W_L) as float64 arrays that fit each other and the data.

    Raises
    ------
    ValueError
        If one is no finite matrix, or shapes do not form a chain from n_in to n_out.
    """
    if isinstance(given, np.ndarray) or not isinstance(given, Sequence) or len(given) < 2:
        raise ValueError(
            "`initial` must be a list of at least two matrices (W_1, ..., W_L), each of shape "
            "(out, in)."
        )
    weights = [checks.finite_matrix(f"initial[{k}]", w).copy() for k, w in enumerate(given)]
    sizes = [n_in, *(len(w) for w in weights)]
    for k, (w, below) in enumerate(zip(weights, sizes, strict=False)):
        if w.shape[1] != below:
            raise ValueError(
                f"`initial[{k}]` must have {below} columns, the size of what it sees; got shape "
                f"{w.shape}."
            )
    if sizes[-1] != n_out:
        raise ValueError(
            f"the last of `initial` must have {n_out} rows, one per feature; got {sizes[-1]}."
        )
    return weights


class Pass(NamedTuple):
    """Forward and backward products of one evaluation, from which gradients follow.

    ``inputs[l]`` is what layer l sees, shape (..., n_l, N), None where it is the identity;
    ``errors[l]`` is the weighted error at the output of layer l, shape (..., n_{l+1}, N).
    """

    inputs: list[FloatArray | None]
    errors: list[FloatArray]
    residual: FloatArray


def outputs(weights: Weights, x: FloatArray | None) -> list[FloatArray | None]:
    """Return [x, W_1 x, W_2 W_1 x, ...], the activations of every layer."""
    activations = [x]
    for w in weights:
        below = activations[-1]
        activations.append(w if below is None else w @ below)
    return activations


def propagate(
    weights: Weights, x: FloatArray | None, y: FloatArray, scaled_weights: FloatArray
) -> Pass:
    """Forward and backward pass for the objective sum_i c_i l_i, c_i = w_i / N.

    Parameters
    ----------
    weights : list of arrays (..., out, in)
    x : array, shape (n_in, N), or None for one-hot
    y : array, shape (d_out, N)
    scaled_weights : array, shape (..., 1, N)
        Item weights divided by N.

    Returns
    -------
    Pass
    """
    activations = outputs(weights, x)
    residual = y - activations[-1]
    errors = [residual * scaled_weights]
    for w in reversed(weights[1:]):
        errors.append(np.swapaxes(w, -1, -2) @ errors[-1])
    return Pass(activations[:-1], errors[::-1], residual)


def gradients(products: Pass) -> Weights:
    """Gradient of sum_i (w_i/N) l_i with respect to every layer: - error_l inputs_l^T."""
    return [
        -error if below is None else -(error @ np.swapaxes(below, -1, -2))
        for error, below in zip(products.errors, products.inputs, strict=True)
    ]


def gradient_tangents(
    weights: Weights,
    tangents: Weights,
    products: Pass,
    scaled_weights: FloatArray,
    scaled_weight_tangents: FloatArray,
) -> Weights:
    """Derivative of `gradients` along changes of the weights and of the item weights.

    The product rule applied to the forward and backward pass: exact, no approximation.

    Parameters
    ----------
    weights : list of arrays (out, in)
    tangents : list of arrays (K, out, in)
        K directions of change, computed together.
    products : Pass
        Products of `weights`.
    scaled_weights : array, shape (1, N)
    scaled_weight_tangents : array, shape (K, 1, N)
        The change of w_i / N that goes with each direction.

    Returns
    -------
    list of arrays (K, out, in)
    """
    moved = _output_tangents(weights, tangents, products.inputs)
    error = products.residual * scaled_weight_tangents - moved[-1] * scaled_weights
    result = []
    for layer in reversed(range(len(weights))):
        below, inputs_moved = products.inputs[layer], moved[layer]
        change = error if below is None else error @ np.swapaxes(below, -1, -2)
        if inputs_moved is not None:
            change = change + products.errors[layer] @ np.swapaxes(inputs_moved, -1, -2)
        result.append(-change)
        if layer:
            error = np.swapaxes(weights[layer], -1, -2) @ error + (
                np.swapaxes(tangents[layer], -1, -2) @ products.errors[layer]
            )
    return result[::-1]


def gauss_newton_tangents(
    weights: Weights,
    tangents: Weights,
    products: Pass,
    scaled_weights: FloatArray,
    scaled_weight_tangents: FloatArray,
) -> Weights:
    """`gradient_tangents` with the Gauss-Newton matrix in place of the Hessian.

    The Jacobian of the outputs is held fixed: residuals move with the outputs, but what multiplies
    them on the way back does not. Parameters and shapes are those of `gradient_tangents`.

    Returns
    -------
    list of arrays (K, out, in)
    """
    moved = _output_tangents(weights, tangents, products.inputs)[-1]
    error = products.residual * scaled_weight_tangents - moved * scaled_weights
    result = []
    for layer in reversed(range(len(weights))):
        below = products.inputs[layer]
        result.append(-(error if below is None else error @ np.swapaxes(below, -1, -2)))
        if layer:
            error = np.swapaxes(weights[layer], -1, -2) @ error
    return result[::-1]


def losses(weights: Weights, x: FloatArray | None, y: FloatArray) -> FloatArray:
    """Per-item losses l_i = 1/2 |y_i - W x_i|^2, shape (..., N)."""
    return 0.5 * np.sum((y - outputs(weights, x)[-1]) ** 2, axis=-2)


def loss_tangents(
    weights: Weights, tangents: Weights, x: FloatArray | None, y: FloatArray
) -> FloatArray:
    """Derivative of the losses, dl_q = - r_q^T (dW) x_q, shape (K, N) for K directions."""
    activations = outputs(weights, x)
    moved = _output_tangents(weights, tangents, activations[:-1])
    return -np.sum((y - activations[-1]) * moved[-1], axis=-2)


def _output_tangents(
    weights: Weights, tangents: Weights, inputs: list[FloatArray | None]
) -> list[FloatArray | None]:
    """Derivatives of `outputs`, given what every layer sees; None for the data, which stay."""
    moved: list[FloatArray | None] = [None]
    for w, dw, below in zip(weights, tangents, inputs, strict=True):
        change = dw if below is None else dw @ below
        moved.append(change if moved[-1] is None else change + w @ moved[-1])
    return moved


def flatten(weights: Weights) -> FloatArray:
    """Layers of shape (..., out, in) as one array (..., P), of all P weights of a network."""
    return np.concatenate([w.reshape(*w.shape[:-2], -1) for w in weights], axis=-1)


def unflatten(flat: FloatArray, shapes: Sequence[tuple[int, ...]]) -> Weights:
    """Inverse of `flatten`; `shapes` are those of single layers, without the leading axes."""
    cuts = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])[:-1]
    parts = zip(np.split(flat, cuts, axis=-1), shapes, strict=True)
    return [part.reshape(*part.shape[:-1], *shape) for part, shape in parts]


def reduced(weights: Weights) -> tuple[Weights, FloatArray | None]:
    """Two-layer weights in an orthonormal basis of the hidden directions they ever use.

    The columns of W_1 and of W_2^T span at most n_in + d_out hidden directions, and every
    gradient step stays in that span, whatever the data weights: the gradient of W_1 is
    W_2^T times something, that of W_2^T is W_1 times something. So W_1 = B W_1', W_2 = W_2' B^T
    holds for the whole run with one fixed B. Exact for updates linear in the gradient (gradient
    descent, momentum, flow), not for Adam, which is not rotation invariant.

    Returns
    -------
    (weights', B) : list of arrays, array of shape (h, k)
        B is None where the hidden layer is already no wider than n_in + d_out or the network is
        not of two layers, and the weights are returned as they are.
    """
    if len(weights) != 2:
        return weights, None
    w1, w2 = weights
    if w1.shape[0] <= w1.shape[1] + w2.shape[0]:
        return weights, None
    basis, _ = linalg.qr(np.hstack([w1, w2.T]), mode="economic")
    return [basis.T @ w1, w2 @ basis], basis
