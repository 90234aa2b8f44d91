"""Copies of the figures for the pages of docs, in fewer pixels and colours."""

from pathlib import Path

import typer
from PIL import Image

from dlnflow._support.files import atomic_path
from paper_figures._captions import FOLDER

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
WIDTH = 1080
"""Pixels of a full page width."""
COLORS = 192


def take(drawn: Path) -> list[str]:
    """Copy every figure with a caption that lies in a folder; return their names."""
    names = [p.stem for p in sorted(FOLDER.glob("*.md")) if (drawn / f"{p.stem}.png").exists()]
    if not names:
        raise typer.BadParameter(f"no figure in {drawn}; draw some first.", param_hint="--out")
    GALLERY.mkdir(exist_ok=True)
    for name in names:
        with Image.open(drawn / f"{name}.png") as image, atomic_path(GALLERY / f"{name}.png") as to:
            scale = WIDTH / 1584 if image.width <= 1584 else WIDTH / image.width
            size = round(image.width * scale), round(image.height * scale)
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            small.quantize(COLORS, kmeans=COLORS, dither=Image.Dither.NONE).save(
                to, format="PNG", optimize=True
            )
    return names
