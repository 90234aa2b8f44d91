"""Is the sampler right? Every kernel on every known target, over step sizes.

Chains start in the exact law and run until they are in the kernel's own; the statistic of each
chain is averaged over its draws. Chains are independent, so the standard error is their spread.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dlnflow import checks
from dlnflow.sampling import kernels as registry
from dlnflow.sampling.known_targets import Target, targets

RELATIVE_STEPS = (0.03, 0.2, 0.8)
"""eps_hat times the largest curvature; 4 is the limit of stability."""
CHAINS = 4096
Z_LIMIT = 3.5
"""With 105 rows a correct sampler is called wrong in one self-test of twenty."""
SMALL_BIAS = 0.01
"""A predicted bias below this counts as none."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    f"{name}, {case}" if case else name: (name, dict(options))
    for name, kernel in registry.KERNELS.items()
    for case, options in kernel.traits.cases.items()
}
"""Row name -> kernel and options."""


class _Noise:
    """All chains from one generator: the batch is fixed here."""

    def __init__(self, shape: torch.Size, seed: int) -> None:
        self._generator, self._shape = torch.Generator().manual_seed(seed), shape
        self._buffer = torch.empty(shape)

    def normal(self) -> Tensor:
        return self._buffer.normal_(generator=self._generator)

    def uniform(self) -> Tensor:
        return torch.rand(self._shape[0], generator=self._generator)


class Measured(NamedTuple):
    """Mean statistic, its standard error, what was predicted (or NaN), acceptance (or NaN)."""

    ratio: float
    standard_error: float
    predicted: float
    acceptance: float
    n_diverged: int


def selftest(
    *, kernels: list[str] | None = None, chains: int = CHAINS, seed: int = 0
) -> pd.DataFrame:
    """Sample known targets with every kernel.

    Parameters
    ----------
    kernels : list of str, optional
        Rows of CASES; default all.
    chains : int
        Independent chains per Gaussian target; networks use an eighth.
    seed : int
        Seed of starts and noise.

    Returns
    -------
    pandas.DataFrame
        One row per kernel, target and relative step: `ratio` (measured / exact),
        `standard_error`, `predicted` (the kernel's own discretisation error; NaN where none is
        known), `z` of ratio against predicted (against 1 where none is known), `acceptance`,
        `verdict`: "exact" (as predicted, within 1 % of 1), "biased as predicted", "wrong" (not
        what was predicted); where nothing is predicted "no bias seen", "bias below 1 %" or
        "biased"; "diverged".

    Raises
    ------
    ValueError
        If a kernel is unknown or the seed out of range.
    """
    names = list(CASES) if kernels is None else list(kernels)
    for name in names:
        checks.one_of("kernels", name, list(CASES))
    seed = checks.whole_number("seed", seed)
    if seed >= 2**63:
        raise ValueError(f"`seed` must be below 2^63, got {seed}.")
    known = targets(checks.positive_integer("chains", chains), seed)
    rows = []
    for name in names:
        for target in known:
            for relative in RELATIVE_STEPS:
                found = measure(name, target, relative, seed)
                rows.append(_row(name, target.name, relative, found))
    return pd.DataFrame(rows)


def measure(name: str, target: Target, relative: float, seed: int) -> Measured:
    """Run one case.

    Parameters
    ----------
    name : str
        Name of a row of CASES.
    target : Target
        What to sample.
    relative : float
        eps_hat times the largest curvature.
    seed : int
        Seed of the noise.

    Returns
    -------
    Measured
        Statistic, error and prediction.
    """
    kernel_name, options = CASES[name]
    spec = registry.named(kernel_name)
    options = options | _step(spec, target, relative)
    kernel = spec(target.posterior, **options)
    noise = _Noise(target.start.shape, seed)
    state = kernel.init(target.start)
    burn_in, draws = 100 + int(6 / relative), 100 + int(3 / relative)
    adapts = options.get(spec.declared("adapts_until", "the burn-in it needs"))
    if adapts:  # the law of the adaptive phase must be forgotten first
        burn_in += adapts + int(50 / relative)
    total = torch.zeros(len(target.start), dtype=torch.float64)
    for step in range(burn_in + draws):
        state = kernel.step(state, noise)
        if step >= burn_in:
            total += target.statistic(state)
    values = (total / draws).numpy()
    kept = values[np.isfinite(values)]
    acceptance = float(state.acceptance.mean()) if hasattr(state, "acceptance") else np.nan
    error = kept.std(ddof=1) / np.sqrt(len(kept)) if len(kept) > 1 else np.nan
    mean = kept.mean() if len(kept) > 1 else np.nan
    predicted = _predicted(kernel, target, state)
    return Measured(float(mean), float(error), predicted, acceptance, len(values) - len(kept))


