"""Loss traces of the posterior localised at checkpoints of a torch run."""

from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn

from dlnflow._support import IntArray
from dlnflow.dynamics.schedule import Schedule
from dlnflow.sampling import Settings, sample

if TYPE_CHECKING:
    from dlnflow.dynamics.torch_model import TorchRun

REQUIRED = ("n_beta", "localization", "step_size")


def trace_torch_run(
    run: "TorchRun",
    steps: IntArray,
    *,
    kernel: str = "sgld",
    weights: ArrayLike | None = None,
    trained_weights: ArrayLike | None = None,
    **sampling: Any,
) -> xr.DataArray:
    """Sample around the weights at steps and record the losses of items and queries.

    `weights` (N,) are the item weights of the posterior, `trained_weights` (N,) those with which
    the checkpoints are trained; both are 1 by default.

    Raises
    ------
    ValueError
        If a setting without default is missing, or as `dlnflow.sampling.sample`.
    """
    missing = [f"`{name}`" for name in REQUIRED if name not in sampling]
    if missing:
        raise ValueError(
            f"sampling around a torch model needs {', '.join(missing)}: only a deep linear network "
            "has defaults. docs/sampling.md says how to choose them."
        )
    fields = set(Settings.__dataclass_fields__)
    given = {name: value for name, value in sampling.items() if name in fields}
    given.setdefault("dtype", str(run.problem.initial[0].dtype).removeprefix("torch."))
    options = {name: value for name, value in sampling.items() if name not in fields}
    loss = run.problem.item_loss

    def item_losses(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return loss(model(batch[0]), batch[1])

    def weighted_losses(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return batch[2] * item_losses(model, batch)

    observed, names = run.data, run.items
    if run.queries is not run.items:
        pairs = zip(run.data, run.problem.queried, strict=True)
        observed = tuple(torch.cat([items, queries]) for items, queries in pairs)
        names = [*run.items, *run.queries]
    model = run.model.eval().requires_grad_(True)  # the run's own copy
    states = run.weights(steps, trained_weights)
    buffers = dict(model.named_buffers())
    training, data = item_losses, run.data
    if weights is not None:
        constant = Schedule.of(weights, len(run.items)).at(0)
        factors = torch.as_tensor(constant).to(run.problem.initial[0])
        training, data = weighted_losses, (*run.data, factors)
        observed = (*observed, torch.ones(len(observed[0])).to(factors))
        options["observed_loss"] = item_losses
    return sample(
        model,
        training,
        data,
        observed,
        settings=Settings(**given),
        kernel=kernel,
        checkpoints={
            int(step): {**model.state_dict(), **buffers, **state}
            for step, state in zip(steps, states, strict=True)
        },
        items=names,
        **options,
    )
