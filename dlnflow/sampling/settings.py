"""What was sampled and for how long: one frozen record, checked once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dlnflow import checks
from dlnflow.sampling.kernels.options import checked, target_changed, warn_if_target_changed
from dlnflow.traces.format import check_lengths


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

    def __post_init__(self) -> None:
        for name in ("n_beta", "localization", "step_size"):
            object.__setattr__(self, name, checks.positive(name, getattr(self, name)))
        check_lengths(self.chains, self.draws, self.burn_in, self.thin)
        for name in ("chains", "draws", "burn_in", "thin"):
            object.__setattr__(self, name, int(getattr(self, name)))  # 100.0 counts as 100
        object.__setattr__(self, "seed", checks.whole_number("seed", self.seed))
        options = checked(self.kernel_options, self.burn_in)
        object.__setattr__(self, "kernel_options", options)
        checks.one_of("dtype", self.dtype, ["float32", "float64"])

    def for_kernel(self) -> dict[str, Any]:
        """Return what the kernel builder takes besides the posterior."""
        return {"step_size": self.step_size, **self.kernel_options}

    def warn_if_target_changed(self) -> None:
        """Warn that an option changes what is sampled, if one does."""
        warn_if_target_changed(self.kernel_options)

    def lengths(self) -> dict[str, int]:
        """Return what the driver takes."""
        return {"draws": self.draws, "burn_in": self.burn_in, "thin": self.thin}

    def attrs(self, kernel: str, n_train: int, n_parameters: int) -> dict[str, Any]:
        """Return the attributes of the traces; all numbers and text."""
        record = asdict(self)
        options = record.pop("kernel_options")
        told = ", ".join(f"{k}={v}" for k, v in options.items())
        if changed := target_changed(options):
            record["target_changed"] = changed
        return record | {
            "kernel": kernel, "kernel_options": told,
            "n_train": n_train, "n_parameters": n_parameters,
        }  # fmt: skip