def _step(kernel: registry.KernelSpec, target: Target, relative: float) -> dict[str, Any]:
    """Return step_size (and what goes with it) so that the step times curvature is `relative`."""
    if kernel.has_fixed_step("the self-test"):
        return {"step_size": relative / float(np.linalg.eigvalsh(target.precision)[-1])}
    at = kernel.declared("at_relative_step", "the self-test")
    return at(relative, target.precision, target.gradient_scale)


def _predicted(kernel: registry.Kernel, target: Target, state: Any) -> float:
    """Return what the kernel should measure, NaN where no law is known."""
    law = registry.Law
    if kernel.law is law.EXACT or (kernel.law is law.EXACT_ON_GAUSSIANS and target.quadratic):
        return target.ideal
    if kernel.law is not law.DISCRETISED:
        return np.nan
    steps = torch.as_tensor(kernel.steps(state), dtype=torch.float64).numpy()
    size = target.start.shape[1]
    shape = (1, size) if steps.ndim == 0 else (len(steps), size)
    return float(target.discretised(np.broadcast_to(steps, shape)).mean())


def _row(name: str, target: str, relative: float, found: Measured) -> dict[str, Any]:
    """Return one line of the table."""
    expected = 1.0 if np.isnan(found.predicted) else found.predicted
    z = (found.ratio - expected) / found.standard_error
    return {
        "kernel": name,
        "target": target,
        "relative_step": relative,
        "ratio": found.ratio,
        "standard_error": found.standard_error,
        "predicted": found.predicted,
        "z": z,
        "acceptance": found.acceptance,
        "n_diverged": found.n_diverged,
        "verdict": _verdict(found, z),
    }


def _verdict(found: Measured, z: float) -> str:
    """Return the verdict of one row."""
    if found.n_diverged or not np.isfinite(z):
        return "diverged"
    if np.isnan(found.predicted):
        if abs(z) <= Z_LIMIT:
            return "no bias seen"
        return "bias below 1 %" if abs(found.ratio - 1) <= SMALL_BIAS else "biased"
    if abs(z) > Z_LIMIT:
        return "wrong"
    return "exact" if abs(found.predicted - 1) <= SMALL_BIAS else "biased as predicted"


def verdicts(table: pd.DataFrame) -> dict[str, str]:
    """Judge each kernel by all its rows.

    Parameters
    ----------
    table : pandas.DataFrame
        From `selftest`.

    Returns
    -------
    dict
        Kernel -> "correct", "biased" or "wrong".
    """
    answer = {}
    for name, rows in table.groupby("kernel", sort=False):
        found = set(rows["verdict"])
        bad = "wrong" if found & {"wrong", "diverged"} else "biased" if "biased" in found else ""
        answer[str(name)] = bad or "correct"
    return answer


def show(table: pd.DataFrame) -> None:
    """Print one table per kernel to the terminal, at most 80 columns wide.

    Parameters
    ----------
    table : pandas.DataFrame
        From `selftest`.
    """
    from rich.console import Console

    console, judged = Console(highlight=False), verdicts(table)
    console.print(
        "Sampler self-test: measured / exact. step: eps x largest curvature (unstable at 4); "
        "theory: what this kernel should measure at this step; z: deviation from theory, or "
        "from 1, in standard errors; kept: accepted proposals. Networks are named "
        "inputs-hidden-outputs and measure the learning coefficient."
    )
    for name, rows in table.groupby("kernel", sort=False):
        console.print(f"\n[bold]{name}: {judged[str(name)]}[/bold]")
        console.print(_view(rows))


def _view(rows: pd.DataFrame) -> Any:
    """Return the rich table of one kernel; columns that say nothing are left out."""
    from rich import box
    from rich.table import Table

    view = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    texts = {
        "target": rows["target"].str.removeprefix("network "),
        "step": rows["relative_step"].map("{:g}".format),
        "measured": [
            f"{ratio:.3f} ± {error:.3f}"
            for ratio, error in zip(rows["ratio"], rows["standard_error"], strict=True)
        ],
        "theory": rows["predicted"].map("{:.3f}".format),
        "z": rows["z"].map("{:+.1f}".format),
        "kept": rows["acceptance"].map("{:.2f}".format),
        "verdict": rows["verdict"],
    }
    columns = [name for name, text in texts.items() if not all(cell == "nan" for cell in text)]
    for name in columns:
        left = name in ("target", "verdict")
        view.add_column(name, justify="left" if left else "right", no_wrap=True)
    for cells in zip(*(texts[name] for name in columns), strict=True):
        view.add_row(*("-" if cell == "nan" else cell for cell in cells))
    return view
