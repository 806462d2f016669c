"""docs/COMMANDS.md: every command with its arguments and options, as click knows them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

import click

from ..cli import SECTIONS, cli
from ..cli.options import CONNECTION_OPTIONS
from .markdown import code, head, table

_TEXT = (
    "`provision COMMAND --help` says the same. Exit codes and JSON output are in [SCRIPTING.md](SCRIPTING.md); what goes "
    "wrong is in [TROUBLESHOOTING.md](TROUBLESHOOTING.md). Durations are seconds or `30s`, `15m`, `1h`."
)


def document() -> str:
    """The text of docs/COMMANDS.md."""
    lines = head("Commands", "the command line itself", _TEXT)
    context = click.Context(cli, info_name="provision")
    for title, names in SECTIONS.items():
        lines += [f"## {title}", ""]
        for name in names:
            command = cli.get_command(context, name)
            assert command is not None
            lines += _command(command, f"provision {name}")
    lines += [
        "## Connection options",
        "",
        "How to reach the instance; the same wherever a command takes `--host`.",
        "",
    ]
    lines += _connection_options(context)
    return "\n".join(lines)


def _command(command: click.Command, path: str) -> list[str]:
    if isinstance(command, click.Group):
        lines = [f"### {path}", "", *_help(command), ""]
        for name, inner in command.commands.items():
            lines += _command(inner, f"{path} {name}")
        return lines
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"### {path}", "", f"```text\n{path} {usage}\n```", "", *_help(command), ""]
    shared = [each for each in command.params if each.name in CONNECTION_OPTIONS]
    own = [each for each in command.params if isinstance(each, click.Option) and each not in shared]
    is_whole = len(shared) >= len(CONNECTION_OPTIONS) - 1
    rows = [*_rows(own if is_whole else [*shared, *own])]
    if is_whole:
        few = [each for each in CONNECTION_OPTIONS if each not in {param.name for param in shared}]
        but = f", without `--{few[0]}`" if few else ""
        rows.insert(0, (f"[connection options](#connection-options){but}", "", "How to reach the instance."))
    return lines + (table(("option", "default", "what it does"), rows) if rows else [])


def _help(command: click.Command) -> list[str]:
    """The help text, its paragraphs as they stand."""
    return inspect.cleandoc(command.help or "").replace("\b\n", "").splitlines()


def _connection_options(context: click.Context) -> list[str]:
    command = cli.get_command(context, "up")
    assert command is not None
    shared = [each for each in command.params if each.name in CONNECTION_OPTIONS]
    return table(("option", "default", "what it does"), _rows(shared))


def _rows(options: Iterable[click.Parameter]) -> Iterator[tuple[str, str, str]]:
    for option in options:
        if isinstance(option, click.Option) and not option.hidden:
            text = f"{'Required. ' if option.required else ''}{option.help or ''}"
            is_repeatable = option.multiple and "repeatable" not in text
            yield code(_name(option)), _default(option), text + (" Repeatable." if is_repeatable else "")


def _name(option: click.Option) -> str:
    """Its names, and what it takes."""
    names = sorted(option.opts, key=len)
    flags = " / ".join(", ".join(each) for each in (names, option.secondary_opts) if each)
    return flags if option.is_flag or option.count else f"{flags} {option.metavar or _takes(option)}"


def _takes(option: click.Option) -> str:
    kind = option.type
    if isinstance(kind, click.Choice):
        return "|".join(map(str, kind.choices))
    return "N" if isinstance(kind, click.IntRange) else kind.name.upper()


def _default(option: click.Option) -> str:
    default = option.default
    if option.multiple or isinstance(default, bool) or not isinstance(default, str | int | float):
        return ""
    return code(str(default))
