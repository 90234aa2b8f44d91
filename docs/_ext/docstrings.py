"""Docstrings are plain text with numpy's sections; this makes what they mean clear to Sphinx."""

import re

PAGE = re.compile(r"docs/([\w/]+)\.md")
"""A page that a docstring names."""
COLUMNS = re.compile(r"\S {3,}\S")
"""A line of a list in columns, which is shown as it is written."""
SECTION = re.compile(r"^(\s*)(-{3,}|={3,})\s*$")
CODE = re.compile(r"(``.+?``|`.+?`)")
ITEM = re.compile(r"^([-*]|\d+\.) ")


def process(app, what, name, obj, options, lines: list[str]) -> None:
    """Mark indented formulas as literal and characters that are no markup as such, in place."""
    lines[:] = escaped(literal(lines))


def literal(lines: list[str]) -> list[str]:
    """Put `::` before each block that is indented further than the paragraph before it."""
    out: list[str] = []
    base, after_blank, listed, doctest = 0, True, False, False
    for k, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            after_blank = True
        elif after_blank:
            doctest = line.lstrip().startswith(">>>")
            formula = indent >= base + 4 and not listed and not doctest
            if formula and not _in_literal(out):
                out += ["", " " * base + "::", ""]
            if not formula:
                base = indent
            listed = bool(ITEM.match(line.lstrip())) or _is_term(lines, k)
            after_blank = False
        elif _is_term(lines, k) or SECTION.match(line):
            base, listed = indent, _is_term(lines, k)
        elif indent < base:
            base = indent
        if _is_term(lines, k) and COLUMNS.search(lines[k + 1]) and not COLUMNS.search(line):
            out += [f"{line.rstrip(':')}::", ""]
        else:
            out.append(line)
    return out


def _in_literal(out: list[str]) -> bool:
    """Whether the paragraph before ends in `::` already."""
    text = next((line for line in reversed(out) if line.strip()), "")
    return text.rstrip().endswith("::")


def _is_term(lines: list[str], k: int) -> bool:
    """Whether a line is `name : type` or a type, explained by the indented line after it."""
    following = lines[k + 1] if k + 1 < len(lines) else ""
    indent = len(lines[k]) - len(lines[k].lstrip())
    return bool(following.strip()) and len(following) - len(following.lstrip()) == indent + 4


def escaped(lines: list[str]) -> list[str]:
    """Escape *, | and trailing _ outside of code, literal blocks and examples."""
    out, block, example = [], None, False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            example = False
        elif line.lstrip().startswith(">>>"):
            example = True
        if block is not None and line.strip() and indent <= block:
            block = None
        if line.strip() and not example and block is None:
            parts = CODE.split(line)
            parts[::2] = [_plain(part) for part in parts[::2]]
            parts[1::2] = [_code(part) for part in parts[1::2]]
            line = "".join(parts)
        if line.rstrip().endswith("::") and block is None:
            block = indent
        out.append(line)
    return out


def _code(text: str) -> str:
    """Names of the package stay links, all else in single backticks is code."""
    name = text.strip("`")
    return f"`{name}`" if re.fullmatch(r"dlnflow(\.\w+)+", name) else f"``{name}``"


def _plain(text: str) -> str:
    text = re.sub(r"(?<!\\)([|])", r"\\\1", text)
    bullet = re.match(r"^\s*\* ", text)
    head = bullet.group() if bullet else ""
    text = head + re.sub(r"(\w)_(?=\W|$)", r"\1\\_", re.sub(r"\*", r"\\*", text[len(head) :]))
    return PAGE.sub(_linked, text)


def _linked(found: re.Match) -> str:
    """Return a link to a page; pages below docs/ are named from there."""
    return f":doc:`/{found[1]}`"


def setup(app) -> dict:
    """Run before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
