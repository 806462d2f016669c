"""``provision help``: the help of the tool, or of one of its commands."""

from __future__ import annotations

import click


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]…")
@click.pass_context
def command(context: click.Context, words: tuple[str, ...]) -> None:
    """Say what COMMAND does and which options it has: `provision help up`, `provision help hosts list`."""
    from .output import say

    at = context.parent or context
    for word in words:
        if not isinstance(at.command, click.Group):
            raise click.UsageError(f"`{at.command_path}` has no commands of its own", ctx=at)
        name, found, _ = at.command.resolve_command(at, [word])
        assert found is not None  # else it has raised
        at = click.Context(found, info_name=name, parent=at)
    say(at.get_help())
