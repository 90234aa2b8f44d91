"""What is refused of a model, its data and its loss before a torch run trains."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dlnflow import checks
from dlnflow.dynamics.optimizers import OPTIMIZERS, Traits
from dlnflow.dynamics.torch_graphs import tensors_in
from dlnflow.dynamics.torch_kernels import differentiable
from dlnflow.dynamics.torch_losses import LOSSES, ItemLoss
from dlnflow.dynamics.torch_steps import Pair, started

SAME = 1e-3
"""Relative difference of a loss alone and among others that rounding does not explain."""


def rule_of(optimizer: Any) -> Any:
    """Return an update rule that has `update`.

    Raises
    ------
    ValueError
        If the name is unknown, the rule has no steps, or it is no functional rule.
    """
    rule = optimizer
    if not (isinstance(rule, type) and isinstance(getattr(rule, "traits", None), Traits)):
        discrete = [name for name, one in OPTIMIZERS.items() if not one.traits.continuous]
        if isinstance(rule, str) and rule in OPTIMIZERS and rule not in discrete:
            raise ValueError(
                f"`optimizer` {rule!r} has no steps, and a torch model is trained in steps; use "
                'optimizer="gd" with a small `learning_rate`, whose error is of first order in it.'
            )
        rule = OPTIMIZERS[checks.one_of("optimizer", rule, discrete)]
    missing = [n for n in ("start", "update", "displacement") if not hasattr(rule, n)]
    if missing or rule.traits.continuous:
        raise ValueError(
            f"`optimizer` {rule.__name__} must be a functional rule with start, update and "
            f"displacement; it lacks {', '.join(missing) or 'steps'}. See "
            "dlnflow.dynamics.optimizers.base."
        )
    return rule


def copied_model(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a copy of the model and the weights that are trained.

    Raises
    ------
    TypeError
        If it is no module.
    ValueError
        If it draws random numbers or keeps batch statistics, or its weights cannot be trained.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given
    _require_plain(model)
    for name, module in model.named_modules():
        if module.training and _varies(module):
            raise ValueError(
                f"`model` has {type(module).__name__} in training mode ({name or 'itself'}): its "
                "dropout or batch statistics make a run that does not replay. Call model.eval() "
                "first."
            )
    trained = copy.deepcopy(model)
    weights = {n: p for n, p in trained.named_parameters() if p.requires_grad}
    if not weights:
        raise ValueError(
            "`model` has no parameter to train; leave requires_grad=True on some of them."
        )
    kinds = {(p.dtype, p.device) for p in weights.values()}
    if len(kinds) > 1 or next(iter(kinds))[0] not in (torch.float32, torch.float64):
        raise ValueError(
            "`model` must hold all trained parameters in one precision, float32 or float64, on one "
            f"device; got {', '.join(sorted(f'{d} on {where}' for d, where in kinds))}. Use "
            "model.double() or model.float()."
        )
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"`model` must have finite weights; {name} holds NaN or infinity.")
    trained.requires_grad_(False)
    return trained, {name: weight.detach().clone() for name, weight in weights.items()}


def _require_plain(model: nn.Module) -> None:
    """Refuse modules whose weights cannot be replaced, and weights that are not there yet."""
    way_out = {
        nn.DataParallel: "Give its `module`.",
        nn.parallel.DistributedDataParallel: "Give its `module`.",
        torch.jit.ScriptModule: "Give the module that was scripted.",
    }
    for kind, way in way_out.items():
        if isinstance(model, kind):
            raise ValueError(
                f"`model` is a {type(model).__name__}, whose weights cannot be replaced. {way}"
            )
    for name, part in model.named_modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None:
            raise ValueError(
                f"`model` has an embedding with max_norm ({name or 'itself'}), which changes its "
                "weights when it is called. Leave it out, and divide by the norm in the model."
            )
    for name, part in model.named_parameters():
        if isinstance(part, nn.parameter.UninitializedParameter) or part.is_meta:
            raise ValueError(
                f"`model` has weights without values ({name}). Call it once on `x` if it is lazy, "
                "or move it from the meta device with to_empty and initialise it."
            )


def _varies(module: nn.Module) -> bool:
    """Whether a module in training mode draws random numbers or changes statistics."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.track_running_stats or isinstance(module, nn.modules.batchnorm._BatchNorm)
    rate = getattr(module, "dropout", 0.0)
    return isinstance(rate, float) and rate > 0


