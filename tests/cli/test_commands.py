"""The command: outputs, JSON, exit codes, and nothing half-written."""

import functools
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import dlnflow as dln
from dlnflow.cli import arguments, main, report, table_defaults
from dlnflow.influence import ESTIMATORS
from dlnflow.tables import examples as tables

FAST = ["--run", "n_steps=400", "--run", "learning_rate=0.08", "--points", "60"]


def _command(*arguments):
    """Run in this process; tests/cli/test_terminal.py has processes with streams of a shell."""
    found = CliRunner().invoke(main.app, [*map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return SimpleNamespace(returncode=found.exit_code, stdout=found.stdout, stderr=found.stderr)


def _table(path, n_items=6, n_features=4):
    values = np.random.default_rng(0).standard_normal((n_items, n_features)).round(3)
    rows = ["name," + ",".join(f"f{k}" for k in range(n_features))]
    rows += [f"item{i}," + ",".join(map(str, row)) for i, row in enumerate(values)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_influence_writes_curves_and_figures_and_prints_events(tmp_path):
    data, out = _table(tmp_path / "data.csv"), tmp_path / "out"
    done = _command("influence", data, "--out", out, "--train", "item1", *FAST)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in out.iterdir()) == [
        "influence.nc",
        "influence.pdf",
        "influence.png",
        "influence.svg",
    ]
    curves = dln.load(out / "influence.nc")
    assert curves.dims == ("estimator", "time", "query", "train")
    assert curves.estimator.values.tolist() == list(table_defaults.ESTIMATORS)
    assert curves.train.values.tolist() == ["item1"] and curves.sizes["query"] == 6
    assert "A value counts above" in done.stdout and "flips" in done.stdout
    flow = {"optimizer": "flow", "hidden": 16}
    run = dln.Run(dln.Task.from_csv(data), n_steps=400, learning_rate=0.08, **flow)
    expected = dln.influence.tangent(run, curves.time.values, train="item1")
    assert np.array_equal(curves.sel(estimator="tangent").values, expected.values)


def test_json_is_one_object_and_nothing_else(tmp_path):
    done = _command("influence", "hierarchy", "--out", tmp_path, "--train", "dog", "--json", *FAST)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["items"][0] == "dog" and content["run"]["n_steps"] == 400
    assert {e["kind"] for e in content["events"]} <= {"peak", "trough", "sign_flip"}
    assert len(content["files"]) == 4


@pytest.mark.filterwarnings("ignore:.*not positive definite:UserWarning")
def test_compare_prints_agreement_with_both_ways_of_retraining_and_cost():
    done = _command("compare", "hierarchy", "-e", "all", *FAST)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in done.stdout
    heads = [k for k, line in enumerate(lines) if line.startswith("Agreement with")]
    assert [lines[k].split()[2] for k in heads] == ["leave_one_out", "windowed"]
    cost = {line.split()[0]: line.split() for line in lines[heads[1] + 14 :] if line.strip()}
    n_windows = len(dln.Run(dln.semantic_hierarchy(), n_steps=400, learning_rate=0.08).grid(60)) - 1
    assert cost["leave_one_out"][2] == "8" and cost["closed_form_loo"][2] == "0"
    assert int(cost["windowed"][2]) == 8 * n_windows
    assert set(cost) >= {n for n, e in dln.ESTIMATORS.items() if e.in_all} and "bif" not in cost
    assert "tangent (9 of 11)" in done.stderr


def test_compare_as_json_has_every_pair_summary_and_cost():
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    done = _command("compare", "hierarchy", "-e", "tangent", "--json", *FAST)
    content = json.loads(done.stdout, parse_constant=refuse)
    assert content["references"] == ["leave_one_out", "windowed"]
    for name, other in zip(content["references"], content["references"][::-1], strict=True):
        assert len(content["pairs"][name]) == 2 * 64
        rows = content["summary"][name]
        assert [row["estimator"] for row in rows] == ["tangent", other]
        assert rows[0]["pairs"] == 56
    assert content["retrainings"]["leave_one_out"] == 8
    assert content["retrainings"].keys() == content["seconds"].keys()


def test_one_reference_is_compared_against_itself_by_no_one():
    done = _command("compare", "hierarchy", "--reference", "tangent", "-e", "analytic", *FAST)
    assert done.returncode == 0 and "leave_one_out" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["compare"], ["influence", "--out", "o"]])
