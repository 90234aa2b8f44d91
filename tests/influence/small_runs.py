"""Small runs of every optimizer and depth, with generic data on which none of them diverges."""

import numpy as np

import dlnflow as dln

DISCRETE = [(name, depth) for name in ("gd", "momentum", "adam") for depth in (2, 3)]
RATES = {"gd": 0.2, "flow": 0.2, "momentum": 0.05, "adam": 0.02}


def small_run(optimizer="gd", depth=2, *, one_hot=False, n_steps=60, seed=5):
    """4 items, 5 features, 3 inputs with singular values between 1 and 2 (or one-hot)."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((5, 4))
    u, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    v, _ = np.linalg.qr(rng.standard_normal((4, 3)))
    x = None if one_hot else u @ np.diag([2, 1.5, 1]) @ v.T
    task = dln.Task(2 * y / np.linalg.norm(y, 2), x)
    return dln.Run(
        task,
        hidden=11,
        init_std=0.3,
        learning_rate=RATES[optimizer],
        n_steps=n_steps,
        optimizer=optimizer,
        depth=depth,
        seed=seed,
    )
