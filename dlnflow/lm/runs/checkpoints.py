"""Ladders of checkpoints: where each step's weights are, and proof that they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dlnflow._support import IntArray
from dlnflow.lm.data import hub
from dlnflow.lm.data.spelling import vocabulary_size
from dlnflow.lm.data.tokenizer import load_tokenizer
from dlnflow.lm.runs.device import usable_device
from dlnflow.lm.runs.ladder import (
    check_ladder,
    check_tensors,
    checked_steps,
    hash_folder,
    hash_revision,
    is_checkpoint,
    step_folders,
)
from dlnflow.lm.runs.losses import is_direct
from dlnflow.lm.runs.pretrained import context_length, read_config, read_model

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Checkpoints:
    """Training steps of one model with the place of their weights.

    Attributes
    ----------
    steps : (T,) int array
        Optimiser steps, strictly increasing.
    places : tuple of (str, str or None)
        Folder or hub name, and hub revision, of every step.
    hashes : tuple of str
        sha256 of the weights of every step; no two are equal.
    """

    steps: IntArray
    places: tuple[tuple[str, str | None], ...] = field(repr=False)
    hashes: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        check_ladder(self.steps, self.hashes)

    def __len__(self) -> int:
        return len(self.steps)

    @classmethod
    def from_directory(
        cls,
        source: str | Path | Mapping[int, str | Path],
        steps: ArrayLike | None = None,
        *,
        frozen: Sequence[str] = (),
    ) -> Checkpoints:
        """Take checkpoints from folders in the hub's layout (config.json and weights).

        Parameters
        ----------
        source : path or mapping
            A folder with subfolders ``step<N>``, or ``{step: folder}``.
        steps : sequence of int, optional
            Only these steps are taken. Default: all.
        frozen : sequence of str
            Patterns of names of tensors that training left alone, e.g. ``"*embed*"``.

        Returns
        -------
        Checkpoints
            Sorted by step, hashes checked.

        Raises
        ------
        ValueError
            If a step is missing, a folder is incomplete, or two steps have the same weights or
            share large tensors, by their values; the last step of `source` is compared even if it
            is not among `steps`.
        """
        folders = step_folders(source)
        chosen = sorted(folders) if steps is None else checked_steps(steps)
        missing = [int(s) for s in chosen if s not in folders]
        if missing:
            raise ValueError(f"`steps` {missing} are not in {source}; there: {sorted(folders)}.")
        paths = [Path(folders[int(s)]) for s in chosen]
        hashes = tuple(hash_folder(p) for p in paths)
        compared, every = dict(zip(chosen, paths, strict=True)), hashes
        last = max(folders)
        if last not in chosen and is_checkpoint(Path(folders[last])):
            # a copy of the final weights under an earlier step is the usual mistake
            compared[last] = Path(folders[last])
            every = (*hashes, hash_folder(compared[last]))
        check_ladder(list(compared), every)
        check_tensors(compared, frozen)
        return cls(np.asarray(chosen, np.int64), tuple((str(p), None) for p in paths), hashes)

    @classmethod
    def from_hub(
        cls, name: str, steps: ArrayLike, *, final: tuple[int, str] | None = (143_000, "main")
    ) -> Checkpoints:
        """Take checkpoints from revisions ``step<N>`` of a model on the Hugging Face hub.

        File hashes are compared before anything is downloaded; weights are fetched when a
        step is loaded, and their tensors compared with those of the steps that were fetched
        before. No code of the repository is run.

        Parameters
        ----------
        name : str
            For example ``"EleutherAI/pythia-14m"``.
        steps : sequence of int
            Optimiser steps.
        final : (int, str), optional
            Last step of the training and the revision that holds it: an earlier step with
            those weights is mislabelled. The default is Pythia's.

        Returns
        -------
        Checkpoints
            Sorted by step.

        Raises
        ------
        ConnectionError
            If the hub cannot be reached; the message says what to do instead.
        ValueError
            If a revision does not exist or two steps have the same weights.
        """
        chosen = checked_steps(steps)
        try:
            hub.reach()
        except ConnectionError as error:
            raise ConnectionError(f"{name} on the hub: {error}. {hub.OFFLINE}") from error
        hashes = tuple(hash_revision(name, f"step{s}") for s in chosen)
        if final is not None and final[0] not in chosen:
            every = (*hashes, hash_revision(name, final[1]))
            check_ladder(np.append(chosen, max(final[0], chosen[-1] + 1)), every)
        return cls(np.asarray(chosen, np.int64), tuple((name, f"step{s}") for s in chosen), hashes)

    def at(self, step: int) -> int:
        """Return the position of `step`.

        Returns
        -------
        int
            Into `steps`.

        Raises
        ------
        ValueError
            If it is not one of the steps.
        """
        found = np.flatnonzero(self.steps == step)
        if len(found) == 0:
            near = self.steps[np.argmin(np.abs(self.steps - step))]
            raise ValueError(f"`step` {step} is not in this ladder; the nearest is {near}.")
        return int(found[0])

    def select(self, steps: ArrayLike) -> Checkpoints:
        """Return a ladder with only these steps."""
        i = [self.at(s) for s in checked_steps(steps)]
        return Checkpoints(
            self.steps[i], tuple(self.places[k] for k in i), tuple(self.hashes[k] for k in i)
        )

    def load(self, step: int, *, device: str = "cpu") -> PreTrainedModel:
        """Load the model of one step in float32 and evaluation mode.

        Returns
        -------
        transformers.PreTrainedModel
            On `device`.

        Raises
        ------
        ConnectionError
            If the weights are on the hub and it cannot be reached.
        ValueError
            If there is no such device, the files are damaged or lack a tensor, weights from the
            hub are those of another step, or it is no causal language model.
        """
        place, revision = self.places[self.at(step)]
        usable_device(device)
        model = read_model(place, revision)
        if revision is not None:
            check_tensors(self._downloaded())
        model = model.to(device)
        is_direct(model)  # refused here if its losses are not those of its logits
        return model

    def _downloaded(self) -> dict[int, Path]:
        """Return the folders of the steps whose weights were fetched from the hub."""
        places = zip(self.steps.tolist(), self.places, strict=True)
        folders = {step: hub.cached(*place) for step, place in places if place[1] is not None}
        return {step: path for step, path in folders.items() if path and is_checkpoint(path)}

    def tokenizer(self, source: str | Path | None = None) -> Tokenizer:
        """Return the tokenizer that lies with the last step, or beside the steps.

        Parameters
        ----------
        source : str or path, optional
            Use this one: a tokenizer.json, a folder that has one, or a name on the hub.

        Returns
        -------
        tokenizers.Tokenizer
            Every id of it has an embedding.

        Raises
        ------
        ValueError
            If it has ids that the model lacks.
        FileNotFoundError
            If there is none.
        """
        place = self.places[-1][0]
        if source is None:
            beside = Path(place).parent
            alone = not (Path(place) / "tokenizer.json").exists()
            source = beside if alone and (beside / "tokenizer.json").exists() else place
        tokenizer = load_tokenizer(source)
        check_vocabulary(tokenizer, self.config().vocab_size)
        return tokenizer

    def config(self) -> PretrainedConfig:
        """Return the configuration that lies with the last step.

        Returns
        -------
        transformers.PretrainedConfig
            That of the architecture.

        Raises
        ------
        ConnectionError
            If it is on the hub and that cannot be reached.
        ValueError
            If it is damaged or asks for code that transformers does not have.
        """
        return read_config(*self.places[-1])

    def context(self) -> int:
        """Return how many inputs the model takes; a huge number if nothing bounds them."""
        return context_length(self.config())


def find(source: str | Path, steps: ArrayLike | None = None) -> Checkpoints:
    """Take checkpoints from a folder if there is one, else from a model on the hub.

    Parameters
    ----------
    source : str or path
        Folder with subfolders ``step<N>``, or a name such as ``"EleutherAI/pythia-14m"``.
    steps : sequence of int, optional
        Only these; a must for the hub.

    Returns
    -------
    Checkpoints
        By `Checkpoints.from_directory` or `Checkpoints.from_hub`.

    Raises
    ------
    ValueError
        If `source` is neither.
    """
    if Path(source).is_dir():
        return Checkpoints.from_directory(source, steps)
    if not hub.is_name(source):
        raise ValueError(
            f"{str(source)!r} is no folder here, and no OWNER/MODEL of the hub. Give "
            "a run of `dlnflow lm train`, or a folder of step<N>/."
        )
    if steps is None:
        raise ValueError(
            f"{str(source)!r} is no folder here; to take it from the hub, say which "
            "steps: `--step` (`steps=` in Python)."
        )
    return Checkpoints.from_hub(str(source), steps)


def check_vocabulary(tokenizer: Tokenizer | int, model_size: int) -> None:
    """Check that a model has an embedding for every id of a tokenizer, or of so many ids.

    Raises
    ------
    ValueError
        If it has not.
    """
    size = tokenizer if isinstance(tokenizer, int) else vocabulary_size(tokenizer)
    if size > model_size:
        raise ValueError(
            f"tokenizer and model disagree: {size} ids in the `tokenizer` (the largest is "
            f"{size - 1}), {model_size} in the model. Use the tokenizer that the model was trained "
            "with."
        )
