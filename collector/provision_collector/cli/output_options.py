"""Options of the commands that bring outputs home."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import P, R

if TYPE_CHECKING:
    from ..run.spec import OutputsHere


def size(text: str) -> int:
    """An option's value as bytes: a number, or ``100MiB 6.9GB``."""
    from ..profile.units import size_bytes

    try:
        return size_bytes(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def outputs_options(command: Callable[P, R]) -> Callable[P, R]:
    """Add ``--outputs`` and ``--max-outputs``; the command gets `OutputsHere` as *outputs*, or None: nothing comes home."""

    @functools.wraps(command)
    def gathered(*args: P.args, **values: P.kwargs) -> R:
        folder, max_bytes = values.pop("outputs"), values.pop("max_outputs")
        values["outputs"] = None if folder is None else _here(str(folder), max_bytes)
        return command(*args, **values)

    options = (
        click.option(
            "--outputs",
            metavar="DIR",
            help="Bring the profile's `outputs` here as their writers close them; nothing is deleted.",
        ),
        click.option(
            "--max-outputs",
            type=size,
            default="100GiB",
            show_default=True,
            metavar="SIZE",
            help="The most that comes into a folder of the outputs.",
        ),
    )
    for option in reversed(options):
        gathered = option(gathered)
    return gathered


def _here(folder: str, max_bytes: object) -> OutputsHere:
    from ..run.spec import OutputsHere

    assert isinstance(max_bytes, int)
    return OutputsHere(Path(folder).expanduser().absolute(), max_bytes)