def pair_of(name: str, data: Any, like: Tensor) -> Pair:
    """Return (inputs, targets) as tensors: floating numbers in the precision of the model.

    Raises
    ------
    ValueError
        If there are not two of one length, at least one item, or a number is not finite.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ValueError(
            f"`{name}` must be a pair (x, y) of inputs and targets, items first; got "
            f"{checks.shown(data) if not hasattr(data, 'shape') else 'one array'}."
        )
    x, y = (_tensor(part, one, like) for part, one in zip(("x", "y"), data, strict=True))
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        raise ValueError(
            f"`{name}` must hold one target per input, items on the first axis; got shapes "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )
    return x, y


def _tensor(name: str, value: Any, like: Tensor) -> Tensor:
    try:
        if isinstance(value, Tensor):
            tensor = value.detach()
        else:  # torch takes no negative strides
            tensor = torch.tensor(np.ascontiguousarray(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be an array or a tensor of numbers: {error}") from error
    tensor = tensor.clone().to(like.device)
    if not tensor.is_floating_point():
        labels = name == "y" and tensor.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32)
        return tensor.long() if labels else tensor  # what torch takes as classes
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"`{name}` must be finite; it holds NaN or infinity.")
    return tensor.to(like.dtype)


def item_loss_of(loss: str | ItemLoss) -> ItemLoss:
    """Return the loss function of a name, or a function as it is.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if callable(loss):
        return loss
    return LOSSES[checks.one_of("loss", loss, list(LOSSES))]


def require_losses(
    model: nn.Module,
    weights: dict[str, Tensor],
    loss: str | ItemLoss,
    pair: Pair,
    name: str = "data",
) -> None:
    """Evaluate the losses of some data and refuse what is not one loss per item.

    `name` is the argument that the data came in.

    Raises
    ------
    ValueError
        If outputs and targets do not fit, a loss is no loss of a single item, is not finite or has
        no derivative, or the model does not give the same twice.
    """
    before = {n: part.clone() for n, part in _parts(model, weights)}
    output, repeated = (_outputs(model, weights, pair[0], name) for _ in range(2))
    if not isinstance(output, Tensor):
        raise ValueError(f"`model` must return one tensor, got {type(output).__name__}.")
    changed = [n for n, part in _parts(model, weights) if not torch.equal(part, before[n])]
    if changed or not torch.equal(output, repeated):
        cause = f"it changes {changed[0]!r}" if changed else "it gives another output"
        raise ValueError(
            f"`model` must give the same at every call; {cause} the second time, so that a run "
            "does not replay. Take random numbers and in-place state out, or call model.eval()."
        )
    _require_targets(loss, output, pair[1])
    function = item_loss_of(loss)
    losses = _losses(function, output, pair[1])
    shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
    if shape != (len(output),):
        raise ValueError(
            f"`loss` must give one loss per item, shape ({len(output)},), got {shape}; leave out "
            'the mean over items, e.g. with reduction="none".'
        )
    if not bool(torch.isfinite(losses).all()):
        raise ValueError("`loss` must be finite for the initial weights; it is NaN or infinite.")
    alone, turned = (
        _losses(function, _outputs(model, weights, x, name), y)
        for x, y in ((part[:1] for part in pair), (part.flip(0) for part in pair))
    )
    if alone.shape != (1,) or not torch.allclose(alone, losses[:1], rtol=SAME, atol=1e-6):
        raise ValueError(
            "`loss` of an item must not depend on the other items of its batch: the first is "
            f"{losses[0]:.6g} among all and {alone.flatten()[0]:.6g} alone. A mean over the batch, "
            "or layers that mix items, do that."
        )
    if not torch.allclose(turned.flip(0), losses, rtol=SAME, atol=1e-6):
        worst = int((turned.flip(0) - losses).abs().argmax())
        raise ValueError(
            "`loss` of an item must not depend on its place among other items: that of number "
            f"{worst} is {losses[worst]:.6g}, and {turned.flip(0)[worst]:.6g} with the items in "
            "reverse. Items must be the first axis in every layer (batch_first=True)."
        )
    _require_derivative(model, weights, function, pair)
    _require_precision(next(iter(weights.values())).dtype, output, losses)


