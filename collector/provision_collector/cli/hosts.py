"""``provision hosts``: host keys that were seen first by this tool."""

from __future__ import annotations

import json
from pathlib import Path

import click

_FILE = click.option("--known-hosts", metavar="PATH", help="Another file than the tool's own.")


@click.group("hosts")
def command() -> None:
    """Known host keys: list them, forget one."""


@command.command("list")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def list_(*, known_hosts: str | None, as_json: bool) -> None:
    """List the keys that were accepted on first sight."""
    from ..instance.hostkeys import entries

    for name, algorithm, fingerprint in entries(_file(known_hosts)):
        row = {"host": name, "algorithm": algorithm, "fingerprint": fingerprint}
        click.echo(json.dumps(row) if as_json else f"{name}  {algorithm}  {fingerprint}")


@command.command("forget")
@click.argument("host")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="How many keys were removed, as JSON.")
def forget(*, host: str, known_hosts: str | None, as_json: bool) -> None:
    """Forget the key of HOST: HOST, HOST:PORT, [HOST]:PORT, or the name that `hosts list` shows."""
    from ..errors import UsageError
    from ..instance import Instance
    from ..instance.hostkeys import entry_name
    from ..instance.hostkeys import forget as forget_names

    names = {host, f"instance-{host}"}
    try:
        instance = Instance.parse(host)
        names.add(entry_name(instance, instance.host, instance.port or 22))
    except UsageError:
        pass  # a pattern of the file's own, taken as it is
    removed = forget_names(_file(known_hosts), names)
    click.echo(
        json.dumps({"host": host, "removed": removed}) if as_json else f"{removed} key(s) of {host} forgotten"
    )
    if not removed:
        raise UsageError(f"no key of `{host}` is kept", hint="`provision hosts list` shows the names")


def _file(given: str | None) -> Path:
    from ..instance.hostkeys import own_file

    return Path(given).expanduser() if given else own_file()
