"""The paper's experiment on one run: what is observed, how it is sampled, which tokens are what.

Shared by the commands and the figures, so that both describe the same store.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow.checks import one_of, positive_integer
from dlnflow.lm.data import corpus
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.data.spelling import special_ids
from dlnflow.lm.data.tokenizer import encode, split
from dlnflow.lm.induction import PERIOD, repeated_sequences
from dlnflow.lm.runs.checkpoints import Checkpoints, check_vocabulary, find
from dlnflow.lm.runs.device import usable_device
from dlnflow.lm.runs.folder import read_settings
from dlnflow.lm.runs.ladder import step_folders
from dlnflow.lm.runs.train import Data, load_data
from dlnflow.lm.sampling import results, suggestion
from dlnflow.lm.sampling.automatic import CHOSEN as CHOSEN
from dlnflow.lm.sampling.automatic import Automatic, settled
from dlnflow.lm.sampling.suggestion import Suggestion, spread
from dlnflow.lm.sampling.token_traces import Driver, Parts, check_parts
from dlnflow.lm.watched import REPEATS, watch
from dlnflow.lm.watched import halves as halves

if TYPE_CHECKING:
    from dlnflow.lm.sampling.unit import Sampler
    from dlnflow.traces.class_sums import ClassSums

CHAINS, DRAWS = 4, 250
"""Chains at each checkpoint, and draws of each, by default."""
GRADIENT_TOKENS = 512
"""Targets in a minibatch: its noise is far below the injected one, so larger ones buy nothing."""
OBSERVE = ("text", "delimiters", "repeats")
LENGTH = 128
"""Ids in a row of text that is brought, if the model's context is not shorter."""
ROWS = {"text": 32, "delimiters": 32, "repeats": 64}
"""Observed sequences: the errors of repeats are mostly those of the choice of sequences."""


@dataclass(frozen=True)
class Experiment:
    """What is sampled: checkpoints, gradient data, observed sequences and their classes.

    `folder` has all checkpoints of the ladder, if it is not on the hub: settings are chosen from
    the whole of it, whichever of them are sampled.
    """

    checkpoints: Checkpoints
    gradient: GradientData
    observed: Observed
    classes: xr.DataArray
    folder: Path | None = None

    def ladder(self, count: int) -> Checkpoints:
        """Return so many checkpoints, evenly spread over the ladder as it is known."""
        if self.folder is None:
            return self.checkpoints.select(spread(self.checkpoints.steps.tolist(), count))
        steps = spread(sorted(step_folders(self.folder)), count)
        return Checkpoints.from_directory(self.folder, steps)

    def of_class_sums(self) -> Experiment:
        """Return the same, of which sums over the classes are all that is kept."""
        return replace(self, observed=replace(self.observed, classes=self.classes))


