"""What a kernel is: how its chains move, how it is built, and what it declares about itself.

A kernel is one file in this folder that defines ``KERNEL = KernelSpec(name, build, traits)``.
`build(posterior, step_size=..., ...)` returns a `Kernel` with `init(theta) -> state` and
`step(state, noise) -> state`. A state carries `theta` (C, P), with one row per chain, and `value`,
the losses and the gradient *at that theta*. Losses at a draw therefore cost nothing beyond the
gradient that the next step needs anyway. `init` copies theta; `step` may overwrite the state it is
given (memory traffic is what a step costs), so keep only the new one.

Whatever depends on a property of a kernel reads it here, never from its name. What a kernel does
not declare is None, and whatever needs it refuses the kernel.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.sampling.posterior import Posterior, Scale

STEP_SIZE = "step_size"
"""`effective_step` of kernels whose drift is multiplied by `step_size` itself."""


class Noise(Protocol):
    """Standard Gaussian (C, P) and uniform (C,) numbers, one stream per chain."""

    def normal(self) -> Tensor:
        """Return the next (C, P) Gaussian numbers."""

    def uniform(self) -> Tensor:
        """Return the next (C,) uniform numbers in [0, 1)."""


class Law(Enum):
    """The stationary law of a kernel at a finite step."""

    EXACT = "exp(-U) for every step"
    EXACT_ON_GAUSSIANS = "exp(-U) where U is quadratic"
    DISCRETISED = "where U is quadratic, that of SGLD with `steps`: precision A (I - A G / 4)"
    UNKNOWN = "not known"


class Kernel(NamedTuple):
    """A Markov kernel for all chains at once, on one posterior with some options.

    `changes` says in words how an option altered the target; empty when the target is U itself.
    `law` is what the chains have in the long run; `steps` returns, at a state, what multiplies the
    drift, and is needed where the law depends on it.

    `form` tells apart the forms that a step has because Python decides, e.g. whether it still
    adapts. Steps of one form launch the same operations, and none decides by values of tensors.
    """

    name: str
    init: Callable[[Tensor], Any]
    step: Callable[[Any, Noise], Any]
    changes: tuple[str, ...] = ()
    law: Law | None = None
    steps: Callable[[Any], Scale] | None = None
    form: Callable[[Any], Hashable] | None = None


@dataclass(frozen=True)
class Option:
    """An option of a kernel: how its values are checked, and whether they change the target.

    Attributes
    ----------
    name : str
        Keyword of `build`.
    check : callable
        (name, value); raises ValueError.
    optional : bool
        Whether None is a value.
    changes : callable, optional
        value -> how it changes the target, in words; empty where it does not.
    """

    name: str
    check: Callable[[str, Any], Any]
    optional: bool = False
    changes: Callable[[Any], str] | None = None


NOISE_SCALE = Option(
    "noise_scale",
    checks.positive,
    changes=lambda s: "" if s == 1.0 else f"noise_scale={s:g}: the target is exp(-U / {s**2:g})",
)
BOX = Option(
    "box",
    checks.positive,
    optional=True,
    changes=lambda b: (
        "" if b is None else f"box={b:g}: coordinates are clamped to the checkpoint +- {b:g}"
    ),
)


def unpreconditioned(mean_square: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Return 1 for every coordinate."""
    return mean_square.new_ones(mean_square.shape)


@dataclass(frozen=True)
class KernelTraits:
    """What a kernel declares about itself; None is not declared.

    Attributes
    ----------
    full_batch_only : bool
        Whether its law is lost where gradients come from minibatches.
    compares_losses : bool
        Whether it decides by differences of U, which float32 may not resolve.
    effective_step : str
        What multiplies the drift: `STEP_SIZE`, or a formula that no curvature fixes beforehand.
    stable_below : float
        Effective step times the largest curvature of U at which the linearised chain starts to
        grow; infinite if it never does.
    relative_step : float
        Default of step_size times the largest curvature; without one the user gives `step_size`.
    adapts_until : str
        Option that says after how many steps it stops to adapt to the target, which must happen
        within the burn-in; empty for kernels that never adapt.
    options : tuple of Option
        Keywords of `build` besides the posterior and `step_size`.
    at_relative_step : callable
        (relative step, precision (P, P), gradient scale (P,)) -> options at which the effective
        step times the largest curvature of a Gaussian target is the relative step; needed where
        the effective step is not `step_size`.
    preconditioner : callable
        (mean square of the minibatch gradients (P,), options) -> what multiplies `step_size` in
        every coordinate (P,), `unpreconditioned` where that is 1.
    cases : mapping of str to mapping
        Rows of the self-test: what is added to the kernel's name -> options.
    """

    full_batch_only: bool | None = None
    compares_losses: bool | None = None
    effective_step: str | None = None
    stable_below: float | None = None
    relative_step: float | None = None
    adapts_until: str | None = None
    options: tuple[Option, ...] = ()
    at_relative_step: Callable[[float, FloatArray, FloatArray], dict[str, Any]] | None = None
    preconditioner: Callable[[Tensor, Mapping[str, Any]], Tensor] | None = None
    cases: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})


