"""Formulas as MathML, so that pages need neither scripts nor fonts from elsewhere."""

import functools
import re

from docutils import nodes
from latex2mathml.converter import convert


@functools.cache
def mathml(latex: str, *, display: str) -> str:
    """Return a MathML element; amounts of space that a browser would drop are kept."""
    latex = re.sub(r"(?<=[A-Za-z0-9}])\s*\\(log|ln|arctan)\b", r"\\, \\\1", latex)
    latex = re.sub(r"\\(log|ln|arctan)\s+(?=[A-Za-z\\])", r"\\\1\\, ", latex)
    return convert(re.sub(r"\s+", " ", latex).strip(), display=display)


def inline(translator, node: nodes.math) -> None:
    """Write a formula in a line."""
    translator.body.append(mathml(node.astext(), display="inline"))
    raise nodes.SkipNode


def block(translator, node: nodes.math_block) -> None:
    """Write a formula of its own, with its number if it has one."""
    label = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    latex = node.astext()
    kind = "math"
    if re.search(r"&\s*(=|\\quad)", latex):  # rows that stand below each other at a sign
        kind, latex = "math aligned", f"\\begin{{align*}}{latex}\\end{{align*}}"
    translator.body.append(f'<div class="{kind}">{mathml(latex, display="block")}{label}</div>')
    raise nodes.SkipNode


def setup(app) -> dict:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
