"""Formulas as MathML, so that pages need neither scripts nor fonts from elsewhere."""

import functools
import re

from docutils import nodes
from latex2mathml.converter import convert


@functools.cache
def mathml(latex: str, *, display: str) -> str:
    """Return a MathML element; amounts of space that a browser would drop are kept."""
    return convert(re.sub(r"\s+", " ", latex).strip(), display=display)


def inline(translator, node: nodes.math) -> None:
    """Write a formula in a line."""
    translator.body.append(mathml(node.astext(), display="inline"))
    raise nodes.SkipNode


def block(translator, node: nodes.math_block) -> None:
    """Write a formula of its own, with its number if it has one."""
    label = f'<span class="eqno">({node["number"]})</span>' if node.get("number") else ""
    latex = node.astext()
    if "\\\\" in latex and "\\begin" not in latex:
        latex = f"\\begin{{aligned}}{latex}\\end{{aligned}}"
    translator.body.append(f'<div class="math">{mathml(latex, display="block")}{label}</div>')
    raise nodes.SkipNode


def setup(app) -> dict:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
