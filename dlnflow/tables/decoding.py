"""Bytes of a text file as text: the encoding is told from marks, or where all readings agree."""

import codecs
import re

from dlnflow.tables.options import flag

MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CODE_PAGES = ("cp1252", "cp1250", "cp1254", "cp1257")
"""Windows code pages of Latin scripts: Western, Central European, Turkish, Baltic."""
SIGNS = "°²³µ§"
"""What is no letter and yet the same in all of them."""
NOT_TEXT = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file (.xls); save it as .xlsx or as CSV"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"PAR1", "a Parquet file; read it with pandas and give the frame to Task.from_frame"),
    (b"SQLite format 3", "a database"),
)
"""First bytes of files that are given for tables by mistake."""


def decode(data: bytes, encoding: str | None) -> tuple[str, str]:
    """Return the text of a file.

    Returns
    -------
    str
        The text, without a byte-order mark.
    str
        The name of its encoding.

    Raises
    ------
    ValueError
        If the bytes are not text, or text whose encoding cannot be told.
    """
    for mark, kind in NOT_TEXT:
        if data.startswith(mark):
            raise ValueError(f"not a table of text in UTF-8 but {kind}.")
    if encoding is not None:
        return _given(data, encoding), encoding
    for mark, name in MARKS:
        if data.startswith(mark):
            return _marked(data, name), "utf-8" if name == "utf-8-sig" else name
    if b"\0" in data:
        return _unmarked_utf16(data)
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        return _code_page(data, error.start), CODE_PAGES[0]


def _given(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        raise ValueError(
            f"not text in {encoding}: {error}. Give another {flag('encoding')}."
        ) from error
    if not {"\n", "\r"} & set(text) and (b"\n" in data or b"\r" in data):
        raise ValueError(
            f"has no line break when read as {encoding}; expected one line per item. Give another "
            f"{flag('encoding')}."
        )
    return _no_nulls(text.removeprefix("\ufeff"), encoding)


def _marked(data: bytes, name: str) -> str:
    try:
        text = data.decode(name)
    except UnicodeError as error:
        raise ValueError(f"begins like {name}, but is not: {error}; expected UTF-8.") from error
    if "\n" not in text and "\r" not in text:
        raise ValueError(
            f"begins like {name}, but has no line break: not a table of text, for which UTF-8 or "
            f"{flag('encoding')} is expected."
        )
    return _no_nulls(text, name)


def _no_nulls(text: str, name: str) -> str:
    if "\0" in text:
        raise ValueError(
            f"holds null characters when read as {name}: not a table of text. Expected UTF-8, or "
            f"{flag('encoding')}."
        )
    return text


def _unmarked_utf16(data: bytes) -> tuple[str, str]:
    """Text of mostly Latin letters in UTF-16 has a null in nearly every second byte."""
    halves = data[0::2], data[1::2]
    shares = [half.count(0) / max(len(half), 1) for half in halves]
    if len(data) % 2 == 0 and max(shares) > 0.5 and min(shares) < 0.1:
        name = "utf-16-be" if shares[0] > shares[1] else "utf-16-le"
        return _no_nulls(_given(data, name), name), name
    raise ValueError(
        "holds null bytes: a binary file, not a table of text. Expected a CSV file in UTF-8, or "
        f"an Excel file; if it is text, name its {flag('encoding')}."
    )


def _code_page(data: bytes, place: int) -> str:
    """Read bytes that are not UTF-8 where every code page gives the same words."""
    readings = set()
    for page in CODE_PAGES:
        try:
            readings.add(data.decode(page))
        except UnicodeDecodeError:
            readings.add(None)
    if len(readings) == 1 and None not in readings:
        text = readings.pop()
        if _latin_words(text):
            return text
    number = data[:place].count(b"\n") + 1
    line = data.splitlines()[number - 1] if data.splitlines() else b""
    raise ValueError(
        f"not text in UTF-8 (byte 0x{data[place]:02x} in line {number}), and the encoding cannot "
        f"be told. Name it with {flag('encoding')}: in cp1252, that of Western Windows, the line "
        f"reads {line.decode('cp1252', errors='replace')[:60]!r}."
    )


def _latin_words(text: str) -> bool:
    """Whether words are mostly ASCII letters, unlike in other scripts."""
    if not all(c.isascii() or c.isalpha() or c in SIGNS for c in text):
        return False
    words = re.findall(r"[^\W\d_]+", text)
    return all(2 * sum(not c.isascii() for c in word) <= len(word) for word in words)
