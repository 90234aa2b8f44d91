"""Text that is already on the machine, or that the user brings, with a hash of what was read."""

import importlib.util
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

from dlnflow._support.hashes import sha256_text
from dlnflow.checks import did_you_mean, positive_integer
from dlnflow.lm.data import hub

STDLIB_EXCLUDED = {
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "distutils",
    "encodings",
    "site-packages",
    "dist-packages",
    "pydoc_data",
    "__pycache__",
}
"""Folders left out of `stdlib`: tests, graphics, code-page tables, other people's packages."""
DEPENDENCIES = ("numpy", "scipy", "xarray", "pandas", "sklearn", "torch", "transformers")
"""Packages whose sources make up `dependencies`, those that are installed."""
LINES = ".jsonl"
"""Ending of files with one JSON object a line, of which `FIELD` is a document."""
FIELD = "text"
TEXT_SUFFIXES = {".txt", ".md", ".rst", ".py", ".tex", ".html", ".json", ".csv", LINES}
"""Files read from a folder of text."""


@dataclass(frozen=True)
class Corpus:
    """Documents and where they came from.

    Attributes
    ----------
    name : str
        The built-in's name, the path, or the data set.
    documents : tuple of str
        In a fixed order.
    sha256 : str
        Hash of all documents, each preceded by its length.
    """

    name: str
    documents: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not any(self.documents):
            raise ValueError(
                f"{self.name!r} holds no text: no UTF-8 file, of a folder ending in "
                f"{', '.join(sorted(TEXT_SUFFIXES))}."
            )

    @cached_property
    def sha256(self) -> str:
        """Hash of the text; recorded with every result that used it."""
        return sha256_text(self.documents)

    @property
    def n_characters(self) -> int:
        """Total length of the documents."""
        return sum(map(len, self.documents))


def load(source: str | Path, *, max_characters: int | None = None) -> Corpus:
    """Read a built-in corpus, a text file or a folder of text files; ``.jsonl`` by its ``text``.

    Parameters
    ----------
    source : str or path
        ``"stdlib"``: the sources of the running Python's standard library and its language
        reference, about 8 MB under the PSF licence. ``"dependencies"``: the sources of numpy,
        scipy, torch and others that are installed, over 100 MB. Else a file or folder.
        Both built-ins change with the installed versions: compare ``sha256`` before comparing
        results of two machines.
    max_characters : int, optional
        Stop after the document that reaches this length.

    Returns
    -------
    Corpus
        Documents in sorted order of their paths.

    Raises
    ------
    ValueError
        If `source` is neither a built-in nor an existing path, or holds no text.
    """
    documents = _documents(source)
    if max_characters is not None:
        documents = _until(documents, positive_integer("max_characters", max_characters))
    return Corpus(str(source), tuple(documents))


def read_text(path: str | Path) -> str:
    """Read one text file.

    Returns
    -------
    str
        Its text.

    Raises
    ------
    ValueError
        If it is a folder, not UTF-8, or empty.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a text file.")
    try:
        text = path.read_bytes().decode()  # every character, line ends too
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}."
        ) from error
    if not text:
        raise ValueError(f"{path} holds no text.")
    return text


def read_documents(path: str | Path) -> tuple[str, ...]:
    """Read the documents of one file: a text is one, of a ``.jsonl`` every line's ``text``.

    Returns
    -------
    tuple of str
        In the order of the file, without empty ones.

    Raises
    ------
    ValueError
        If it is no such file.
    """
    text, path = read_text(path), Path(path)
    if path.suffix != LINES:
        return (text,)
    lines = enumerate(text.split("\n"), 1)
    documents = (_document(line, f"{path} line {k}") for k, line in lines if line.strip())
    return tuple(document for document in documents if document.strip())


def _document(line: str, place: str) -> str:
    """Return the text of a line of a ``.jsonl``."""
    try:
        row = json.loads(line)
        document = row[FIELD]
        document.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: half of a surrogate pair is no text.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{place}: every line must be a JSON object with a string {FIELD!r}, got "
            f"{line.strip()[:60]!r}."
        ) from error
    return document


def stream(dataset: str, *, n_documents: int, split: str = "train", field: str = "text") -> Corpus:
    """Read the first documents of a data set on the Hugging Face hub, without downloading it all.

    Parameters
    ----------
    dataset : str
        For example ``"monology/pile-uncopyrighted"``.
    n_documents : int
        How many documents to read.
    split, field : str
        Split of the data set and name of its text column.

    Returns
    -------
    Corpus
        The documents in the order of the data set.

    Raises
    ------
    ConnectionError
        If the hub cannot be reached; the message says what to use instead.
    """
    n_documents = positive_integer("n_documents", n_documents)
    from datasets import load_dataset

    try:
        rows = load_dataset(dataset, split=split, streaming=True)
        documents = tuple(row[field] for row in islice(rows, n_documents))
    except (OSError, RuntimeError) as error:
        raise ConnectionError(
            f"`dataset` {dataset!r} could not be streamed: {error}. Without network use "
            "'stdlib', 'dependencies' or the path of a text (in Python corpus.load('stdlib'))."
        ) from error
    return Corpus(dataset, documents)


def load_or_stream(source: str | Path, n_documents: int) -> Corpus:
    """Read what `load` knows, else the first documents of a data set OWNER/NAME on the hub."""
    local = str(source) in BUILT_IN or Path(source).exists()
    if local or not hub.is_name(source):
        return load(source)
    return stream(str(source), n_documents=n_documents)


def _documents(source: str | Path) -> Iterator[str]:
    """Iterate over the documents of a built-in or path."""
    if not str(source).strip():
        raise ValueError("the text must have a name, got an empty one.")
    if str(source) in BUILT_IN:
        return iter(BUILT_IN[str(source)]())
    path = Path(source)
    if path.is_file():
        return iter(read_documents(path))
    if path.is_dir():
        return _read(p for p in sorted(path.rglob("*")) if p.suffix in TEXT_SUFFIXES)
    raise ValueError(
        f"the text (`--text`, or `corpus` of a run) must be one of {', '.join(BUILT_IN)}, or an "
        f"existing file or folder; got {str(source)!r}." + did_you_mean(str(source), list(BUILT_IN))
    )


def _until(documents: Iterable[str], n_characters: int) -> Iterator[str]:
    """Yield documents until their total length reaches `n_characters`."""
    total = 0
    for document in documents:
        yield document
        total += len(document)
        if total >= n_characters:
            return


def _stdlib() -> Iterator[str]:
    """Yield the standard library's sources, then the language reference."""
    yield from _read(_sources(Path(sysconfig.get_path("stdlib")), STDLIB_EXCLUDED))
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))


def _dependencies() -> Iterator[str]:
    """Yield the sources of the installed packages, without their tests."""
    for package in DEPENDENCIES:
        spec = importlib.util.find_spec(package)
        for location in spec.submodule_search_locations or () if spec else ():
            yield from _read(_sources(Path(location), {"test", "tests", "__pycache__"}))


def _sources(root: Path, excluded: set[str]) -> Iterator[Path]:
    """Walk over a folder's ``*.py`` in sorted order, without entering excluded folders."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - excluded)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _read(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the non-empty UTF-8 files among `paths`; skip those in another encoding."""
    for path in paths:
        if path.suffix == LINES and path.stat().st_size:
            yield from read_documents(path)
            continue
        try:
            text = path.read_bytes().decode()
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip():
            yield text


BUILT_IN = {"stdlib": _stdlib, "dependencies": _dependencies}
"""Corpora that need no download."""
