"""What was sampled and for how long: one frozen record, checked once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from dlnflow import checks

REVISION = 4
"""Of the arithmetic of chains: kernels, random numbers, minibatches and evaluators. Part of every
key, to be raised when the same settings give other draws."""


@dataclass(frozen=True)
class Settings:
    """Settings shared by all kernels.

    Parameters
    ----------
    n_beta : float
        Inverse temperature of the mean loss.
    localization : float
        Precision of the Gaussian prior around the checkpoint.
    step_size : float
        eps of the kernel.
    chains, draws, burn_in, thin : int
        Chains per checkpoint; recorded draws; steps thrown away before; steps between draws.
    seed : int
        With the checkpoint's step and the chain's number it fixes all random numbers.
    dtype : {"float32", "float64"}
        Precision of weights and noise, by its name in torch.
    kernel_options : mapping
        Further options of the kernel, e.g. {"freeze_after": 500}.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    n_beta: float
    localization: float
    step_size: float
    chains: int = 4
    draws: int = 1000
    burn_in: int = 0
    thin: int = 1
    seed: int = 0
    dtype: str = "float32"
    kernel_options: Mapping[str, Any] = field(default_factory=dict)

    NOT_IN_KEY: ClassVar[Mapping[str, str]] = {
        "chains": "a chain has its own random numbers, whatever the number of others",
        "draws": "a longer chain begins with the draws of a shorter one",
    }
    """Fields that do not change what a chain draws, and why. All others identify it."""

    def __post_init__(self) -> None:
        for name in ("n_beta", "localization", "step_size"):
            object.__setattr__(self, name, checks.positive(name, getattr(self, name)))
        check_lengths(self.chains, self.draws, self.burn_in, self.thin)
        for name in ("chains", "draws", "burn_in", "thin"):
            object.__setattr__(self, name, int(getattr(self, name)))  # 100.0 counts as 100
        object.__setattr__(self, "seed", checks.whole_number("seed", self.seed))
        object.__setattr__(self, "kernel_options", self._checked_options())
        checks.one_of("dtype", self.dtype, ["float32", "float64"])

    def _checked_options(self) -> dict[str, Any]:
        """Return the options of the kernel as a dict, each in the range that kernels declare."""
        options = self.kernel_options
        if not isinstance(options, Mapping):
            raise ValueError(
                f"`kernel_options` must be a mapping of option to value, got {options!r}."
            )
        if "step_size" in options:
            raise ValueError(
                "`step_size` is a setting of its own; take it out of `kernel_options`."
            )
        if options:
            from dlnflow.sampling import kernels  # torch is not needed to read a record's fields

            kernels.check_values(options, self.burn_in)
        return dict(options)

    def for_kernel(self) -> dict[str, Any]:
        """Return what the kernel takes besides the posterior."""
        return {"step_size": self.step_size, **self.kernel_options}

    def lengths(self) -> dict[str, int]:
        """Return what the driver takes."""
        return {"draws": self.draws, "burn_in": self.burn_in, "thin": self.thin}

    def attrs(self, kernel: str, n_train: int, n_parameters: int) -> dict[str, Any]:
        """Return the attributes of the traces; all numbers and text."""
        from dlnflow.sampling import kernels

        record = asdict(self)
        options = record.pop("kernel_options")
        listed = ", ".join(f"{k}={v}" for k, v in options.items())
        if changed := kernels.named(kernel).changes(options):
            record["target_changed"] = "; ".join(changed)
        return record | {
            "kernel": kernel,
            "kernel_options": listed,
            "n_train": n_train,
            "n_parameters": n_parameters,
        }


def check_lengths(chains: int, draws: int, burn_in: int, thin: int) -> None:
    """Refuse numbers of chains, draws and steps that give no estimate.

    Raises
    ------
    ValueError
        If one is out of range.
    """
    checks.positive_integer("chains", chains)
    checks.positive_integer("thin", thin)
    if checks.positive_integer("draws", draws) < 4:
        raise ValueError(f"`draws` must be at least 4 to estimate a covariance, got {draws}.")
    checks.whole_number("burn_in", burn_in)
