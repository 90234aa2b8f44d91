"""The driver of all kernels and evaluators: check, burn in, thin, record losses, judge."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from dlnflow._support import FloatArray, IntArray
from dlnflow.sampling import kernels, step_checks
from dlnflow.sampling.noise import Streams
from dlnflow.sampling.posterior import Evaluator, Posterior, Restricted
from dlnflow.sampling.settings import Settings
from dlnflow.traces.format import check_start, labelled


def check(kernel: str, settings: Settings, *, exact: bool) -> None:
    """Refuse, before any work, settings that a kernel does not take, and warn of another target.

    Parameters
    ----------
    kernel : str
        Name in `KERNELS`.
    settings : Settings
        With the options of the kernel.
    exact : bool
        False if gradients will come from minibatches.

    Raises
    ------
    ValueError
        If the kernel or an option is unknown, it does not take minibatches, or it does not declare
        whether it adapts.
    """
    spec = kernels.named(kernel)
    spec.check_names(settings.kernel_options)
    spec.declared("adapts_until", "the burn-in it needs")
    if not exact:
        spec.check_minibatches()
    if changed := spec.changes(settings.kernel_options):
        warnings.warn(
            f"these draws are not from the localised posterior ({'; '.join(changed)}); covariances "
            "and learning coefficients change with the target. The result says so in "
            "`target_changed`.",
            stacklevel=4,
        )


def check_checkpoints(
    kernel: str, settings: Settings, theta: Tensor, start: FloatArray, time: IntArray
) -> None:
    """Refuse checkpoints that have no posterior, or one that float32 does not resolve.

    Parameters
    ----------
    kernel, settings : str, Settings
        As in `check`.
    theta : Tensor, shape (T, P)
        The checkpoints.
    start : array, shape (T, K)
        Observed losses there.
    time : array of int, shape (T,)
        Their steps.

    Raises
    ------
    ValueError
        If a loss is not finite, or the precision is too coarse for the kernel.
    """
    check_start(start, time)
    largest = float(start.mean(1).max())
    step_checks.check_precision(kernel, settings, theta, largest)


def around(
    evaluator: Evaluator,
    center: Tensor,
    kernel: str,
    settings: Settings,
    entries: Tensor | None = None,
) -> tuple[kernels.Kernel, Posterior]:
    """Return the posterior localised at some centers, and a kernel on it.

    Parameters
    ----------
    evaluator : Evaluator
        The model and its data.
    center : Tensor, shape (C, P)
        Where the chains start and the localisation pulls to.
    kernel, settings : str, Settings
        As in `check`.
    entries : Tensor of int, shape (S,), optional
        Entries of theta that move, increasing; default all. The others stay at the center.

    Returns
    -------
    kernel : Kernel
        `init` and `step`.
    posterior : Posterior
        Its target; `center` has the entries that move, `evaluate` takes them.
    """
    if entries is not None:
        evaluator = Restricted(evaluator, center, entries)
        center = evaluator.take(center).contiguous()
    posterior = Posterior(evaluator, center, settings.n_beta, settings.localization)
    return kernels.named(kernel)(posterior, **settings.for_kernel()), posterior


def run(
    kernel: kernels.Kernel,
    evaluator: Evaluator,
    state: Any,
    noise: kernels.Noise,
    *,
    lengths: dict[str, int],
    done: int = 0,
    begin: Callable[[int], None] | None = None,
) -> tuple[Tensor, Any]:
    """Advance all chains and record the losses of the observed items.

    Parameters
    ----------
    kernel : Kernel
        What moves the chains.
    evaluator : Evaluator
        What is observed, where it does not come with the gradient.
    state
        What `kernel.init` returns, or the last of a run that is to be continued.
    noise : Noise
        Random numbers of the chains.
    lengths : dict
        `draws`: how many draws the chain has in the end; `burn_in`: steps before; `thin`: steps
        between.
    done : int
        Draws that a chain that is continued has already.
    begin : callable, optional
        Called with the number of every step before it is taken, where minibatches and random
        numbers are named by it.

    Returns
    -------
    losses : Tensor, shape (C, draws - done, K)
        Non-finite where a chain diverged; nothing is hidden.
    state
        The last state.
    """
    recorded = []
    for step, observed in schedule(lengths, done):
        if begin is not None:
            begin(step)
        state = kernel.step(state, noise)
        if observed:
            items = state.value.items
            recorded.append(evaluator.observe(state.theta) if items is None else items)
    return torch.stack(recorded, dim=1), state


def schedule(lengths: Mapping[str, int], done: int = 0) -> Iterator[tuple[int, bool]]:
    """Yield the steps of a chain, and whether each is followed by a draw.

    Parameters
    ----------
    lengths, done : mapping, int
        As in `run`.

    Yields
    ------
    (int, bool)
        From the first step that is not behind the draws that the chain has.
    """
    draws, burn_in, thin = (lengths[name] for name in ("draws", "burn_in", "thin"))
    for step in range(burn_in + done * thin if done else 0, burn_in + draws * thin):
        yield step, step >= burn_in and (step + 1 - burn_in) % thin == 0


class Report(NamedTuple):
    """What the last state says of its chains, each (C,): `acceptance` of MALA, `relative_step`."""

    acceptance: Tensor | None
    relative_step: Tensor | None


def sample(
    evaluator: Evaluator,
    center: Tensor,
    kernel: str,
    settings: Settings,
    keys: Sequence[tuple[int, int, int]],
    entries: Tensor | None = None,
) -> tuple[Tensor, Report]:
    """Run chains from their centers to the end.

    Parameters
    ----------
    evaluator, center, kernel, settings, entries
        As in `around`.
    keys : sequence of (seed, checkpoint, chain)
        Names of the random streams, one per chain.

    Returns
    -------
    losses : Tensor, shape (C, draws, K)
        Losses of the observed items.
    report : Report
        What the last state says.
    """
    built, posterior = around(evaluator, center, kernel, settings, entries)
    evaluator, center = posterior.evaluate, posterior.center
    noise = Streams(keys, center.shape[1], center.dtype)
    losses, state = run(built, evaluator, built.init(center), noise, lengths=settings.lengths())
    rates = getattr(state, "acceptance", None)
    return losses, Report(rates, step_checks.relative_step(built, posterior, state))


def traces_of(
    losses: FloatArray, reports: Sequence[Report], *, time: ArrayLike, **labels: Any
) -> xr.DataArray:
    """Return labelled loss traces, judged.

    Parameters
    ----------
    losses : array, shape (T, C, draws, K)
        Losses of the observed items.
    reports : sequence of Report
        Reports of all chains, in the order of the losses.
    time : array of int, shape (T,)
        Steps of the checkpoints.
    **labels
        items, checkpoint_loss and attrs, as `dlnflow.traces.format.labelled` takes them.

    Returns
    -------
    DataArray, dims (time, chain, draw, item)
        With the coordinates `acceptance` and `relative_step` (time, chain) of kernels that have
        them. Warns once if a step is so large that variances are 25 % off.
    """
    traces = labelled(losses, time=time, **labels)
    shape = traces.sizes["time"], traces.sizes["chain"]
    for name in Report._fields:
        found = [getattr(report, name) for report in reports]
        if all(value is not None for value in found):
            values = torch.cat(found).double().numpy().reshape(shape)
            traces = traces.assign_coords({name: (("time", "chain"), values)})
    step_checks.warn_if_biased(traces)
    return traces