def _require_precision(kept: torch.dtype, output: Tensor, losses: Tensor) -> None:
    """Refuse outputs and losses that are whole, or rounded more coarsely than weights."""
    for name, found in (("model", output.dtype), ("loss", losses.dtype)):
        if not (found.is_floating_point or found.is_complex):
            raise ValueError(
                f"`{name}` gives {found}, which has no derivative by the weights. Leave out what "
                "converts or chooses, e.g. .long(), argmax or a comparison."
            )
        if torch.finfo(found).eps > torch.finfo(kept).eps:
            raise ValueError(
                f"`{name}` gives {found} where weights are {kept}: its rounding would end up in "
                "every derivative. Leave out what converts, e.g. .float(), or use model.float()."
            )


def _parts(model: nn.Module, weights: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Return what a call of the model must leave as it is."""
    return [*weights.items(), *model.named_buffers()]


def _line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says, which may be nothing."""
    said = str(error).splitlines()
    return ": ".join([type(error).__name__, *said[:1]])


def _losses(function: ItemLoss, output: Tensor, target: Tensor) -> Any:
    """Return losses; say on what they failed."""
    try:
        return function(output, target)
    except Exception as error:  # whatever a loss of the user's own raises
        raise ValueError(
            f"`loss` cannot be evaluated on outputs of shape {tuple(output.shape)} and targets "
            f"of shape {tuple(target.shape)} and {target.dtype}: {_line(error)}"
        ) from error


def _outputs(model: nn.Module, weights: dict[str, Tensor], x: Tensor, name: str) -> Any:
    """Return the model's outputs; say on what it failed."""
    try:
        with differentiable():
            return functional_call(model, weights, (x,))
    except Exception as error:  # whatever a model's own code raises
        whole = "" if x.is_floating_point() else " Only embeddings take whole numbers."
        raise ValueError(
            f"`model` cannot be evaluated on `{name}`, inputs of shape {tuple(x.shape)} and "
            f"{x.dtype}: {_line(error)}.{whole}"
        ) from error


def _require_targets(loss: str | ItemLoss, output: Tensor, target: Tensor) -> None:
    """Refuse targets of another shape or kind than a named loss takes."""
    shapes = f"outputs {tuple(output.shape)}, targets {tuple(target.shape)}"
    if loss == "mse":
        if output.shape != target.shape or output.ndim < 1:
            raise ValueError(
                f'`y` must have the shape of the outputs for loss="mse": {shapes}. Class labels '
                'take loss="cross_entropy".'
            )
    elif loss == "cross_entropy" and not target.is_floating_point():
        n_classes = output.shape[1] if output.ndim == 2 else 0
        if target.ndim != 1 or not n_classes:
            raise ValueError(
                '`y` must hold one class per item and the outputs be (N, classes) for loss="'
                f'cross_entropy": {shapes}. Give a callable `loss` for other shapes.'
            )
        if target.dtype != torch.int64 or not bool(((target >= 0) & (target < n_classes)).all()):
            raise ValueError(
                f"`y` must hold classes 0, ..., {n_classes - 1} as int64; got {target.dtype} from "
                f"{int(target.min())} to {int(target.max())}."
            )
    elif loss == "cross_entropy" and target.shape == output.shape:
        total = target.sum(1)
        if bool((target < 0).any()) or not torch.allclose(total, torch.ones_like(total), rtol=SAME):
            raise ValueError(
                '`y` must hold probabilities, >= 0 and of sum 1 over the classes, for loss="'
                f'cross_entropy": got {float(target.min()):g} at least, and sums from '
                f"{float(total.min()):g} to {float(total.max()):g}. Give a callable `loss` for "
                "other targets."
            )
    elif loss == "cross_entropy":
        raise ValueError(
            "`y` must hold whole class labels (N,), or probabilities of the shape of the outputs, "
            f'for loss="cross_entropy": {shapes}, {target.dtype}.'
        )


def _require_derivative(
    model: nn.Module, weights: dict[str, Tensor], function: ItemLoss, pair: Pair
) -> None:
    """Refuse losses through which no derivative passes, or no second one, or not in a batch."""

    def losses(weights: dict[str, Tensor], count: int | None = None) -> Tensor:
        return function(functional_call(model, weights, (pair[0][:count],)), pair[1][:count])

    def first(weights: dict[str, Tensor]) -> Tensor:
        return losses(weights, 1).sum()

    def product(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return jvp(grad(first), (weights,), (weights,))[1]

    try:
        with differentiable():  # as in training
            moved = jvp(losses, (weights,), (dict(weights),))[1]
            networks = {name: part[None] for name, part in weights.items()}
            for derivative in (first, grad(first), product):  # some have rules of their own
                vmap(derivative)(networks)
    except Exception as error:  # whatever a model's own code raises
        raise ValueError(
            "`model` or `loss` cannot be differentiated twice and batched by torch.func: "
            f"{_line(error)} Replace what that names by operations that can: "
            "Embedding and a mean for EmbeddingBag, a loop over Linear layers for LSTM and GRU, a "
            "plain weight for weight_norm."
        ) from error
    if not bool(torch.isfinite(moved).all()):
        raise ValueError("`loss` has a derivative that is not finite at the initial weights.")


def require_moving(
    model: nn.Module, weights: dict[str, Tensor], loss: str | ItemLoss, pair: Pair
) -> None:
    """Refuse parameters that no loss depends on, whatever the data.

    Raises
    ------
    ValueError
        Naming them.
    """
    leaves = {name: part.clone().requires_grad_() for name, part in weights.items()}
    with torch.enable_grad(), differentiable():
        total = item_loss_of(loss)(functional_call(model, leaves, (pair[0],)), pair[1]).sum()
        if not total.requires_grad:
            raise ValueError(
                "`loss` does not depend on any weight of the model: it is a constant, detached or "
                "computed outside of torch. Compute it from the outputs by torch's operations."
            )
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    still = [name for name, part in zip(leaves, found, strict=True) if part is None]
    if still:
        raise ValueError(
            f"`model` has parameters that no loss depends on, so that they never move: "
            f"{', '.join(still[:4])}. Use them, or freeze them with requires_grad_(False)."
        )


def require_functional(rule: Any, name: str, weights: dict[str, Tensor]) -> None:
    """Refuse an update rule that changes what it is given.

    Raises
    ------
    ValueError
        If it does.
    """
    given = [part.clone() for part in weights.values()]
    gradients, state = [torch.ones_like(part) for part in given], started(rule, given)
    kept = dict(state)
    before = [part.clone() for part in tensors_in((given, gradients, kept))]
    rule.update(given, gradients, state)
    after = tensors_in((given, gradients, kept))
    if state.keys() != kept.keys() or any(
        not torch.equal(a, b) for a, b in zip(after, before, strict=True)
    ):
        raise ValueError(
            f"`optimizer` {name} must be functional: update(weights, gradients, state) returns "
            "new weights and a new state, and this one changes what it is given. Write "
            "`w - rate * g` in place of `w -= rate * g`."
        )


class _Attention(TorchFunctionMode):
    """Notices whether fused attention is called."""

    seen = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        self.seen = self.seen or function is functional.scaled_dot_product_attention
        return function(*args, **(kwargs or {}))


def attends(model: nn.Module, weights: dict[str, Tensor], inputs: Tensor) -> bool:
    """Whether a model calls the attention that torch fuses."""
    with torch.no_grad(), _Attention() as mode:
        functional_call(model, weights, (inputs[:1],))
    return mode.seen


def separate(queries: Sequence[Any], items: Sequence[str]) -> tuple[Any, Any]:
    """Return (names, (x, y)) of queries.

    Raises
    ------
    ValueError
        If they are not three parts.
    """
    if not isinstance(queries, tuple | list) or len(queries) != 3:
        raise ValueError(
            "`queries` must be (names, x, y): names of losses that are not training items, their "
            "inputs and their targets."
        )
    names = queries[0]
    both = sorted(set(map(str, names or ())) & set(items))
    if both:
        raise ValueError(f"`queries` must have names of their own; {both[0]!r} is a training item.")
    return names, tuple(queries[1:])
