"""The option --html of `dlnflow influence`: a page of curves, and of all pairs in a store."""

import pytest
from typer.testing import CliRunner

from dlnflow.cli import large_tables, main
from tests.explore.reading import data_of


def command(*words):
    return CliRunner().invoke(main.app, ["influence", *map(str, words)])


def test_a_page_is_written_beside_what_is_printed(tmp_path):
    page = tmp_path / "page.html"
    done = command("hierarchy", "-e", "analytic", "--points", 20, "--train", "dog", "--html", page)
    assert done.exit_code == 0, done.stderr
    assert "page.html" in done.stdout.replace("\n", "") and "Dog" in done.stdout
    data = data_of(page)
    assert (data["title"], data["train"], len(data["query"])) == ("hierarchy", ["dog"], 8)


def test_a_folder_is_no_page_and_nothing_is_computed(tmp_path):
    done = command("hierarchy", "--html", tmp_path)
    assert done.exit_code == 1 and "`--html` must be a file such as page.html" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_page_of_a_stored_table_is_read_from_the_store(tmp_path, monkeypatch):
    pytest.importorskip("zarr")
    monkeypatch.setattr(large_tables, "MAX_NUMBERS", 100)
    page = tmp_path / "page.html"
    words = ["hierarchy", "--points", 12, "--out", tmp_path / "out", "--html", page]
    done = command(*words)
    assert done.exit_code == 0, done.stderr
    data = data_of(page)
    assert [one["name"] for one in data["estimators"]] == ["analytic"]
    assert (tmp_path / "out" / "influence.zarr").is_dir() and len(data["train"]) == 8
