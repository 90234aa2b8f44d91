"""Configuration and weights through transformers: no code of a model is run, no tensor made up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from dlnflow.lm.data.hub import OFFLINE
from dlnflow.lm.runs.ladder import unreadable

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

UNBOUNDED = 1 << 30
"""Context of models whose positions are relative and stored nowhere, such as BLOOM."""
CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""Entries of config.json that bound the inputs, first match first."""
SHOWN = 3
"""Names of tensors in a message."""

_one_by_one = Lock()
"""Reading changes flags of transformers for a while, which threads would restore out of order.

Models that are made later in the process would then have their tied weights apart.
"""


def read_config(place: str, revision: str | None) -> PretrainedConfig:
    """Read a config.json.

    Parameters
    ----------
    place, revision : str, str or None
        Folder and None, or a hub name and its revision.

    Returns
    -------
    transformers.PretrainedConfig
        That of an architecture of transformers: code that lies beside it is never run.

    Raises
    ------
    ConnectionError
        If it is on the hub and that cannot be reached.
    ValueError
        If it is damaged, or asks for code of its own or of the hub.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(place, **_options(revision))
    except Exception as error:  # whatever a damaged file leads to
        explained = _explained(error, "config.json", place, revision)
        raise explained from error
    kernel = str(getattr(config, "_attn_implementation", None) or "")
    if "/" in kernel:  # transformers would fetch and run it
        raise ValueError(
            f"config.json of {_name(place, revision)} asks for attention code of the "
            f"hub ({kernel}), which is never run. Remove attn_implementation there."
        )
    return config


def read_model(place: str, revision: str | None) -> PreTrainedModel:
    """Read a model in float32; every one of its tensors comes from the files.

    Parameters
    ----------
    place, revision : str, str or None
        As in `read_config`.

    Returns
    -------
    transformers.PreTrainedModel
        In evaluation mode, on the CPU.

    Raises
    ------
    ConnectionError
        If it is on the hub and that cannot be reached.
    ValueError
        If the files are damaged, or do not have just the tensors that config.json describes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = read_config(place, revision)
    try:
        with _one_by_one, _quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                **_options(revision),
            )
    except Exception as error:  # SafetensorError, UnpicklingError and others have no common class
        explained = _explained(error, "weights", place, revision)
        raise explained from error
    _complete(model, report, _name(place, revision))
    return model.eval()


def context_length(config: PretrainedConfig) -> int:
    """Return how many inputs a model takes; `UNBOUNDED` if its configuration names no bound."""
    found = (getattr(config, name, None) for name in CONTEXTS)
    return next((int(n) for n in found if isinstance(n, int) and n > 0), UNBOUNDED)


def _options(revision: str | None) -> dict[str, object]:
    """Return what every call of from_pretrained here is given; folders need no network."""
    return {
        "revision": revision or "main",
        "trust_remote_code": False,
        "local_files_only": revision is None,
    }


def _name(place: str, revision: str | None) -> str:
    return place if revision is None else f"{place} {revision}"


def _explained(error: Exception, part: str, place: str, revision: str | None) -> Exception:
    """Return the error to raise instead: it names the place and what to do."""
    name = f"{part} of {_name(place, revision)}"
    if isinstance(error, MemoryError):
        return error
    if "trust_remote_code" in str(error):
        return ValueError(
            f"{name}: its architecture is not in transformers, and the code that it "
            "brings is never run. Take a model whose architecture is."
        )
    if revision is not None and isinstance(error, OSError):
        return ConnectionError(f"{name}: {error}. {OFFLINE}")
    return ValueError(unreadable(error, name))


def _complete(model: PreTrainedModel, report: dict[str, set], name: str) -> None:
    """Check that files and model have the same tensors; buffers of older versions do not count."""
    missing = {*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])}
    known = {_any_layer(key) for key in model.state_dict()}
    surplus = {key for key in report["unexpected_keys"] if _any_layer(key) in known}
    for keys, verb in ((missing, "lack"), (surplus, "have, beyond those of its config.json,")):
        if keys:
            shown = ", ".join(sorted(keys)[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
            raise ValueError(
                f"weights of {name} {verb} {len(keys)} tensors ({shown}), so this is not the "
                "model that was trained. Copy config.json and weights again, together."
            )


def _any_layer(key: str) -> str:
    """Return a tensor's name without the numbers of layers."""
    return re.sub(r"\d+", "N", key)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and reports of transformers; errors here say what is wrong."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
