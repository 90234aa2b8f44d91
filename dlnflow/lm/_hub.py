"""Whether the hub can be reached, asked once: its library retries every file for half a minute."""


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
