"""Short tables for notebooks. Names come from people's tables, so that every text is escaped."""

from collections.abc import Mapping, Sequence
from html import escape

from dlnflow._support.terminal import visible

NAMES = 6
"""Names that are listed of many,"""
LENGTH = 40
"""and characters of each."""
LEFT = 'style="text-align: left"'


def text(value: object) -> str:
    """Return text that shows letter by letter and is no markup, cut to a bearable length.

    >>> text("<b>dog</b> & 'cat'")
    '&lt;b&gt;dog&lt;/b&gt; &amp; &#x27;cat&#x27;'
    """
    shown = visible(value)
    return escape(shown if len(shown) <= LENGTH else shown[: LENGTH - 1] + "\u2026")


def line(value: object) -> str:
    """Return the whole text as `text` does."""
    return escape(visible(value))


def names(items: Sequence[object]) -> str:
    """Return the first names, and of how many they are; escaped.

    >>> names(["dog", "cat"]), names(range(100))
    ('dog, cat', '0, 1, 2, 3, 4, 5, &hellip; (100)')
    """
    listed = ", ".join(map(text, items[:NAMES]))
    return listed if len(items) <= NAMES else f"{listed}, &hellip; ({len(items):,})"


def summary(title: str, rows: Mapping[str, str]) -> str:
    """Return a table of two columns; `rows` are escaped already, `title` and heads are not."""
    body = "".join(
        f"<tr><th {LEFT}>{text(head)}</th><td {LEFT}>{cell}</td></tr>"
        for head, cell in rows.items()
    )
    return f"<table><caption {LEFT}>{text(title)}</caption><tbody>{body}</tbody></table>"


def grid(heads: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with a row of heads; the first cell of every row is its name."""
    head = "".join(f"<th>{text(one)}</th>" for one in ["", *heads])
    body = "".join(
        f"<tr><th {LEFT}>{text(row[0])}</th>"
        + "".join(f"<td>{text(one)}</td>" for one in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
