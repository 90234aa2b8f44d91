"""What the documentation shows works: Python blocks run, the test command is what CI runs."""

import re
import subprocess
from pathlib import Path

import matplotlib
import pytest

from dlnflow.influence.estimator import ESTIMATORS, table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if BLOCK.search(p.read_text(encoding="utf-8"))], ids=lambda p: p.name
)
def test_python_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    scope = {"__name__": "documentation"}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), scope)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    prose = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_is_short_and_ci_runs_its_test_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    extract = next(line for line in lines if line.startswith("command="))
    script = f'{extract}\nprintf "%s" "$command"'
    found = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout in text and found.stdout.endswith("python -m pytest")


def test_the_table_of_estimators_is_that_of_their_records():
    page = (ROOT / "docs" / "estimators.md").read_text(encoding="utf-8")
    assert table() in page
    for record in ESTIMATORS.values():
        assert (ROOT / "docs" / record.page).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_line_of_a_page_is_long(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [(k, len(line)) for k, line in enumerate(lines, 1) if len(line) > 100] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_a_page_names_exist(page):
    named = re.findall(
        r"\b(?:tests|dlnflow|paper_figures)/[\w/]+\.(?:py|json)\b", page.read_text("utf-8")
    )
    real = [name for name in named if "NAME" not in name]  # what a reader is to call a new file
    assert [name for name in real if not (ROOT / name).exists()] == []


def test_the_page_of_the_house_lists_the_folders_that_there_are():
    page = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    table = page.split("## Folders")[1].split("## Import directions")[0]
    first_cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    listed = {name for cell in first_cells for name in re.findall(r"`(\w+/|\w+\.py)`", cell)}
    package = ROOT / "dlnflow"
    folders = {f"{p.parent.name}/" for p in package.glob("*/__init__.py")}
    files = {p.name for p in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert listed == folders | files
