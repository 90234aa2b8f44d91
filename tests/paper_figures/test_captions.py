"""Every figure has a caption, which the pages and the gallery use as it is."""

from pathlib import Path

import pytest
from PIL import Image

from paper_figures import _gallery
from paper_figures.__main__ import LM, TORCH, TOY
from paper_figures._captions import FOLDER, caption

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"figures.md": TOY, "nonlinear.md": TORCH, "lm_figures.md": LM}
FIGURES = [(name, page) for page, figures in PAGES.items() for name in figures.values()]


def test_there_are_captions_of_all_figures_and_of_no_others():
    assert {path.stem for path in FOLDER.glob("*.md")} == {name for name, _ in FIGURES}


@pytest.mark.parametrize("name, page", FIGURES)
def test_a_caption_stands_in_its_page_with_the_figure(name, page):
    about, text = caption(name), (DOCS / page).read_text(encoding="utf-8")
    assert 60 <= len(about.alt) <= 250 and about.alt.endswith(".")
    shown = (DOCS / "gallery" / f"{name}.png").exists()
    assert shown == (f"](gallery/{name}.png)" in text)
    assert shown or page != "figures.md"  # the others take minutes to draw
    assert about.text in text


def test_a_file_that_is_no_caption_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("paper_figures._captions.FOLDER", tmp_path)
    (tmp_path / "fig.md").write_text("# Figure\n\nNo words for those who cannot see it.\n\nText.")
    with pytest.raises(ValueError, match="`alt: `"):
        caption("fig")


def test_figures_are_taken_into_the_gallery_in_fewer_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(_gallery, "GALLERY", tmp_path / "gallery")
    Image.new("RGB", (1584, 792), "white").save(tmp_path / "digits.png")
    Image.new("RGB", (100, 100), "white").save(tmp_path / "of_no_figure.png")
    assert _gallery.take(tmp_path) == ["digits"]
    with Image.open(tmp_path / "gallery" / "digits.png") as image:
        assert image.size == (1080, 540)
