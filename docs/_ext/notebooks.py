"""Notebooks of the tutorials, without outputs: `python docs/_ext/notebooks.py` writes examples/."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TUTORIALS, EXAMPLES = ROOT / "docs" / "tutorials", ROOT / "examples"
CELL = re.compile(r"^```\{code-cell\} python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADER = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)


def notebook(page: str) -> str:
    """Return the notebook of a page in MyST's Markdown, as JSON."""
    cells = []
    for k, text in enumerate(CELL.split(HEADER.sub("", page))):
        text = HEADER.sub("", text).strip()
        cell = {"cell_type": "code" if k % 2 else "markdown", "id": f"cell-{k}", "metadata": {}}
        if k % 2:
            cell |= {"execution_count": None, "outputs": []}
        else:
            text = text.replace("](../", "](../docs/")
        if text:
            cells.append(cell | {"source": text.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def notebooks() -> dict[Path, str]:
    """Return what every notebook should hold."""
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(TUTORIALS.glob("*.md"))}
    return {
        EXAMPLES / f"{page.stem}.ipynb": notebook(text)
        for page, text in pages.items()
        if CELL.search(text)
    }


if __name__ == "__main__":
    EXAMPLES.mkdir(exist_ok=True)
    for path, text in notebooks().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