def test_estimators_that_refuse_the_run_are_named_before_any_work(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    estimators = ["-e", "tangent", "-e", "source", "-e", "bif", "-e", "analytic"]
    adam = ["--run", "optimizer=adam", "--run", "depth=3"]
    found = CliRunner().invoke(main.app, [*command, "hierarchy", *estimators, *adam])
    assert found.exit_code == 1 and "tangent (" not in found.output
    for reason in ("`source` uses", "`bif` uses the structure of two layers", "`analytic` needs"):
        assert reason in found.output


@pytest.mark.filterwarnings("ignore::UserWarning")  # two steps are too early for some
@pytest.mark.parametrize(
    "setting",
    [{"optimizer": "flow"}, {"optimizer": "adam"}, {"depth": 3}, {"optimizer": "momentum"}],
)
def test_what_is_refused_in_advance_is_what_the_estimator_refuses(setting):
    """Both ways: `refusal` is empty exactly if the estimator runs, and has its words if not."""
    run = dln.Run(dln.semantic_hierarchy(levels=2), hidden=4, n_steps=20, **setting)
    for name in set(dln.ESTIMATORS) - {"bif"}:
        message = ESTIMATORS[name].refusal(run)
        if message:
            with pytest.raises(ValueError, match=re.escape(message)):
                dln.ESTIMATORS[name](run, [0, 10])
        else:
            dln.ESTIMATORS[name](run, [0, 10])


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["influence", "none.csv", "--out", "o"], 1, "none.csv"),
        (["influence", "hierarchy", "--out"], 2, "--out"),
        (["influence", "hierarchy", "--out", "o", "--train", "dgo"], 1, "Did you mean 'dog'"),
        (["influence", "hierarchy", "--out", "o", "-e", "tangnt"], 2, "Did you mean 'tangent'"),
        (["compare", "hierarchy", "--reference", "nothing"], 2, "unknown estimator"),
        (
            ["compare", "hierarchy", "-e", "tangent", "--reference", "tangent"],
            2,
            "other than the reference",
        ),
        (["compare", "hierarchy", "--run", "hiden=3"], 2, "NAME=VALUE"),
        (["compare", "hierarchy", "--run", "hidden=1e1"], 2, "hidden must be a whole number"),
        (["compare", "hierarchy", "--reference", "all"], 2, "--reference: unknown estimator 'all'"),
        (["compare", "hierarchy", "-e", "nothing"], 2, "--estimator: unknown"),
        (["compare", "."], 1, "is a folder"),
        (["compare", "hierarchy", "--run", "init_std=1e9"], 1, "no mode is learned within 200000"),
        (["compare", "hierarchy", "--train", "dog", "--query", "dog"], 2, "different items"),
        (
            ["compare", "hierarchy", "--train", "dog", "--train", "dog"],
            1,
            "`train`: give at least one item and none twice",
        ),
        (
            ["compare", "hierarchy", "--reference", "windowed", "--run", "optimizer=flow"],
            1,
            "--run NAME=VALUE",
        ),
        (["selftest", "--seed", str(10**22)], 2, "--seed"),
        (["compare", "hierarchy", "--option", "windowed"], 2, "ESTIMATOR.NAME=VALUE"),
        (["compare", "hierarchy", "--option", "source.segments=1"], 2, "not among the estimators"),
        (["compare", "hierarchy", "--option", "windowed.windw=1"], 2, "Did you mean 'window'"),
        (["compare", "hierarchy", "--option", "windowed.query=dog"], 2, "has the options"),
        (["compare", "hierarchy", "--option", "windowed.window=[1,2]"], 2, "several curves"),
        (["compare", "hierarchy", "--option", "windowed.window=99999"], 1, "steps fit"),
        (["compare", "hierarchy", "--option", "windowed.at=never"], 1, "(from windowed, whose"),
        (["compare", "hierarchy", "--run", "hidden=0"], 1, "`hidden`"),
        (["compare", "hierarchy", "--run", "learning_rate=30"], 1, "diverged at step"),
        (["compare", "hierarchy", "--points", "1"], 2, "points"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_failures_have_their_exit_code_and_reason(arguments, code, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main.app, arguments)
    assert result.exit_code == code
    assert reason in " ".join(result.output.replace("│", " ").split())
    assert not list((tmp_path / "o").glob("*"))


def test_options_reach_the_estimator(tmp_path):
    options = ["windowed.window=7", "source.filter=exponential", "windowed.first_order=true"]
    flags = [part for option in options for part in ("--option", option)]
    estimators = ["-e", "windowed", "-e", "source", "--train", "dog", "--json", *FAST]
    command = ["influence", "hierarchy", "--out", str(tmp_path), *estimators, *flags]
    command += ["--points", "4", "--run", "n_steps=50"]
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("windowed", "source"):
            record = dln.ESTIMATORS[name]

            @functools.wraps(record.function)
            def spied(run, steps, name=name, estimator=record.function, **given):
                seen[name] = given
                return estimator(run, [0, 20], **{**given, "train": "dog"})

            patch.setitem(dln.ESTIMATORS, name, replace(record, function=spied))
        found = CliRunner().invoke(main.app, command)
    assert found.exit_code == 0, found.output
    chosen = {"windowed": {"window": 7, "first_order": True}, "source": {"filter": "exponential"}}
    assert json.loads(found.stdout)["options"] == chosen
    assert {name: {k: seen[name][k] for k in chosen[name]} for name in chosen} == chosen


@pytest.mark.parametrize(
    ("options", "last"), [({"window": 30}, 370), ({"window": 30, "at": 200}, 170)]
)
def test_curves_end_where_the_last_window_opens(options, last, tmp_path):
    flags = [part for k, v in options.items() for part in ("--option", f"windowed.{k}={v}")]
    chosen = ["-e", "windowed", "-e", "analytic", "--train", "dog", *flags, *FAST]
    found = CliRunner().invoke(
        main.app, ["influence", "hierarchy", "--out", str(tmp_path), *chosen]
    )
    assert found.exit_code == 0, found.output
    run = dln.Run(dln.semantic_hierarchy(), n_steps=400, learning_rate=0.08)
    steps = run.grid(60)
    curves = dln.load(tmp_path / "influence.nc")
    assert curves.time.values.tolist() == steps[steps <= last].tolist()
    expected = dln.influence.windowed(run, curves.time, train="dog", **options)
    np.testing.assert_array_equal(curves.sel(estimator="windowed"), expected)
    assert f"recorded up to step {curves.time.values[-1]}" in found.output


def test_options_of_the_sampler_are_those_of_bif():
    given = ["bif.draws=20", "bif.kernel=sgld", "bif.errors=False", "bif.n_beta=1e3"]
    expected = {"draws": 20, "kernel": "sgld", "errors": False, "n_beta": 1e3}
    assert arguments.options(given, ["bif"]) == {"bif": expected}


@pytest.mark.filterwarnings("ignore::UserWarning")  # one step is too early for some
def test_all_takes_a_run_of_one_step():
    found = CliRunner().invoke(
        main.app,
        ["compare", "hierarchy", "--run", "n_steps=1", "-e", "all", "--points", str(10**9)],
    )
    assert found.exit_code == 0, found.output


def test_sampled_curves_come_with_the_verdicts_of_their_chains(tmp_path):
    bif = ["-e", "bif", "--option", "bif.draws=20", "--option", "bif.burn_in=5"]
    short = ["hierarchy", *bif, "--train", "dog", "--run", "n_steps=50", "--points", "3"]
    found = CliRunner().invoke(main.app, ["influence", *short, "--out", str(tmp_path)])
    assert found.exit_code == 0 and "bif, chains at 3 checkpoints: " in found.stdout
    assert "sampled curves also beyond 2 standard errors" in found.stdout
    found = CliRunner().invoke(main.app, ["compare", *short, "--json"])
    verdicts = json.loads(found.stdout)["verdicts"]
    assert list(verdicts) == ["bif"] and sum(verdicts["bif"].values()) == 3


def test_the_selftest_prints_one_object(monkeypatch):
    table = pd.DataFrame({"kernel": ["sgld"], "verdict": ["exact"], "z": [np.nan]})
    monkeypatch.setattr("dlnflow.sampling.selftest.selftest", lambda seed: table)
    found = CliRunner().invoke(main.app, ["selftest", "--json", "--seed", "3"])
    row = {"kernel": "sgld", "verdict": "exact", "z": None}
    assert json.loads(found.stdout) == {"seed": 3, "verdicts": {"sgld": "correct"}, "rows": [row]}


def test_help_names_the_commands():
    done = _command("--help")
    assert done.returncode == 0 and "influence" in done.stdout and "compare" in done.stdout


def test_names_are_shown_letter_by_letter(tmp_path):
    """Neither markup of the terminal nor formulas of the plots are read into item names."""
    path = tmp_path / "names.csv"
    names = ["[/red]", "[bold]", ":dog:", r"$\\foo$", "_hidden"]
    values = np.random.default_rng(1).standard_normal((5, 3)).round(3)
    rows = [f"{name},{','.join(map(str, row))}" for name, row in zip(names, values, strict=True)]
    path.write_text("n,a,b,c\n" + "\n".join(rows) + "\n", encoding="utf-8")
    done = _command("influence", path, "-e", "tangent", "--out", tmp_path / "o[x]", *FAST)
    assert done.returncode == 0, done.stderr
    assert "[/red]" in done.stdout and ":dog:" in done.stdout and "o[x]" in done.stdout
    assert len(list((tmp_path / "o[x]").iterdir())) == 4


def test_an_output_folder_that_is_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "out").write_text("x")
    done = _command("influence", "hierarchy", "--out", tmp_path / "out", "--run", "hidden=20000")
    assert done.returncode == 2 and "--out" in done.stderr