@dataclass(frozen=True)
class KernelSpec:
    """A named way to build a kernel, with what it declares.

    Parameters
    ----------
    name : str
        As given to `dlnflow.sampling.sample`.
    build : callable
        (posterior, step_size=..., **options) -> Kernel.
    traits : KernelTraits
        What others may rely on.
    """

    name: str
    build: Callable[..., Kernel]
    traits: KernelTraits = field(default_factory=KernelTraits)

    def __call__(self, posterior: Posterior, *, step_size: Scale, **options: Any) -> Kernel:
        """Return the kernel on a posterior.

        Returns
        -------
        Kernel

        Raises
        ------
        ValueError
            If it does not take an option or the posterior, or does not declare its law.
        """
        self.check_names(options)
        if not posterior.exact:
            self.check_minibatches()
        built = self.build(posterior, step_size=step_size, **options)
        biased = built.law in (Law.DISCRETISED, Law.UNKNOWN)
        if built.law is None or (biased and built.steps is None):
            raise ValueError(
                f"`kernel` {self.name!r} does not declare its `{'steps' if biased else 'law'}`, "
                "without which nobody knows whether its variances are right; give it in `Kernel`."
            )
        return built

    def declared(self, trait: str, purpose: str) -> Any:
        """Return a trait.

        Returns
        -------
        object
            Its value.

        Raises
        ------
        ValueError
            If the kernel does not declare it.
        """
        value = getattr(self.traits, trait)
        if value is None:
            raise ValueError(
                f"`kernel` {self.name!r} does not declare `{trait}`, on which {purpose} depends. "
                "Declare it in the traits of the kernel, or take another kernel."
            )
        return value

    def has_fixed_step(self, purpose: str) -> bool:
        """Whether `step_size` itself multiplies the drift; refused where that is not declared."""
        return self.declared("effective_step", purpose) == STEP_SIZE

    def check_names(self, options: Mapping[str, Any]) -> None:
        """Refuse options that the kernel does not take.

        Raises
        ------
        ValueError
            Naming the first.
        """
        known = [option.name for option in self.traits.options]
        unknown = [str(name) for name in options if name not in known]
        if unknown:
            raise ValueError(
                f"kernel {self.name!r} does not take the option {unknown[0]!r}; its options: "
                f"{', '.join(known) or 'none'}." + checks.did_you_mean(unknown[0], known)
            )

    def check_minibatches(self) -> None:
        """Refuse noisy gradients where the kernel needs exact ones.

        Raises
        ------
        ValueError
            If it does, or does not declare whether it does.
        """
        if self.declared("full_batch_only", "sampling with minibatches"):
            raise ValueError(
                f"`kernel` {self.name!r} needs the loss of the full batch; leave `batch_size` out "
                "(a language model has none to leave out), or choose a kernel that takes "
                "minibatches, e.g. 'sgld'."
            )

    def check_values(self, options: Mapping[str, Any], burn_in: int) -> None:
        """Refuse values of its options that are out of range; others are left to `check_names`.

        Raises
        ------
        ValueError
            Naming the option; also if the kernel still adapts after the burn-in.
        """
        for option in self.traits.options:
            value = options.get(option.name)
            if option.name in options and not (value is None and option.optional):
                option.check(option.name, value)
        name = self.traits.adapts_until
        if name and options.get(name) is not None and options[name] > burn_in:
            raise ValueError(
                f"`{name}` = {options[name]} must not exceed `burn_in` = {burn_in}: draws taken "
                "while the kernel still adapts are not from the posterior."
            )

    def changes(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Say how options change the target, one text for each that does."""
        return changes(self.traits.options, options)


def changes(known: tuple[Option, ...], options: Mapping[str, Any]) -> tuple[str, ...]:
    """Say how options change the target, one text for each that does."""
    said = (o.changes(options[o.name]) for o in known if o.changes and o.name in options)
    return tuple(text for text in said if text)
