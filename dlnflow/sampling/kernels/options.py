"""Options of the kernels, checked before anything is sampled, and what they do to the target."""

import warnings
from collections.abc import Mapping
from typing import Any

from dlnflow import checks


def checked(options: Mapping[str, Any], burn_in: int) -> dict[str, Any]:
    """Return the options as a dict.

    Parameters
    ----------
    options : mapping
        Option of a kernel -> value.
    burn_in : int
        Steps that are thrown away.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If it is no mapping, holds the step size or what is no number, changes the target to one
        without volume, or freezes the preconditioner only after the burn-in.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"`kernel_options` must be a mapping of option to value, got {options!r}.")
    if "step_size" in options:
        raise ValueError("`step_size` is a setting of its own; take it out of `kernel_options`.")
    for name in ("decay", "stability", "persistence"):
        if options.get(name) is not None:
            checks.real_number(name, options[name])
    if "noise_scale" in options:
        checks.positive("noise_scale", options["noise_scale"])
    if options.get("box") is not None:
        checks.positive("box", options["box"])
    freeze_after = options.get("freeze_after")
    if freeze_after is not None:
        checks.positive_integer("freeze_after", freeze_after)
        if freeze_after > burn_in:
            raise ValueError(
                f"`freeze_after` = {freeze_after} must not exceed `burn_in` = {burn_in}: draws "
                "taken while the preconditioner still changes are not from the posterior."
            )
    return dict(options)


def changes(noise_scale: float = 1.0, box: float | None = None) -> tuple[str, ...]:
    """Say how the options change the target."""
    said = ()
    if noise_scale != 1.0:
        said += (f"noise_scale={noise_scale:g}: the target is exp(-U / {noise_scale**2:g})",)
    if box is not None:
        said += (f"box={box:g}: coordinates are clamped to the checkpoint +- {box:g}",)
    return said


def target_changed(options: Mapping[str, Any]) -> str:
    """Return in words how the options change the target; empty if they do not."""
    return "; ".join(changes(options.get("noise_scale", 1.0), options.get("box")))


def warn_if_target_changed(options: Mapping[str, Any]) -> None:
    """Warn that the draws are not from the localised posterior."""
    told = target_changed(options)
    if told:
        warnings.warn(
            f"these draws are not from the localised posterior ({told}); covariances and learning "
            "coefficients change with the target. The result says so in `target_changed`.",
            stacklevel=4,
        )
