"""A user's own model on the command line: the numbers of Python, and errors that name the line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import dlnflow as dln
from dlnflow.cli import main

MODEL = """
import torch
import dlnflow as dln
from data_of_mine import TARGETS

print("building")

def make_run(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    x = [[0, 0], [0, 1], [1, 0], [1, 1.0]]
    return dln.TorchRun(
        model.double(), (x, TARGETS), learning_rate=0.5, n_steps=60, items=["00", "01", "10", "11"]
    )

def make_linear():
    return dln.Run(dln.semantic_hierarchy(2), hidden=4, n_steps=300, learning_rate=0.1)
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_of_mine.py").write_text("TARGETS = [[0], [1], [1], [0.0]]\n")
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def _invoke(*arguments):
    return CliRunner().invoke(main.app, [*map(str, arguments)])


def test_a_torch_run_of_a_file_gives_curves_figures_and_one_json_object(model, tmp_path):
    done = _invoke("influence", "model.py:make_run", "--out", "out", "--points", 20, "--json")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["items"] == ["00", "01", "10", "11"]
    assert content["run"]["loss"] == "mse" and content["run"]["parameters"] == 17
    assert "building" in done.stderr and "left out: `analytic`" in done.stderr
    curves = dln.load(tmp_path / "out" / "influence.nc")
    assert curves.estimator.values.tolist() == ["tangent", "leave_one_out"]
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".nc", ".pdf", ".png", ".svg"]
    scope = {}
    exec(MODEL.replace("from data_of_mine import TARGETS", "TARGETS = [[0],[1],[1],[0.0]]"), scope)
    expected = dln.influence.tangent(scope["make_run"](), curves.time.values)
    np.testing.assert_allclose(curves.sel(estimator="tangent"), expected, rtol=1e-12, atol=1e-15)


def test_it_is_printed_and_compared_like_any_run(model):
    done = _invoke("influence", "model.py:make_run", "--points", 20, "-e", "tangent")
    assert done.exit_code == 0, done.output
    assert "Sequential of 17 parameters, loss mse" in done.output
    assert "60 steps of 0.5" in done.output
    done = _invoke("compare", "model.py:make_run", "--points", 20, "-e", "tracin")
    assert done.exit_code == 0, done.output
    assert "Agreement with leave_one_out" in done.output
    assert "Agreement with windowed" in done.output


def test_a_linear_run_of_a_file_is_described_as_one(model):
    done = _invoke("influence", "model.py:make_linear", "--points", 20)
    assert done.exit_code == 0, done.output
    assert "2 layers, hidden 4" in done.output and "unit of flow time" in done.output


FILES = {
    "broken.py": "def make_run(:\n    pass\n",
    "raises.py": "import dlnflow\nx = 1 / 0\n\ndef make_run():\n    return x\n",
    "inside.py": """import dlnflow as dln

def helper():
    return dln.Run(dln.semantic_hierarchy(), hidden=-1)

def make_run():
    return helper()

def leaves():
    raise SystemExit("enough")

def nothing():
    pass

def number():
    return 3

def wants(path):
    return path

not_one = 7
""",
}


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        ("absent.py:make_run", ["absent.py", "does not exist"]),
        ("folder.py:make_run", ["folder.py", "is a folder"]),
        ("inside.py", ["say which function", "inside.py:NAME", "make_run, leaves"]),
        ("inside.py:", ["say which function"]),
        ("inside.py:mke_run", ["no function 'mke_run'", "Did you mean 'make_run'"]),
        ("inside.py:not_one", ["must be a function", "it is of type int"]),
        ("inside.py:wants", ["without arguments", "'path'"]),
        ("inside.py:nothing", ["it returned None", "lack a `return`"]),
        ("inside.py:number", ["dlnflow.TorchRun", "object of type int"]),
        (
            "inside.py:make_run",
            ["ValueError: `hidden` must be", "line 4, in helper", "raised by", "checks.py"],
        ),
        ("inside.py:leaves", ["SystemExit: enough", "line 10, in leaves"]),
        ("raises.py:make_run", ["ZeroDivisionError: division by zero", "line 2: x = 1 / 0"]),
        ("broken.py:make_run", ["broken.py, line 1 is no Python"]),
    ],
)
@pytest.mark.parametrize("command", ["influence", "compare"])
def test_what_is_wrong_with_the_code_is_said_in_words(command, data, reasons, model, tmp_path):
    (tmp_path / "folder.py").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    done = _invoke(command, data)
    assert done.exit_code == 1, done.output
    words = " ".join(done.output.split())
    for reason in reasons:
        assert reason in words, done.output


@pytest.mark.parametrize(
    "option", [["--run", "hidden=3"], ["--no-header"], ["--standardize"], ["--sep", ";"]]
)
def test_options_of_tables_and_runs_are_refused(option, model):
    done = _invoke("influence", "model.py:make_run", *option)
    assert done.exit_code == 2 and "describes its run itself" in done.output
    assert option[0] in done.output and "building" not in done.output


def test_the_example_of_the_documentation_is_such_a_file(model, tmp_path):
    page = (Path(dln.__file__).parents[1] / "docs" / "your_model.md").read_text("utf-8")
    block = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "example.py").write_text(block.split("run = make_run()")[0])
    for line in page.splitlines():
        if line.startswith("    dlnflow "):
            words = line.replace("model.py", "example.py").split()[1:]
            done = _invoke(*words, "--points", 15)
            assert done.exit_code == 0, done.output
    assert (tmp_path / "results" / "influence.nc").exists()


def test_ctrl_c_within_the_code_stays_one(model):
    model.write_text("def make_run():\n    raise KeyboardInterrupt\n")
    done = _invoke("influence", "model.py:make_run")
    assert done.exit_code == 130 and "interrupted" in done.output


def test_a_file_named_like_a_loaded_module_does_not_take_its_place(model, tmp_path):
    (tmp_path / "json.py").write_text(MODEL)
    import json as before

    done = _invoke("influence", "json.py:make_linear", "--points", 5, "-e", "tangent")
    assert done.exit_code == 0, done.output
    assert sys.modules["json"] is before


def test_the_help_says_that_the_code_is_run():
    done = _invoke("influence", "--help")
    words = " ".join(done.output.replace("│", " ").split())
    assert "MODEL.PY:NAME" in words and "The file is run: name only code you trust." in words
