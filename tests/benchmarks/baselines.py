"""What one would write without this package: a plain torch training loop per removed item."""

import numpy as np
import torch


def torch_losses(run, steps, weights):
    """Train one torch.nn network with SGD and return per-item losses at `steps`, shape (T, N)."""
    layers = [
        torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.float64)
        for w in run.initial_weights()
    ]
    for layer, w in zip(layers, run.initial_weights(), strict=True):
        layer.weight.data = torch.from_numpy(w.copy())
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.learning_rate)
    x, y = (torch.from_numpy(a.T.copy()) for a in (run.task.x, run.task.y))
    weights = torch.from_numpy(np.asarray(weights, dtype=np.float64))
    wanted, kept = set(np.asarray(steps).tolist()), []
    for step in range(int(steps[-1]) + 1):
        optimizer.zero_grad()
        losses = 0.5 * ((y - model(x)) ** 2).sum(1)
        if step in wanted:
            kept.append(losses.detach().numpy().copy())
        if step < steps[-1]:
            (weights * losses).mean().backward()
            optimizer.step()
    return np.stack(kept)


def torch_leave_one_out(run, steps):
    """Return l(full) - l(without i) by one training per item, shape (T, N, N)."""
    n_items = run.task.n_items
    full = torch_losses(run, steps, np.ones(n_items))
    without = [torch_losses(run, steps, 1 - row) for row in np.eye(n_items)]
    return np.stack([full - losses for losses in without], axis=-1)
