"""Tables on the command line: the examples, and the options that say how one is read."""

import inspect
import json
from dataclasses import fields

import numpy as np
import pytest
from typer.testing import CliRunner

import dlnflow as dln
from dlnflow import tables
from dlnflow.cli import arguments, main, table_options
from dlnflow.tables import options

FAST = ["-e", "tangent", "--run", "n_steps=20", "--points", "3", "--json"]

GERMAN = "Tier;Farbe;groß;Preis;Rest;Zweck;gleich\n" + "".join(
    f"{name};{colour};{size};{price};x{k};y{k};1\n"
    for k, (name, colour, size, price) in enumerate(
        [
            ("Hund", "braun", "0,5", "1.000,5"),
            ("Wal", "grau", "30", "2.500,0"),
            ("Bär", "braun", "2,5", "1.750,5"),
        ]
    )
)
LONG = "item,attribute\ndog,moves\ndog,barks\ncod,swims\npine,grows\n"
BARE = "dog,1,0\ncod,0,1\npine,1,1\n"
NUMBERED = "kind,a,b\nx,1,0\nx,0,1\ny,1,1\n"


@pytest.fixture
def seen(monkeypatch):
    """What the commands read: the run described, without the work."""
    found = []
    run = arguments.run

    def spied(*given):
        found.append(run(*given))
        return found[-1]

    monkeypatch.setattr(arguments, "run", spied)
    return found


@pytest.mark.parametrize(
    ("text", "encoding", "flags", "reading"),
    [
        (
            GERMAN,
            "cp1252",
            "--sep semicolon --encoding cp1252 --decimal , --thousands . --drop Rest --drop Zweck "
            "--one-hot Farbe --drop-constant --standardize --header",
            {
                "sep": ";",
                "encoding": "cp1252",
                "decimal": ",",
                "thousands": ".",
                "drop": ["Rest", "Zweck"],
                "one_hot": ["Farbe"],
                "drop_constant": True,
                "standardize": True,
                "header": True,
            },
        ),
        (LONG, "utf-8", "--long", {"long": True}),
        (BARE, "utf-8", "--no-header --center", {"header": False, "center": True}),
        (
            NUMBERED,
            "utf-8",
            "--label-column # --one-hot kind",
            {"label_column": "#", "one_hot": ["kind"]},
        ),
    ],
)
@pytest.mark.parametrize("command", ["influence", "compare"])
def test_reading_options_do_what_they_do_in_python(
    command, text, encoding, flags, reading, seen, tmp_path
):
    path = tmp_path / "data.csv"
    path.write_text(text, encoding=encoding)
    found = CliRunner().invoke(main.app, [command, str(path), *flags.split(), *FAST])
    assert found.exit_code == 0, found.output
    expected, task = dln.Task.from_csv(path, **reading), seen[0].task
    np.testing.assert_array_equal(task.y, expected.y)
    assert (task.items, task.features) == (expected.items, expected.features)
    assert json.loads(found.stdout)["notes"] == list(expected.notes)


def test_a_sheet_is_named_or_counted(seen, tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "data.xlsx"
    with pandas.ExcelWriter(path) as book:
        for k, name in enumerate(["first", "second"]):
            frame = pandas.DataFrame({"name": ["a", "b"], "f": [1, 2 + k], "g": [3, k]})
            frame.to_excel(book, sheet_name=name, index=False)
    for sheet in ("2", "second"):
        found = CliRunner().invoke(main.app, ["influence", str(path), "--sheet", sheet, *FAST])
        assert found.exit_code == 0, found.output
    assert [run.task.y.tolist() for run in seen] == 2 * [[[1.0, 3.0], [3.0, 1.0]]]


def test_every_option_of_the_reader_is_one_of_the_commands():
    read = [f.name for kind in (options.ReadOptions, options.CleanOptions) for f in fields(kind)]
    assert [option.name for option in table_options.OPTIONS] == read
    for command in (main.influence, main.compare):
        assert set(read) < set(inspect.signature(command).parameters)


def test_notes_follow_the_line_on_the_task(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("name,moves,big\ndog,yes,0.5\npine,no,1\noak,no,2\n")
    fast = [word for word in FAST if word != "--json"]
    found = CliRunner().invoke(main.app, ["compare", str(path), *fast])
    lines = found.stdout.splitlines()
    assert lines[0].startswith("3 items, 2 features")
    assert lines[1] == dln.Task.from_csv(path).notes[0] == "yes/no read as 1/0 in 'moves'"


@pytest.mark.parametrize(
    ("flags", "code", "reason"),
    [
        (["hierarchy", "--center"], 2, "built in and not read from a file; leave out --center"),
        (["hierarchy", "--no-header", "--drop", "a"], 2, "leave out --no-header, --drop"),
        (["data.csv", "--drop", "nothing"], 1, "`drop`"),
        (["data.csv", "--sep", "::"], 1, "`sep` must be one character"),
        (["data.csv", "--decimal", "x"], 1, "`decimal` must be one of"),
        (["data.csv", "--encoding", "utf-99"], 1, "`encoding` 'utf-99' is not known"),
    ],
)
def test_options_that_cannot_be_are_refused(flags, code, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").write_text(NUMBERED)
    found = CliRunner().invoke(main.app, ["compare", *flags])
    assert found.exit_code == code
    assert reason in " ".join(found.output.replace("│", " ").split())


def test_examples_are_listed_and_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = CliRunner().invoke(main.app, ["examples"])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(tables.examples.names())
    for _ in range(2):
        copied = CliRunner().invoke(main.app, ["examples", "animals", "--out", "mine.csv"])
    assert copied.exit_code == 1 and "--force" in copied.output
    assert (tmp_path / "mine.csv").read_bytes() == tables.examples.path("animals").read_bytes()
    again = CliRunner().invoke(main.app, ["examples", "animals", "--out", "mine.csv", "--force"])
    assert again.exit_code == 0 and again.stdout == "mine.csv\n"


@pytest.mark.parametrize(
    ("flags", "code", "reason"),
    [
        (["animal"], 1, "Did you mean 'animals'"),
        (["--force"], 2, "which table?"),
        (["animals", "--out", "no/such/folder/../x.csv"], 0, ""),
    ],
)
def test_an_example_that_is_none(flags, code, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(main.app, ["examples", *flags])
    assert found.exit_code == code, found.output
    assert reason in " ".join(found.output.replace("│", " ").split())
