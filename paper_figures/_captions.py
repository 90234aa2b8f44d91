"""Captions of the figures: a title, words for who cannot see the figure, and what it shows."""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "captions"
"""One Markdown file per figure: a heading, a paragraph that begins with `alt:`, the caption."""


@dataclass(frozen=True)
class Caption:
    """What stands below a figure; `alt` is in one line, `text` as it is written."""

    title: str
    alt: str
    text: str


def caption(name: str) -> Caption:
    """Read the caption of a figure; `name` is that of its module."""
    title, alt, text = (FOLDER / f"{name}.md").read_text(encoding="utf-8").split("\n\n", 2)
    if not title.startswith("# ") or not alt.startswith("alt: "):
        raise ValueError(f"{FOLDER / name}.md must be a heading, a paragraph `alt: `, a caption.")
    return Caption(title.removeprefix("# "), " ".join(alt.split())[len("alt: ") :], text.strip())
