"""Commands that pages show have the options that they show, and settings of these names."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from dlnflow.cli.language_models import Sampling, changed
from dlnflow.cli.main import app
from dlnflow.lm.runs.model import CONFIGURATIONS
from paper_figures.__main__ import app as figures
from paper_figures._lm_data import LmScale, with_settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"\b(?:dlnflow|python -m paper_figures)(?= )")
SHOWN = re.compile(r"`((?:dlnflow|python -m paper_figures) [^`]+)`")
ROOTS = {"dlnflow": app, "paper_figures": figures}
NOT_SHELL = ("...", "[", "from dlnflow", "pip install", "{", "dlnflow import", "dlnflow as")


def commands(page):
    """All commands of indented and fenced blocks, and those in code marks within sentences."""
    text = re.sub(r"\\\n\s+", " ", page.read_text(encoding="utf-8"))
    fenced = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    lines += [line for block in fenced for line in block.splitlines()]
    found = [one for line in lines for one in re.split(r" && ", line) if COMMAND.search(one)]
    found = [one[COMMAND.search(one).start() :] for one in found]
    found += [" ".join(one.split()) for one in SHOWN.findall(text)]
    return [
        re.sub(r"\s+#.*", "", one).removeprefix("python -m ")
        for one in found
        if not any(mark in one for mark in NOT_SHELL)
    ]


PARSED = [(page, one) for page in PAGES for one in commands(page)]


def context(words):
    """Parse a command and return its name and values; a sentence may leave an argument out."""
    name, *rest = words
    command = typer.main.get_command(ROOTS[name])
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        word = rest.pop(0)
        if word not in command.commands:
            raise ValueError(f"{name} has no command {word}")
        name, command = f"{name} {word}", command.commands[word]
    try:
        return name, command.make_context(name, rest).params
    except Exception as error:  # typer's own classes have moved between its versions
        if type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError"):
            return name, {}
        raise


@pytest.mark.parametrize(
    "page, line", PARSED, ids=[f"{p.stem}-{k}" for k, (p, _) in enumerate(PARSED)]
)
def test_a_command_that_is_shown_has_these_options(page, line):
    name, values = context(shlex.split(line))
    given = values.get("setting") or []
    if name == "dlnflow lm train" and given:
        changed(CONFIGURATIONS[values["configuration"]], given)
    elif name in ("dlnflow lm sample", "dlnflow lm suggest"):
        changed(Sampling(), given)
    elif name == "paper_figures lm" and given:
        with_settings(LmScale(values["scale"]), given)


def test_what_does_not_exist_is_found():
    with pytest.raises(Exception, match="--threads"):
        context(["dlnflow", "lm", "sample", "RUN", "--store", "STORE", "--threads", "2"])
    with pytest.raises(ValueError, match="sampel"):
        context(["dlnflow", "lm", "sampel", "RUN"])
    assert len(PARSED) > 40
