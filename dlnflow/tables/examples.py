"""Tables of facts that come with the package, to begin with and to copy.

Facts are general knowledge, written for this package. Where a kind has exceptions one is meant:
the whale is a baleen whale, the ant a worker, the bear brown, the shark a great white, the salmon
migrates, the turtle lives in the sea, the squirrel is red. Grades between 0 and 1 are coarse.
"""

from os import PathLike
from pathlib import Path
from types import MappingProxyType

from dlnflow import checks
from dlnflow._support.files import write_atomic
from dlnflow.task import Task

DESCRIPTIONS = MappingProxyType(
    {
        "animals": "what animals are, have, can and eat; 0/1 with a few grades",
        "plants": "what plants are, bear and live on; 0/1 with a few grades",
        "countries": "0/1 facts beside area, population, height, latitude: try --standardize",
    }
)
"""Example -> one line on it."""
_FOLDER = Path(__file__).parent / "data"


def names() -> tuple[str, ...]:
    """Return the names of the examples.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> names()
    ('animals', 'plants', 'countries')
    """
    return tuple(DESCRIPTIONS)


def path(name: str) -> Path:
    """Return the CSV file of an example.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If there is no such example.
    """
    return _FOLDER / f"{checks.one_of('name', name, names())}.csv"


def load(name: str, **options: object) -> Task:
    """Read an example.

    Parameters
    ----------
    name : str
        One of `names`.
    **options
        Options of `Task.from_csv`, e.g. ``standardize=True``.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        If there is no such example or option.

    Examples
    --------
    >>> load("animals")
    Task(50 items, 77 features, one-hot inputs)
    """
    return Task.from_csv(path(name), **options)


def copy(name: str, out: str | PathLike[str], *, force: bool = False) -> Path:
    """Copy the CSV file of an example.

    Parameters
    ----------
    name : str
        One of `names`.
    out : path-like
        The file to write; in a folder, it gets the name of the example.
    force : bool
        Whether a file that is there already is replaced.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    ValueError
        If there is no such example.
    FileExistsError
        If the file exists and `force` is false.
    """
    source, target = path(name), Path(out)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not force:
        raise FileExistsError(
            f"{target} exists; choose another name, or replace it with `force=True` (--force)."
        )
    content = source.read_bytes()
    write_atomic(target, lambda temporary: temporary.write_bytes(content))
    return target
