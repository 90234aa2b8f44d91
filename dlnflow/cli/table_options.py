"""Options of every command that reads a table; each is one of `Task.from_csv`, with its name."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from dlnflow.tables.options import DECIMALS, THOUSANDS


def _option(name: str, kind: Any, default: Any, text: str, *flags: str) -> inspect.Parameter:
    about = typer.Option(*flags, help=text, rich_help_panel="Reading the table")
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, about]
    )


OPTIONS = (
    _option("sep", str | None, None, "Separator of cells: a character, or tab."),
    _option("encoding", str | None, None, "Encoding of the file, e.g. cp1252."),
    _option(
        "header",
        bool | None,
        None,
        "Whether the first line names the columns. Default: yes, unless it looks like data.",
        "--header/--no-header",
    ),
    _option("sheet", str | None, None, "Sheet of an Excel file: name, or number from 1."),
    _option("long", bool, False, "Each row is one fact: item, attribute, value.", "--long"),
    _option("label_column", str | None, None, "Column with the item names; '#' numbers the rows."),
    _option("drop", list[str] | None, None, "Column to leave out; repeat."),
    _option("one_hot", list[str] | None, None, "Column of categories; repeat."),
    _option("decimal", str | None, None, f"Decimal sign: one of {' '.join(DECIMALS)}"),
    _option(
        "thousands",
        str | None,
        None,
        f"Thousand separator: one of {' '.join(map(repr, THOUSANDS))}",
    ),
    _option(
        "drop_constant", bool, False, "Leave out features that do not vary.", "--drop-constant"
    ),
    _option("center", bool, False, "Subtract the mean of every feature.", "--center"),
    _option(
        "standardize", bool, False, "Center, and divide by the standard deviation.", "--standardize"
    ),
)
"""What a command takes, in the order of its help."""


def reads_table(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all of `OPTIONS`; it receives those that were given as one dict, `reading`."""
    own = inspect.signature(command)
    names = [option.name for option in OPTIONS]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        rest = {name: value for name, value in given.items() if name not in names}
        command(**rest, reading=_reading({name: given.get(name) for name in names}))

    kept = [one for one in own.parameters.values() if one.name != "reading"]
    parameters = [*(p.replace(kind=p.KEYWORD_ONLY) for p in kept), *OPTIONS]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return run


def _reading(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given; --no-header is the one False that says something."""
    absent = (None, False, [])
    return {n: v for n, v in values.items() if v not in absent or (n == "header" and v is False)}
