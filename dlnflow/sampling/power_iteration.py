"""The eigenvalue of largest modulus of a symmetric matrix that is known by its products.

v <- A v / |A v|,    lambda ~ v . A v,  from below in modulus
"""

from collections.abc import Callable

from torch import Tensor


def power_iteration(
    product: Callable[[Tensor], Tensor], start: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Return v and A v after v <- A v / |A v|, so many times; lambda ~ v . A v.

    Parameters
    ----------
    product : callable
        v (..., P) of length 1 -> A v (..., P).
    start : Tensor, shape (..., P)
        Where to begin.
    iterations : int
        Products, at least 1. The error of lambda falls by (lambda_2 / lambda_1)^2 with each.

    Returns
    -------
    v, Av : Tensor, shape (..., P)
        v has length 1. |A v| estimates |lambda|, v . A v lambda, both from below in modulus.

    Examples
    --------
    >>> import torch
    >>> a = torch.tensor([[2.0, 0.0], [0.0, -3.0]])
    >>> v, product = power_iteration(lambda v: v @ a, torch.ones(2), 40)
    >>> round(float(v @ product), 4)
    -3.0
    """
    image = start
    for _ in range(iterations):
        v = image / image.norm(dim=-1, keepdim=True)
        image = product(v)
    return v, image
