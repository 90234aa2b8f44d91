"""What one would write without this package: a plain torch training loop per removed item."""

import numpy as np
import torch


def torch_losses(run, steps, weights, start=None):
    """Train one torch.nn network with SGD and return per-item losses at `steps`, shape (T, N).

    From `start`, a pair (step, layers at that step), or from the initial weights.
    """
    first, layers = (0, run.initial_weights()) if start is None else start
    model, optimizer = _torch_model(run, layers)
    x, y = (torch.from_numpy(a.T.copy()) for a in (run.task.x, run.task.y))
    weights = torch.from_numpy(np.asarray(weights, dtype=np.float64))
    wanted, kept = set(np.asarray(steps).tolist()), []
    for step in range(first, int(steps[-1]) + 1):
        optimizer.zero_grad()
        losses = 0.5 * ((y - model(x)) ** 2).sum(1)
        if step in wanted:
            kept.append(losses.detach().numpy().copy())
        if step < steps[-1]:
            (weights * losses).mean().backward()
            optimizer.step()
    return np.stack(kept)


def _torch_model(run, weights):
    layers = [
        torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.float64) for w in weights
    ]
    for layer, w in zip(layers, weights, strict=True):
        layer.weight.data = torch.from_numpy(w.copy())
    model = torch.nn.Sequential(*layers)
    return model, torch.optim.SGD(model.parameters(), lr=run.learning_rate)


def torch_leave_one_out(run, steps):
    """Return l(full) - l(without i) by one training per item, shape (T, N, N)."""
    n_items = run.task.n_items
    full = torch_losses(run, steps, np.ones(n_items))
    without = [torch_losses(run, steps, 1 - row) for row in np.eye(n_items)]
    return np.stack([full - losses for losses in without], axis=-1)


def torch_windowed(run, starts, width):
    """Return the mean of l(full) - l(without i) inside each window, shape (S, N, N).

    The run is trained once; every window of every item is then retrained from where it opens.
    """
    n_items = run.task.n_items
    opened = run.train(starts)
    full = torch_losses(run, np.arange(starts[-1] + width + 1), np.ones(n_items))
    means = np.zeros((len(starts), n_items, n_items))
    for mean, start, *layers in zip(means, starts, opened.w1, opened.w2, strict=True):
        inside = np.arange(start + 1, start + width + 1)
        for i, weights in enumerate(1 - np.eye(n_items)):
            losses = torch_losses(run, inside, weights, (start, layers))
            mean[:, i] = (full[inside] - losses).mean(axis=0)
    return means
