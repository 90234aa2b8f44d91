"""Functions of tensors as lists of plain operations, worked out once.

Derivatives and batching by `torch.func` cost more time than the operations themselves where a
network is small. A function that is called again and again with the same shapes is therefore
followed once, and what it does to tensors is then done without asking it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

CALLS = 30
"""Calls with the same shapes before a function is followed, which takes as long as about 50."""
SAME = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Relative difference of results that another order of operations explains."""


class Graph:
    """A function that returns what `function` does, and learns its operations as it is called.

    Arguments and results are tensors, or tuples, lists and dicts of them. A function whose
    operations depend on numbers in its arguments, or on anything else that cannot be followed,
    is called itself every time.

    Parameters
    ----------
    function : callable
        Deterministic, without effects of its own, not differentiated by the caller.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._known: dict[Any, Callable[..., Any] | int] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Return function(*arguments)."""
        key = tuple((a.shape, a.stride(), a.dtype, a.device) for a in tensors_in(arguments))
        known = self._known.get(key, 0)
        if not isinstance(known, int):
            return known(*arguments)
        self._known[key] = known + 1
        result = self._function(*arguments)
        if known + 1 == CALLS:
            self._known[key] = self._followed(arguments, result)
        return result

    @property
    def followed(self) -> int:
        """How many kinds of arguments the operations are known for."""
        plain = (one is self._function or isinstance(one, int) for one in self._known.values())
        return sum(not one for one in plain)

    def _followed(self, arguments: tuple[Any, ...], expected: Any) -> Callable[..., Any]:
        """Return the operations, or the function where they are not known."""
        from torch.fx.experimental.proxy_tensor import make_fx

        def flat(*arguments: Any) -> Any:  # without the signature of the function
            return self._function(*arguments)

        try:
            # tensors without numbers, so that nothing can depend on them unnoticed
            graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*arguments)
            graph.graph.eliminate_dead_code()
            graph.recompile()
            found = graph(*arguments)
        except Exception:  # of whatever kind: an error of the function itself was raised before
            return self._function
        pairs = zip(tensors_in(found), tensors_in(expected), strict=True)
        return graph if all(_close(*pair) for pair in pairs) else self._function


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        yield value
        return
    for part in value.values() if isinstance(value, dict) else value:
        yield from tensors_in(part)


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    limit = SAME.get(expected.dtype, 0.0) * float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0, atol=limit, equal_nan=True)