def test_records_hold_what_json_can():
    table = pd.DataFrame(
        {
            "name": ["dog", "a,b"],
            "share": [np.nan, 0.5],
            "size": [np.inf, -np.inf],
            "mode": pd.array([None, 2], dtype="Int64"),
            "kept": [True, False],
        }
    )
    rows = report.records(table)
    assert rows == [
        {"name": "dog", "share": None, "size": None, "mode": None, "kept": True},
        {"name": "a,b", "share": 0.5, "size": None, "mode": 2, "kept": False},
    ]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_without_arguments_six_lines_say_what_to_type_first():
    done = CliRunner().invoke(main.app, [])
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and len(lines) == 6
    assert max(map(len, lines)) <= 88
    named = [line.split()[1] for line in lines[1:-1]]
    assert set(named) <= {c.name or c.callback.__name__ for c in main.app.registered_commands}


def test_the_demo_draws_a_figure_and_can_be_given_again(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "animals.csv").write_text(tables.path("animals").read_text())
    done = CliRunner().invoke(main.app, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == 0, done.stderr
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {
        "animals.csv",
        *(f"{name}.{kind}" for name in ("dog", "influence") for kind in ("pdf", "png", "svg")),
        "influence.nc",
        "page.html",
    }
    said = " ".join(done.stdout.split())
    assert "Dog helps cat most" in said and "page.html in a browser" in said
