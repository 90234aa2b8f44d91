"""Does float32 resolve what the kernel does? The conditions, with u = 1.2e-7 its precision.

    every kernel with a fixed step:  sqrt(step_size) >= 2 u max |theta|, or moves are rounded away
    mala:                            n_beta u L < 0.1, or U(theta) - U(y) is rounding noise

Where these fail, chains mix and covariances are wrong: twofold where sqrt(step_size) is
0.4 u max |theta|.
"""

import warnings

import numpy as np
from torch import Tensor

from dlnflow.sampling.settings import Settings

UNIT = float(np.finfo(np.float32).eps)
LEAST_MOVE = 2.0
"""sqrt(step_size) / (u max |theta|); covariances are 15 % off at 1.2 and right at 3.7."""
MOST_NOISE = 0.1
"""Rounding of n_beta L that changes an acceptance by less than a tenth."""


def check_precision(settings: Settings, kernel: str, theta: Tensor, loss: float) -> None:
    """Refuse or warn about float32 where it is too coarse.

    Parameters
    ----------
    settings : Settings
        Step, temperature and precision.
    kernel : str
        Name in `KERNELS`.
    theta : Tensor
        Weights of the checkpoints.
    loss : float
        Largest mean loss of a checkpoint.

    Raises
    ------
    ValueError
        If MALA would compare losses that are rounding noise.
    """
    if settings.dtype != "float32":
        return
    noise = settings.n_beta * UNIT * abs(loss)
    if kernel == "mala" and noise >= MOST_NOISE:
        raise ValueError(
            f"`dtype` 'float32' is too coarse for 'mala' at `n_beta` = {settings.n_beta:g}: the "
            f"rounding of n_beta * loss is {noise:.2g}, and the acceptance compares such numbers. "
            "Use dtype='float64', or 'underdamped'."
        )
    largest = float(theta.abs().max())
    move = settings.step_size**0.5 / (UNIT * max(largest, np.finfo(np.float32).tiny))
    if kernel != "rmsprop_sgld" and move < LEAST_MOVE:
        warnings.warn(
            f"`dtype` 'float32' is too coarse: one step moves a weight by sqrt(step_size) = "
            f"{settings.step_size**0.5:.2g}, which is {move:.2g} times the rounding of the largest "
            f"weight ({largest:.3g}). Covariances come out too large; use dtype='float64'.",
            stacklevel=3,
        )
