"""Words of the command line that a shell can complete: runs and hosts that this machine knows, built-in profiles."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

Items = list["CompletionItem[str]"]
MAX_SHOWN = 100
MAX_CONFIG_BYTES = 1 << 20
_HOST_LINE = re.compile(r"(?im)^[ \t]*host(?:[ \t]*=[ \t]*|[ \t]+)(.+)$")


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The runs that this machine knows, newest first."""
    from ..console import harmless
    from ..run import registry

    pairs = [
        (record.run, f"{harmless(record.profile)} on {record.to_instance()}")
        for record in registry.all_runs()
    ]
    return _items(pairs, incomplete)


def profiles(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The built-in profiles, and what the shell knows of files."""
    from ..profile.library import named_profiles

    named = _items([(name, "built in") for name in named_profiles()], incomplete)
    return [*named, CompletionItem(incomplete, type="file")]


def hosts(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The hosts of the runs that this machine knows, and those of ~/.ssh/config."""
    from ..run import registry

    pairs = [(str(record.to_instance()), f"run {record.run}") for record in registry.all_runs()]
    pairs += [(name, "~/.ssh/config") for name in _configured()]
    return _items(pairs, incomplete)


def _configured() -> list[str]:
    """The names of ~/.ssh/config that are no patterns."""
    with suppress(OSError), (Path.home() / ".ssh/config").open(errors="replace") as file:
        lines = _HOST_LINE.findall(file.read(MAX_CONFIG_BYTES))
        return [word for line in lines for word in line.split() if not set(word) & set("*?!\"'")]
    return []


def _items(pairs: Iterable[tuple[str, str]], incomplete: str) -> Items:
    fitting: dict[str, str] = {}
    for name, words in pairs:
        if name.startswith(incomplete):
            fitting.setdefault(name, words)
    return [CompletionItem(name, help=words) for name, words in list(fitting.items())[:MAX_SHOWN]]
