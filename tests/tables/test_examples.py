"""The tables that come with the package, and the command that lists and copies them."""

import re

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import dlnflow as dln
from dlnflow.cli.examples import examples as command
from dlnflow.tables import examples

app = typer.Typer()
app.command()(command)

FACTS = {
    "animals": {
        ("dolphin", "is a mammal"): 1,
        ("dolphin", "has gills"): 0,
        ("bat", "can fly"): 1,
        ("bat", "is a bird"): 0,
        ("penguin", "can fly"): 0,
        ("penguin", "has feathers"): 1,
        ("ostrich", "can fly"): 0,
        ("whale", "gives milk"): 1,
        ("shark", "has gills"): 1,
        ("shark", "lays eggs"): 0,
        ("spider", "is an insect"): 0,
    },
    "plants": {("larch", "keeps its leaves in winter"): 0, ("larch", "is a conifer"): 1},
    "countries": {("Mongolia", "landlocked"): 1, ("Japan", "island state"): 1},
}


@pytest.mark.parametrize("name", examples.names())
def test_examples_are_clean_tables(name):
    task = examples.load(name)
    assert (task.n_items, task.n_out) == {
        "animals": (50, 77),
        "plants": (30, 30),
        "countries": (30, 28),
    }[name]
    assert len(np.unique(task.y, axis=1).T) == task.n_items  # no two items alike
    for (item, feature), value in FACTS[name].items():
        assert task.y[task.features.index(feature), task.indices(item)[0]] == value


def test_the_first_distinctions_of_the_animals_are_those_of_zoology():
    task = examples.load("animals", center=True)
    kinds = task.y[[task.features.index(f"is a {kind}") for kind in ("mammal", "bird", "fish")]] > 0
    vertebrate = task.y[task.features.index("has a backbone")] > 0
    first = task.modes.v[:, :2]  # columns are patterns over items
    centres = [first[kind].mean(0) for kind in kinds]
    centres.append(first[~vertebrate].mean(0))
    apart = min(np.linalg.norm(a - b) for k, a in enumerate(centres) for b in centres[:k])
    spread = max(first[kind].std(0).max() for kind in (*kinds, ~vertebrate))
    assert apart > spread


def test_unknown_examples_and_options_suggest_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'animals'"):
        examples.load("animal")
    with pytest.raises(ValueError, match="Did you mean 'center'"):
        examples.load("plants", centre=True)


def test_copies_are_complete_and_replace_nothing_unasked(tmp_path):
    out = examples.copy("plants", tmp_path / "mine.csv")
    assert out.read_bytes() == examples.path("plants").read_bytes()
    assert dln.Task.from_csv(out).features == examples.load("plants").features
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        examples.copy("plants", out)
    assert out.read_text() == "mine"
    examples.copy("plants", out, force=True)
    assert examples.copy("plants", tmp_path) == tmp_path / "plants.csv"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.csv", "plants.csv"]


def test_the_command_lists_and_copies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = CliRunner().invoke(app, [])
    assert listed.exit_code == 0 and not list(tmp_path.iterdir())
    assert re.search(r"animals +50 items x 77 features: ", listed.output)
    assert len(listed.output.splitlines()) == len(examples.names())
    assert max(map(len, listed.output.splitlines())) <= 110
    found = CliRunner().invoke(app, ["animals", "--out", "zoo.csv"])
    assert found.exit_code == 0 and found.output == "zoo.csv\n"
    assert dln.Task.from_csv("zoo.csv").n_items == 50
    assert CliRunner().invoke(app, ["plants"]).output == "plants.csv\n"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["animal"], 1, "Did you mean 'animals'"),
        (["--out", "x.csv"], 2, "which table"),
        (["animals", "--out", "taken.csv"], 1, "--force"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, code, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.csv").write_text("mine")
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == code and reason in " ".join(found.output.split())
    assert (tmp_path / "taken.csv").read_text() == "mine"
