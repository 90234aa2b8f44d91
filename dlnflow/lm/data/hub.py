"""Names on the hub, and whether it can be reached: its library retries every file for a while."""

import re


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
