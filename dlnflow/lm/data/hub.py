"""Names on the hub, whether it can be reached (its library retries for long), and its errors."""

import re
from pathlib import Path

OFFLINE = (
    "Without network: train a small model (`dlnflow lm train`), or copy the revisions to folders "
    "DIR/step<N> and give DIR in place of the name (in Python Checkpoints.from_directory)."
)


def is_name(source: object) -> bool:
    """Whether `source` has the form OWNER/NAME of a model or data set."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)) is not None


def reach(timeout: float = 5.0) -> None:
    """Ask the hub for its front page.

    Parameters
    ----------
    timeout : float
        Seconds to wait for an answer; any answer will do.

    Raises
    ------
    ConnectionError
        If there is none.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    try:
        get_session().head(constants.ENDPOINT, timeout=timeout)
    except Exception as error:  # the session is of httpx or requests, as the version has it
        raise ConnectionError(str(error)) from error


def cached(name: str, revision: str) -> Path | None:
    """Return the folder of a revision that was downloaded earlier, None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without its full stop."""
    if any(
        words in str(error) for words in ("Weights only load", "weights_only")
    ):  # torch goes on with how to run what a pickle holds
        return "its pickle holds more than tensors and is never run; take safetensors"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
