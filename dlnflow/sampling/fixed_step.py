"""A kernel's step on tensors that stay where they are, which a CUDA graph can take again.

A graph repeats the launches of one call: the same operations on the same addresses, with whatever
Python decided during that call. So the state of a chain is kept in place, what differs from step
to step (random numbers, minibatch) is written into buffers before, and a graph serves one form of
the step. The same function is called where nothing is captured.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dlnflow.sampling.kernels.spec import Kernel, Noise

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a function without running it for good, and returns what repeats it."""
CALLS = 3
"""Calls before a function is captured: libraries set themselves up during the first ones."""


class Repeated:
    """Functions without arguments or results, called a few times, then captured and repeated.

    Parameters
    ----------
    capture : callable, optional
        `captured` on a GPU; None: every call is a call.
    """

    def __init__(self, capture: Capture | None = None) -> None:
        self._capture = capture
        self._known: dict[Hashable, Callable[[], None]] = {}
        self._calls: dict[Hashable, int] = {}

    def __call__(self, key: Hashable, function: Callable[[], None]) -> bool:
        """Have the effect of a function; what cannot be captured is called, with a warning.

        Returns
        -------
        bool
            False if no Python code was run for it.
        """
        if self._capture is None:
            function()
            return True
        if key in self._known:
            self._known[key]()
            return False
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] <= CALLS:
            function()
            return True
        try:
            self._known[key] = self._capture(function)
        except RuntimeError as error:
            self._capture = None
            warnings.warn(
                f"a step could not be captured as a CUDA graph ({str(error).splitlines()[0]}), so "
                "that every operation is launched by itself: results are the same, and slower.",
                RuntimeWarning,
                stacklevel=2,
            )
            function()
        else:
            self._known[key]()
        return True


class FixedStep:
    """The chains of one kernel, moved in place.

    Parameters
    ----------
    kernel : Kernel
        Its `form` tells apart the forms of a step; a kernel that declares none is never captured.
    state
        What `kernel.init` returns; its tensors are those that are moved.
    noise : Noise
        Random numbers, in tensors that stay where they are.
    repeated : Repeated
        How steps are taken.
    """

    def __init__(self, kernel: Kernel, state: Any, noise: Noise, repeated: Repeated) -> None:
        self._kernel, self._noise, self.state = kernel, noise, state
        self._repeated = repeated if kernel.form is not None else Repeated()
        self._changes: dict[Hashable, list[float]] = {}

    def take(self) -> None:
        """Take one step."""
        form = None if self._kernel.form is None else self._kernel.form(self.state)
        before = self.state

        def step() -> None:
            self.state = moved(before, self._kernel.step(before, self._noise))

        if self._repeated(("step", form), step):
            # numbers of a state that Python counts, e.g. steps
            pairs = zip(_numbers(self.state), _numbers(before), strict=False)
            self._changes[form] = [new - old for new, old in pairs]
        else:
            self.state = _counted(before, iter(self._changes[form]))


def moved(old: Any, new: Any) -> Any:
    """Copy the tensors of a state into those of the state before, which stay.

    Parameters
    ----------
    old, new : nested named tuples
        Two states; what was no tensor of the same kind before is taken from `new` as it is.

    Returns
    -------
    nested named tuples
        The values of `new` in the tensors of `old`.
    """
    places = {x.data_ptr() for x in _tensors(old)}
    kept = dict(_kept(old, new))
    # what lies where another tensor will be written is set aside first
    aside = {
        id(value): value.clone()
        for target, value in kept.values()
        if value.data_ptr() != target.data_ptr() and value.data_ptr() in places
    }
    for target, value in kept.values():
        if value.data_ptr() != target.data_ptr():
            target.copy_(aside.get(id(value), value))
    return _merged(old, new)


def _kept(old: Any, new: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Yield path -> (tensor that stays, its new value)."""
    if _same_kind(old, new):
        yield path, (old, new)
    elif isinstance(new, tuple) and isinstance(old, tuple):
        for k, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _kept(a, b, (*path, k))


def _merged(old: Any, new: Any) -> Any:
    if _same_kind(old, new):
        return old
    if isinstance(new, tuple) and isinstance(old, tuple):
        return type(new)(*map(_merged, old, new))
    return new


def _same_kind(old: Any, new: Any) -> bool:
    if not (isinstance(old, Tensor) and isinstance(new, Tensor)):
        return False
    return (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device)


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, tuple):
        for part in state:
            yield from _tensors(part)


def _numbers(state: Any) -> Iterator[float]:
    if isinstance(state, tuple):
        for part in state:
            yield from _numbers(part)
    elif isinstance(state, int | float):
        yield state


def _counted(state: Any, changes: Iterator[float]) -> Any:
    """Add to every number of a state what a step adds."""
    if isinstance(state, tuple):
        return type(state)(*(_counted(part, changes) for part in state))
    return state + next(changes) if isinstance(state, int | float) else state


def captured(function: Callable[[], None]) -> Callable[[], None]:
    """Capture a function as a CUDA graph on the current stream.

    Parameters
    ----------
    function : callable
        Launches the same operations on the same tensors at every call, and waits for none.

    Returns
    -------
    callable
        Launches them all at once.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        function()
    return graph.replay


@contextmanager
def same_bits(device: torch.device) -> Iterator[None]:
    """Prefer operations of a GPU whose results do not depend on the order of threads.

    The choice belongs to the process; within the block others of its threads have it, too.
    """
    if device.type != "cuda":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]
