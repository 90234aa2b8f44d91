"""What the command chooses for a table, and what it says about its choice."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import dlnflow as dln
from dlnflow.cli import arguments, explanations, main, table_defaults


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "animals.csv"
    assert CliRunner().invoke(main.app, ["examples", "animals", "--out", str(path)]).exit_code == 0
    return str(path)


def _invoke(*arguments_):
    done = CliRunner().invoke(main.app, list(map(str, arguments_)))
    assert done.exit_code == 0, done.stderr
    return done


def test_a_table_gets_gradient_flow_and_a_hidden_layer_of_twice_its_rank(animals):
    run = arguments.run(animals, [], {})
    assert (run.optimizer, run.hidden) == ("flow", 2 * run.task.modes.rank)
    assert arguments.run("hierarchy", [], {}).optimizer == "gd"
    given = arguments.run(animals, ["optimizer=gd", "hidden=9"], {})
    assert (given.optimizer, given.hidden) == ("gd", 9)


def test_an_estimator_that_needs_steps_gets_steps(animals):
    assert arguments.run(animals, [], {}, ["tangent", "windowed"]).optimizer == "gd"
    assert arguments.run(animals, [], {}, ["tangent"]).optimizer == "flow"
    # No optimizer helps the closed form against three layers, so that the refusal speaks of flow.
    assert arguments.run(animals, ["depth=3", "n_steps=9"], {}, ["laplace_bif"]).optimizer == "flow"


def test_defaults_follow_the_cost_and_the_note_says_how_to_have_the_rest(animals):
    run = arguments.run(animals, [], {})
    few = table_defaults.estimators(run, ["dolphin"])
    assert few.names == list(table_defaults.ESTIMATORS) and few.note() == ""
    every = table_defaults.estimators(run, None)
    assert every.names == ["analytic"] and set(every.left_out) == {"tangent", "leave_one_out"}
    assert "-e analytic -e leave_one_out -e tangent" in every.note()
    assert table_defaults.estimators(run, None, ["tangent"]).names == ["tangent"]
    small = dln.Run(dln.semantic_hierarchy(), n_steps=10**9)
    assert table_defaults.estimators(small, None).left_out == {}


def test_several_seeds_are_the_ensemble_of_python(animals, tmp_path):
    options = ["--train", "dolphin", "--query", "whale", "--points", 20, "-e", "analytic"]
    done = _invoke("influence", animals, "--seeds", "0,3", "--out", tmp_path, *options)
    assert "Means over seeds" in done.stdout
    curves = dln.load(tmp_path / "influence.nc")
    assert curves.seed.values.tolist() == [0, 3]
    task = dln.Task.from_csv(animals)
    expected = dln.ensemble(
        task,
        [0, 3],
        "analytic",
        curves.time.values,
        train="dolphin",
        query="whale",
        hidden=2 * task.modes.rank,
        optimizer="flow",
    )
    found = curves.sel(estimator="analytic").transpose(*expected.dims).values
    np.testing.assert_allclose(found, expected.values, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--seeds", "many"], "a number of seeds"),
        (["--seeds", "0"], "different seeds >= 0"),
        (["--seeds", "3,3"], "different seeds >= 0"),
        (["--seeds", "3", "--run", "seed=1"], "say two things"),
        (["--seeds", "3", "-e", "bif", "--option", "bif.n_draws=9"], "does not go with --seeds"),
    ],
)
def test_seeds_that_make_no_sense_are_refused(given, words):
    done = CliRunner().invoke(main.app, ["influence", "hierarchy", *given])
    assert done.exit_code == 2 and words in " ".join(done.stderr.replace("│", " ").split())


def test_explained_events_are_printed_with_the_modes_they_name(animals):
    done = _invoke("influence", animals, "--train", "dolphin", "--query", "whale", "--points", 60)
    text = " ".join(done.stdout.split())
    assert "What carries events of leave_one_out; modes from the closed form" in text
    assert "- Dolphin helps whale most at step" in text
    first = text.index("learned @")
    named = {word for word in text[:first].split("mode ")[1:]}
    numbers = {part.split()[0].strip("().,") for part in named if part[0].isdigit()}
    assert numbers and all(f" {number} " in text[first:] for number in numbers)


def test_json_has_sentences_rows_and_what_was_left_out(animals):
    done = _invoke("influence", animals, "--query", "whale", "--points", 20, "--json")
    content = json.loads(done.stdout)
    assert set(content["left_out"]) == {"tangent", "leave_one_out"}
    explained = content["explained"]
    assert explained["estimator"] == "analytic" and explained["curves"] == "50 of 50"
    assert len(explained["sentences"]) == len({row["event"] for row in explained["rows"]})


def test_of_many_curves_the_largest_are_explained(monkeypatch):
    run = dln.Run(dln.semantic_hierarchy(), n_steps=400, learning_rate=0.08)
    curves = dln.stack(dln.influence.analytic(run))
    monkeypatch.setattr(explanations, "MOST_CURVES", 16)
    table = explanations.explained(run, curves)
    assert table.attrs["curves"] == "16 of 64"
    largest = np.abs(curves).max(("estimator", "time", "train")).to_series().nlargest(2)
    assert set(table["query"]) == set(largest.index)


def test_nothing_is_explained_where_the_closed_form_does_not_hold():
    run = dln.Run(dln.semantic_hierarchy(), n_steps=40, optimizer="adam")
    curves = dln.stack(dln.influence.tangent(run))
    assert explanations.explained(run, curves) is None
    assert explanations.content(None) is None


def test_the_modes_are_learned_when_their_strength_is_half(animals):
    run = arguments.run(animals, [], {})
    about = dln.analysis.explain_events(run, query="whale", train="dolphin").attrs
    a0 = about["a0"]
    shown = pd.DataFrame({"mode": [1, 3], "distinction": ["a", "b"]})
    table = explanations._modes(shown, about, float(run.flow_time(1)))
    steps = np.array([float(cell) for cell in table.columns[2].cells])
    s = run.task.modes.distinct[[0, 2]]
    strength = dln.saxe.mode_strength(run.flow_time(steps), s, a0)
    np.testing.assert_allclose(strength, s / 2, rtol=0.02)


def test_events_of_shown_pairs_are_those_of_the_whole_table(animals):
    """The floor follows from the largest curve, which need not be shown."""
    run = arguments.run(animals, [], {})
    curves = dln.stack(dln.influence.leave_one_out(run, run.grid(60), train="dolphin"))
    found = explanations.explained(run, curves, [("dolphin", "shark")])
    wanted = dln.events(curves)
    columns = ["query", "kind", "step"]
    found = found[found["query"] == "shark"].drop_duplicates("event")[columns]
    wanted = wanted[wanted["query"] == "shark"][columns]
    assert found.values.tolist() == wanted.values.tolist()
