"""Dot products of single gradients, without the gradients where a layer allows it.

A linear layer with inputs a and gradients d of a loss in its outputs has the weight gradient d a^T,
so that the product of two losses is (d_q . d_i) (a_q . a_i): o + i numbers per item instead of o i.
Layers that see several positions per item, weights that are used twice and other parameters take
part with their gradients.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from dlnflow.dynamics.torch_steps import Pair, Tensors, TorchProblem

SAME = 1e-4
"""Relative difference, of a product from that of the gradients, that rounding explains."""


class LayerPass(NamedTuple):
    """One layer for a batch of items: inputs (n, i) and gradients in the outputs (n, o)."""

    inputs: Tensor
    gradients: Tensor


class Products:
    """Products of gradients for one problem; which layers allow the short way is found out once."""

    def __init__(self, problem: TorchProblem) -> None:
        self._problem = problem
        self._names = list(problem.weights)
        self._layers = _linear_layers(problem)
        if self._layers and not self._agrees():
            self._layers = {}  # a weight is used beside its layer, say by a penalty

    def __call__(self, weights: Tensors, query: Pair, train: Pair) -> Tensor:
        """Return grad l_q . grad l_i at the weights, shape (n_query, n_train)."""
        ours, theirs = self._passes(weights, query), self._passes(weights, train)
        total = query[0].new_zeros(len(query[0]), len(train[0]), dtype=weights[0].dtype)
        covered = set()
        for layer in ours.keys() & theirs.keys():
            q, i = ours[layer], theirs[layer]
            product = q.gradients @ i.gradients.T
            inputs = q.inputs @ i.inputs.T
            names = self._layers[layer]
            total += product * (inputs * ("weight" in names) + ("bias" in names))
            covered.update(names.values())
        rest = [k for k, name in enumerate(self._names) if name not in covered]
        if rest:
            parts = (self._gradients(weights, pair, rest) for pair in (query, train))
            total += sum(a.flatten(1) @ b.flatten(1).T for a, b in zip(*parts, strict=True))
        return total

    def _passes(self, weights: Tensors, pair: Pair) -> dict[nn.Module, LayerPass]:
        """Layers that saw every item once, and what they saw."""
        seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

        def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen.setdefault(module, []).append((inputs[0], output))

        handles = [layer.register_forward_hook(note) for layer in self._layers]
        try:
            leaves = [w.detach().requires_grad_() for w in weights]
            with torch.enable_grad():
                losses = self._problem.losses(leaves, pair)
        finally:
            for handle in handles:
                handle.remove()
        once = {m: calls[0] for m, calls in seen.items() if len(calls) == 1}
        once = {
            m: (a, out) for m, (a, out) in once.items() if a.ndim == 2 and len(a) == len(losses)
        }
        if not once:
            return {}
        found = torch.autograd.grad(
            losses.sum(), [out for _, out in once.values()], materialize_grads=True
        )
        return {
            module: LayerPass(a.detach(), g)
            for (module, (a, _)), g in zip(once.items(), found, strict=True)
        }

    def _gradients(self, weights: Tensors, pair: Pair, chosen: list[int]) -> Tensors:
        """Gradients of single losses in some of the parameters, with a leading axis over items."""

        def single(parts: Tensors, x: Tensor, y: Tensor) -> Tensor:
            whole = list(weights)
            for k, part in zip(chosen, parts, strict=True):
                whole[k] = part
            return self._problem.losses(whole, (x[None], y[None]))[0]

        parts = [weights[k] for k in chosen]
        return vmap(grad(single), in_dims=(None, 0, 0))(parts, *pair)

    def _agrees(self) -> bool:
        """Whether a few products at the start are those of the gradients themselves."""
        pair = tuple(part[:3] for part in self._problem.data)
        start = self._problem.initial
        every = self._gradients(start, pair, list(range(len(start))))
        expected = sum(g.flatten(1) @ g.flatten(1).T for g in every)
        difference = (self(start, pair, pair) - expected).abs().max()
        return bool(difference <= SAME * expected.abs().max())


def products(problem: TorchProblem, weights: Tensors, query: Pair, train: Pair) -> Tensor:
    """Return grad l_q . grad l_i at the weights, shape (n_query, n_train)."""
    kept = vars(problem)  # as a cached property keeps what it found
    if "products" not in kept:
        kept["products"] = Products(problem)
    return kept["products"](weights, query, train)


def _linear_layers(problem: TorchProblem) -> dict[nn.Module, dict[str, str]]:
    """Linear layers whose trained parameters are theirs alone: part of the layer -> its name."""
    owners: dict[int, int] = {}
    for _, parameter in problem.model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    layers = {}
    for path, module in problem.model.named_modules():
        if type(module) is not nn.Linear:
            continue
        prefix = f"{path}." if path else ""
        own = dict(module.named_parameters(recurse=False))
        names = {part: prefix + part for part in own if prefix + part in problem.weights}
        if names and all(owners[id(own[part])] == 1 for part in names):
            layers[module] = names
    return layers
