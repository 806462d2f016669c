"""``provision hosts``: host keys that were seen first by this tool, and scorecards of the instances."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import say, say_json

if TYPE_CHECKING:
    from ..pool.scorecard import Scorecard

_FILE = click.option("--known-hosts", metavar="PATH", help="Another file than the tool's own.")


@click.group("hosts")
def command() -> None:
    """Known host keys and scorecards: list them, forget those of one host."""


@command.command("list")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def list_(*, known_hosts: str | None, as_json: bool) -> None:
    """List the keys that were accepted on first sight."""
    from ..instance.host_keys import entries

    for name, algorithm, fingerprint in entries(_file(known_hosts)):
        row = {"host": name, "algorithm": algorithm, "fingerprint": fingerprint}
        if as_json:
            say_json(row)
        else:
            say(f"{name}  {algorithm}  {fingerprint}")


@command.command("scores")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def scores(*, as_json: bool) -> None:
    """Show what the runs of each instance say about the machine: verdicts, speed, stalls."""
    from ..pool.scorecard import scorecards

    for card in scorecards():
        if as_json:
            say_json(asdict(card))
        else:
            say(_in_words(card))


def _in_words(card: Scorecard) -> str:
    from ..console import harmless
    from ..console.units import duration, speed

    words = [f"{count} {verdict}" for verdict, count in card.verdicts.items()]
    if card.usable_after_s is not None:
        words.append(f"usable after {duration(card.usable_after_s)}")
    rates = {host: source.bytes_per_s for host, source in card.sources.items()}
    words += [f"{host} {speed(rate)}" for host, rate in rates.items() if rate]
    for name, what in (("line_bytes_per_s", "line"), ("disk_write_bytes_per_s", "disk")):
        figure = card.measured.get(name)
        words += [f"{what} {speed(figure)}"] if isinstance(figure, int | float) else []
    counts = {"stalls": card.stalls, "reconnects": card.reconnects}
    words += [f"{count} {what}" for what, count in counts.items() if count]
    name = card.instance if card.instance == card.host else f"{card.instance} ({card.host})"
    return harmless(f"{name}  {', '.join(words)}")


@command.command("forget")
@click.argument("host")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="How many keys were removed, as JSON.")
def forget(*, host: str, known_hosts: str | None, as_json: bool) -> None:
    """Forget the key and the scorecard of HOST: HOST, HOST:PORT, [HOST]:PORT, or the name that `hosts list` shows."""
    from ..errors import UsageError
    from ..instance import Instance
    from ..instance.host_keys import entry_name
    from ..instance.host_keys import forget as forget_names
    from ..pool.scorecard import forget as forget_scorecard

    names = {host, f"instance-{host}"}
    try:
        instance = Instance.parse(host)
        names.add(entry_name(instance, instance.host, instance.port or 22))
    except UsageError:
        pass  # a pattern of the file's own, taken as it is
    removed = forget_names(_file(known_hosts), names)
    had_scorecard = forget_scorecard(host)
    if not removed and not had_scorecard:
        raise UsageError(f"nothing of `{host}` is kept", hint="`provision hosts list` shows the names")
    if as_json:
        say_json({"host": host, "removed": removed})
    else:
        say(f"{removed} key(s) of {host} forgotten")


def _file(given: str | None) -> Path:
    from ..instance.host_keys import own_file

    return Path(given).expanduser() if given else own_file()
