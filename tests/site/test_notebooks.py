"""Example notebooks are those of the tutorials, and hold no outputs."""

import ast
import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOUND = sorted((ROOT / "examples").glob("*.ipynb"))
made = runpy.run_path(str(ROOT / "docs" / "_ext" / "notebooks.py"))


def test_every_tutorial_has_its_notebook():
    expected = made["notebooks"]()
    assert set(FOUND) == set(expected)
    stale = [path.name for path in FOUND if path.read_text(encoding="utf-8") != expected[path]]
    assert stale == [], "run python docs/_ext/notebooks.py"


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_a_notebook_has_code_and_no_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 3
    for cell in code:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        ast.parse("".join(cell["source"]))


def test_options_of_a_cell_and_the_header_are_left_out():
    cell = "```{code-cell} python\n---\nimage: y\n---\n1 + 1\n```"
    page = f"---\nkernel: x\n---\n\n# A\n\n{cell}\n\nB.\n"
    cells = json.loads(made["notebook"](page))["cells"]
    assert ["".join(cell["source"]) for cell in cells] == ["# A", "1 + 1", "B."]
