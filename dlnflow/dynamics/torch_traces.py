"""Loss traces of the posterior localised at checkpoints of a torch run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn

from dlnflow.dynamics.schedule import Schedule
from dlnflow.dynamics.torch_kernels import differentiable
from dlnflow.sampling import Settings, sample

if TYPE_CHECKING:
    from dlnflow.dynamics.torch_steps import Pair, Tensors, TorchProblem

REQUIRED = ("n_beta", "localization", "step_size")


def trace_problem(
    problem: "TorchProblem",
    points: Mapping[int, "Tensors"],
    watched: "Pair",
    names: Sequence[str],
    *,
    kernel: str = "sgld",
    weights: ArrayLike | None = None,
    **sampling: Any,
) -> xr.DataArray:
    """Sample around the weights at steps and record the losses of what is watched.

    Parameters
    ----------
    problem : TorchProblem
    points : mapping of step to weights
    watched : (inputs, targets)
        What `problem.watched` holds.
    names : sequence of str
        Names of what is watched.
    kernel : str
    weights : array (N,), optional
        Item weights of the posterior. Default: all 1.
    **sampling
        Settings and evaluation options.

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
    given.setdefault("dtype", str(problem.initial[0].dtype).removeprefix("torch."))
    options = {name: value for name, value in sampling.items() if name not in fields}

    def item_losses(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return problem.item_loss(model(batch[0]), batch[1])

    def weighted_losses(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return batch[2] * item_losses(model, batch)

    training, data = item_losses, problem.data
    if weights is not None:
        constant = Schedule.of(weights, problem.n_items).at(0)
        factors = torch.as_tensor(constant).to(problem.initial[0])
        training, data = weighted_losses, (*problem.data, factors)
        watched = (*watched, torch.ones(len(watched[0])).to(factors))
    model = problem.model.eval().requires_grad_(True)  # the run's own copy
    common = {**model.state_dict(), **dict(model.named_buffers())}
    with differentiable():  # by kernels that many chains can share
        return sample(
            model,
            training,
            data,
            watched,
            settings=Settings(**given),
            kernel=kernel,
            checkpoints={
                step: {**common, **dict(zip(problem.weights, point, strict=True))}
                for step, point in points.items()
            },
            items=list(names),
            **{"observed_loss": problem.watched_losses, **options},
        )