def plan(
    folder: str | Path,
    *,
    observe: str = "text",
    steps: ArrayLike | None = None,
    rows: int | None = None,
) -> Experiment:
    """Describe the sampling of a run made by `train`.

    Parameters
    ----------
    folder : path
        Folder of the run.
    observe : {"text", "delimiters", "repeats"}
        Held-out rows, without those that occur in the training text as well, with structural
        classes; of these the rows with most delimiters; or sequences u u of disjoint frequent
        ids, with the classes repeated (second half) and other (first half without position 0).
    steps : sequence of int, optional
        Checkpoints; default all.
    rows : int, optional
        Observed sequences; default 32 of text, 64 of repeats, whose errors are mostly those of
        the choice of sequences.

    Returns
    -------
    Experiment
        Gradients come from the run's own training mixture.

    Raises
    ------
    FileNotFoundError
        If the folder was not made by `train`; `plan_from_text` takes any checkpoints.
    """
    one_of("observe", observe, OBSERVE)
    folder = Path(folder)
    data = load_data(folder)
    settings = read_settings(folder)
    length = settings.context
    gradient = GradientData(
        data.training.ids,
        max(1, GRADIENT_TOKENS // length),
        length,
        settings.repeat_share,
        (settings.segment_min, settings.segment_max),
        data.training.text_sha256,
    )
    rows = positive_integer("rows", ROWS[observe] if rows is None else rows)
    observed, classes = watch(data, observe, rows, length=length, gradient=gradient)
    ladder = Checkpoints.from_directory(folder, steps)
    return Experiment(ladder, gradient, observed, classes, folder)


def plan_from_text(
    source: str | Path | Checkpoints,
    text: str | Path,
    *,
    tokenizer: str | Path | None = None,
    observe: str = "text",
    steps: ArrayLike | None = None,
    rows: int | None = None,
    length: int | None = None,
    separator: str = "auto",
) -> Experiment:
    """Describe the sampling of any checkpoints in the hub's layout, with text that you bring.

    Parameters
    ----------
    source : path, str or Checkpoints
        Folder with subfolders ``step<N>``, a model's name on the hub, or checkpoints.
    text : str or path
        Text file, folder, or built-in corpus. One part gives gradients, another what is observed;
        it should be what the model was trained on.
    tokenizer : str or path, optional
        A tokenizer.json; by default the one that lies with or beside the checkpoints.
    observe, steps, rows
        As in `plan`; `steps` are needed for the hub.
    length : int, optional
        Ids in a row; default 128, or the model's context if that is shorter.
    separator : str
        Between documents, as in `dlnflow.lm.tokenizer.encode`.

    Returns
    -------
    Experiment
        Gradients come from crops of the text, without repeated rows.

    Raises
    ------
    ValueError
        If rows are longer than the model's context, or the text is too short.
    """
    one_of("observe", observe, OBSERVE)
    ladder = source if isinstance(source, Checkpoints) else find(source, steps)
    longest = ladder.context()
    rows = positive_integer("rows", ROWS[observe] if rows is None else rows)
    length = positive_integer("length", min(LENGTH, longest) if length is None else length)
    if length > longest:
        raise ValueError(f"`length` {length} is more than the model's context, {longest}.")
    loaded = ladder.tokenizer(tokenizer)
    parts = split(corpus.load(text), loaded, rows=rows, length=length, separator=separator)
    gradient = GradientData(
        parts[0].ids, max(1, GRADIENT_TOKENS // length), length, text_sha256=parts[0].text_sha256
    )
    observed, classes = watch(
        Data(loaded, *parts), observe, rows, length=length, gradient=gradient, context=longest
    )
    whole = None if isinstance(source, Checkpoints) or not Path(source).is_dir() else Path(source)
    return Experiment(ladder, gradient, observed, classes, whole)


def counts(
    source: str | Path,
    text: str | Path | None = None,
    tokenizer: str | Path | None = None,
    steps: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Count the ids of the text of a run of `train`, or of a text with a model's tokenizer.

    Returns
    -------
    (V,) int array
        Occurrences of every id, for `dlnflow.lm.induction.repeated_sequences`.
    """
    if text is None:
        return load_data(source).training.counts
    loaded = find(source, steps).tokenizer(tokenizer)
    return encode(corpus.load(text), loaded, held_out=0)[0].counts


def probe(
    ladder: Checkpoints,
    source: str | Path,
    text: str | Path | None = None,
    *,
    n_sequences: int = 32,
) -> NDArray[np.int64]:
    """Return sequences u u of frequent ids, for `dlnflow.lm.induction.measure`.

    Parameters
    ----------
    ladder : Checkpoints
        The models.
    source, text : path or str, path or str, optional
        A run of `train`, or any checkpoints and a text, as in `counts`.
    n_sequences : int
        Number of sequences.

    Returns
    -------
    (n_sequences, 2 p) int64 array
        No special ids; the model takes all of u u.
    """
    tokenizer = load_data(source).tokenizer if text is None else ladder.tokenizer()
    check_vocabulary(tokenizer, ladder.config().vocab_size)
    period = min(PERIOD, ladder.context() // 2)
    occurrences = counts(source, text, steps=ladder.steps)
    return repeated_sequences(
        occurrences,
        disjoint=False,
        n_sequences=n_sequences,
        period=period,
        special=special_ids(tokenizer),
    )


def sampler(
    *,
    chains: int = CHAINS,
    draws: int = DRAWS,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
    observables: tuple[Callable[[Any], float], ...] = (),
    **given: float | str,
) -> Sampler | Automatic:
    """Return RMSProp-SGLD, its preconditioner frozen after the burn-in.

    Parameters
    ----------
    chains, draws, seed : int
        Chains at each checkpoint, recorded draws of each, and seed.
    device, threads : str, int
        Torch device, and CPU threads of a chain.
    observables : tuple of callables
        What is recorded beside the losses, as in `dlnflow.lm.Sampler`.
    **given
        n_beta, localization, step_size, burn_in, thin; "auto", the default of each, chooses it
        from the model (`suggest`).

    Returns
    -------
    Sampler or Automatic
        For `sample`. It is a Sampler if n_beta, localization and step_size are given; burn_in and
        thin are then 150 and 5 by default.
    """
    numbers = {name: value for name, value in given.items() if value != "auto"}
    lengths = {"chains": chains, "draws": draws, "seed": seed}
    options = {"precision": "bf16-gradient", "device": device, "threads": threads}
    options |= {"observables": observables} if observables else {}
    chosen = Automatic(numbers, lengths, options)
    known = {"n_beta", "localization", "step_size"} <= set(numbers)
    return chosen.with_numbers({}) if known else chosen


def suggest(plan: Experiment, automatic: Automatic | None = None) -> Suggestion:
    """Choose settings for a plan from its model, and try them (`dlnflow lm suggest`).

    Parameters
    ----------
    plan : Experiment
        What is to be sampled.
    automatic : Automatic, optional
        What `sampler` returns for what is given; default: nothing is given.

    Returns
    -------
    Suggestion
        `settings` are keywords of `sampler`; `record()` has everything as JSON.

    Raises
    ------
    ValueError
        If all settings are given, gradient and observed data or the model disagree, or this
        machine lacks the device.
    """
    chosen = sampler() if automatic is None else automatic
    if not isinstance(chosen, Automatic):
        raise ValueError(
            "`automatic` has n_beta, localization and step_size, so nothing is left to choose; "
            "leave one of them out."
        )
    check_parts(plan.checkpoints, plan.gradient, plan.observed)
    usable_device(chosen.device)
    ladder = plan.ladder(suggestion.CHECKPOINTS)
    return suggestion.suggest(ladder, plan.gradient, plan.observed, plan.classes, chosen)


def sample(
    plan: Experiment,
    sampler: Sampler | Automatic,
    store: str | Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    repair: bool = False,
    executor: Executor | None = None,
) -> xr.DataArray | ClassSums:
    """Sample a plan into a store, with the classes of its items beside them."""
    sample_part(plan, sampler, store, (1, 1), progress, repair=repair, executor=executor)
    return results.load(Path(store))[0]


def sample_part(
    plan: Experiment,
    sampler: Sampler | Automatic,
    store: str | Path,
    part: tuple[int, int],
    progress: Callable[[int, int], None] | None = None,
    *,
    repair: bool = False,
    executor: Executor | None = None,
) -> list[tuple[int, int]]:
    """Sample part k of n, from 1 to n, beside processes that sample the others.

    Chains are dealt out in turn: part k has the chains k, k + n, k + 2 n, ... in the order of
    steps. Whoever ends last writes what describes the whole. Settings that are not given are
    chosen when the store is begun, and taken from it later.

    Returns
    -------
    list of (step, chain)
        What the whole still lacks.
    """
    parts = Parts(plan.checkpoints, plan.gradient, plan.observed)
    with settled(sampler, store, partial(suggest, plan), repair=repair) as (concrete, chosen):
        driver = Driver(parts, concrete, store, repair=repair, suggestion=chosen)
    driver.run(part, executor=executor, progress=progress)
    left = driver.left()
    if not left:
        with driver.files.writing():
            results.save(Path(store), driver.traces(), plan.classes)
    return left


def read(folder: str | Path, store: str | Path) -> tuple[xr.DataArray | ClassSums, xr.DataArray]:
    """Read traces and classes that `sample` wrote.

    Returns
    -------
    (DataArray or ClassSums, DataArray)
        Loss traces, or what was kept in their place, and classes.

    Raises
    ------
    ValueError
        If the store is no folder or holds no finished sample, or its files are damaged.
    """
    store = Path(store)
    if not store.is_dir():
        raise ValueError(
            f"`store` {store} is no folder; `dlnflow lm sample {folder} --store {store}` makes one."
        )
    if not (store / "traces.nc").exists():
        raise ValueError(
            f"`store` {store} holds no finished sample; call `dlnflow lm sample "
            f"{folder} --store {store}` again to finish it."
        )
    try:
        return results.load(store)
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise ValueError(
            f"`store` {store}: its results are damaged or missing ({error}). Call `dlnflow lm "
            f"sample {folder} --store {store}` again with the same options; it writes them anew "
            "from the chains."
        ) from error


def sequences(traces: xr.DataArray | ClassSums) -> NDArray[np.int64]:
    """Return the sequences u u that traces of `plan(observe="repeats")` belong to.

    Returns
    -------
    (n, 2 p) int64 array
        Token ids; the first of a row has no loss and is taken from its repeat.

    Raises
    ------
    ValueError
        If the observed sequences do not repeat themselves.
    """
    tokens, rows = (np.asarray(traces.coords[name]) for name in ("token", "row"))
    targets = tokens.reshape(len(np.unique(rows)), -1).astype(np.int64)
    period = (targets.shape[1] + 1) // 2
    found = np.concatenate([targets[:, period - 1 : period], targets], axis=1)
    if not np.array_equal(found[:, :period], found[:, period:]):
        raise ValueError(
            "`traces` are not those of repeated sequences; sample with observe=repeats."
        )
    return found


def left_out(classes: xr.DataArray) -> tuple[str, ...]:
    """Return the pairs to leave out of class means, `exclude` of `groups`.

    Repeated sequences: pairs within a sequence, where positions share their context, and pairs
    of one vocabulary id, which deals have in common. Text: items with themselves.

    Returns
    -------
    tuple of str
        Names of `exclude`.
    """
    repeats = tuple(classes["token_class"].values) == REPEATS
    return ("row", "token") if repeats else ("item",)


def one_thread() -> None:
    """Use one thread in this process: several chains at once are faster than several threads."""
    import torch

    torch.set_num_threads(1)
