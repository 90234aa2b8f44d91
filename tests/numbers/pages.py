"""Tables of the documentation as data, and what it means that a number agrees with a page."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def cells(row):
    """Cells of one line of a table, without code marks and footnotes."""
    plain = re.sub(r"\[\^\w+\]|[`*]", "", row)
    return [cell.strip() for cell in plain.strip().strip("|").split("|")]


class Table(dict):
    """First cell of a row -> its other cells; ``head`` has the other cells of the head."""

    head: list[str]


def table(page, *header, columns=None):
    """Return the table of a page whose head begins with these cells and has so many."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    for k, line in enumerate(lines):
        head = cells(line) if line.startswith("|") else []
        if head[: len(header)] == list(header) and columns in (None, len(head)):
            found = Table()
            found.head = head[1:]
            for row in lines[k + 2 :]:
                if not row.startswith("|"):
                    break
                first, *rest = cells(row)
                found[first] = rest
            return found
    raise AssertionError(f"{page} has no table that begins with {header}")


def numbers(cell):
    """All numbers of a cell, each with the size of a unit in its last place."""
    found = []
    for text in NUMBER.findall(cell):
        digits, _, exponent = text.replace(",", "").partition("e")
        places = len(digits.partition(".")[2])
        found.append((float(text.replace(",", "")), 10.0 ** (int(exponent or 0) - places)))
    return found


def differences(shown, computed, *, units=1.0, relative=0.0):
    """Say which numbers of a row of cells are not the computed ones.

    ``units`` in the last place that is shown, and a share ``relative`` for what is sampled, or for
    what is so sensitive that libraries move it.
    """
    pairs = [pair for cell in shown for pair in numbers(cell)]
    assert len(pairs) == len(computed), f"{shown} has {len(pairs)} numbers, not {len(computed)}"
    return [
        f"shown {value:g}, computed {new:.6g}"
        for (value, unit), new in zip(pairs, computed, strict=True)
        if not abs(value - new) <= 1.0001 * units * unit + relative * abs(new)
    ]


def rows(page, *header, columns=None):
    """Return the rows of a table as lists of cells; a first cell left empty is that above it."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    for k, line in enumerate(lines):
        head = cells(line) if line.startswith("|") else []
        if head[: len(header)] == list(header) and columns in (None, len(head)):
            found, above = [], ""
            for row in lines[k + 2 :]:
                if not row.startswith("|"):
                    return found
                first, *rest = cells(row)
                above = first or above
                found.append([above, *rest])
    raise AssertionError(f"{page} has no table that begins with {header}")


def said(page, words):
    """Return the numbers that stand for `#` in a sentence of a page, wherever lines are broken."""
    text = " ".join((DOCS / page).read_text(encoding="utf-8").split())
    parts = [re.escape(re.sub(r"\s+", " ", part)) for part in words.split("#")]
    pattern = rf"({NUMBER.pattern})".join(parts)
    matches = re.findall(pattern, text)
    assert len(matches) == 1, f"{page} says {words!r} {len(matches)} times"
    return [matches[0]] if isinstance(matches[0], str) else list(matches[0])
