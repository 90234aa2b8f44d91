"""The directive `gallery`: figures of one command with captions, scripts and how to draw them."""

import os
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


class Gallery(SphinxDirective):
    """Its argument is the command of `paper_figures`: toy, torch or lm."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write Markdown and let it be read."""
        from paper_figures import __main__ as runner

        command = self.arguments[0]
        figures = {"toy": runner.TOY, "torch": runner.TORCH, "lm": runner.LM}[command]
        lines = [line for key, name in figures.items() for line in shown(command, key, name)]
        node = nodes.container()
        source = str(ROOT / "docs" / "_ext" / "gallery.py")
        self.state.nested_parse(StringList(lines, source), self.content_offset, node)
        for name in figures.values():
            self.env.note_dependency(str(ROOT / "paper_figures" / "captions" / f"{name}.md"))
        return node.children


def shown(command: str, key: int | str, name: str) -> list[str]:
    """Return the section of one figure, as lines of Markdown."""
    from paper_figures._captions import caption

    about = caption(name)
    script = os.path.relpath(ROOT / "paper_figures" / f"{name}.py", ROOT / "docs")
    image = [f"```{{image}} gallery/{name}.png", f":alt: {about.alt}", "```"]
    if not (ROOT / "docs" / "gallery" / f"{name}.png").exists():
        image = ["*Not shown here: it takes a language model of its own to draw.*"]
    return [
        f"({name})=",
        f"### {about.title}",
        "",
        *image,
        "",
        *about.text.splitlines(),
        "",
        f"{{download}}`{name}.py <{script}>` · `python -m paper_figures {command} --only {key}`",
        "",
    ]


def setup(app) -> dict:
    """Register the directive."""
    app.add_directive("gallery", Gallery)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
