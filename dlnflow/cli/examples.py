"""The command that lists and copies the tables that come with the package."""

from pathlib import Path
from typing import Annotated

import typer

from dlnflow._support.command import explained
from dlnflow._support.terminal import say
from dlnflow.tables import examples as tables


@explained
def examples(
    name: Annotated[
        str | None,
        typer.Argument(help=f"{', '.join(tables.names())}. Without a name, all are listed."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File or folder to copy to. Default: NAME.csv here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """List the example tables, or copy one."""
    if name is not None:
        say(str(tables.copy(name, Path(f"{name}.csv") if out is None else out, force=force)))
        return
    if out is not None or force:
        raise typer.BadParameter(
            f"which table? One of {', '.join(tables.names())}", param_hint="NAME"
        )
    for known, line in tables.DESCRIPTIONS.items():
        task = tables.load(known)
        say(f"{known:<10} {task.n_items:>3} items x {task.n_out:>2} features: {line}")
