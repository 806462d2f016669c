"""`provision plan`: what `up` would do, with bytes, disk and time, on one screen; changes nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from provision_agent.contract.steps import STEP_NAMES

from . import completing
from .options import (
    Connection,
    configure_logging,
    connection_options,
    instance_of,
    variables_option,
    workflow_option,
)
from .output import say, say_json
from .run_options import default_secrets_option

if TYPE_CHECKING:
    from ..planning.estimate import Estimate, Token

SHOWN_FILES = 24
"""More would not fit on one screen; the largest are shown."""


def rate(text: str) -> float:
    """An option's value as bytes per second: ``80MB``, ``300MiB/s``, or as lines are sold, ``800Mbit``, ``1Gbps``."""
    from ..profile.units import size_bytes

    bits = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kKMG])(?:bit(?:/s)?|bps)", text)
    try:
        found = (
            float(bits[1]) * 1000 ** " kMG".index(bits[2].replace("K", "k")) / 8
            if bits
            else float(size_bytes(text.removesuffix("/s")))
        )
    except ValueError:
        raise click.BadParameter(f"`{text}` is no rate: write `80MB`, `300MiB/s` or `800Mbit`") from None
    if found <= 0:
        raise click.BadParameter("a rate is more than 0")
    return found


@click.command("plan")
@click.argument("name", shell_complete=completing.profiles, metavar="[PROFILE]", required=False)
@connection_options
@click.option(
    "--profile", shell_complete=completing.profiles, metavar="NAME|PATH", help="The same as the argument."
)
@variables_option
@workflow_option
@click.option("--workspace", metavar="PATH", help="The folder on the instance (/workspace).")
@click.option("--skip", type=click.Choice(STEP_NAMES), multiple=True, help="Same as for `up`.")
@click.option("--only", type=click.Choice(STEP_NAMES), multiple=True, help="Same as for `up`.")
@click.option(
    "--rate",
    "rate_bytes_per_s",
    type=rate,
    metavar="RATE",
    help="The line's speed: 80MB, 800Mbit; with --host it is measured otherwise.",
)
@click.option(
    "--price", type=click.FloatRange(min=0), metavar="PER_HOUR", help="What the instance costs per hour."
)
@click.option("--offline", is_flag=True, help="Ask nobody: only what the profile itself says.")
@default_secrets_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    name: str | None,
    connection: Connection,
    profile: str | None,
    variables: tuple[tuple[str, str], ...],
    workflows: tuple[str, ...],
    workspace: str | None,
    skip: tuple[str, ...],
    only: tuple[str, ...],
    rate_bytes_per_s: float | None,
    price: float | None,
    offline: bool,
    default_secrets: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Say what `up` would do with PROFILE: steps, files and their sources, bytes, disk, time, missing tokens.

    Every source is asked about every file: from this machine, or with --host from the instance, which also tells
    what is there already, how much disk is free, and how fast the line is.
    """
    configure_logging(verbose)
    from ..errors import UsageError
    from ..planning.estimate import estimate_of
    from ..planning.prepare import prepare
    from .check import one_profile

    if offline and connection["host"]:
        raise UsageError("`--offline` asks nobody, `--host` asks the instance", hint="give one of them")
    prepared = prepare(
        one_profile("plan", name, profile),
        overrides=dict(variables),
        workflows=workflows,
        workspace=workspace,
        skip=skip,
        only=only,
        default_secrets=default_secrets,
        lists_files=True,
    )
    instance = instance_of(connection) if connection["host"] else None
    measure = instance is not None and rate_bytes_per_s is None
    found = estimate_of(
        prepared.plan,
        None if offline else prepared.ask(instance=instance, measure=measure),
        secrets=prepared.secrets,
        taken_from=prepared.taken_from,
        rate_bytes_per_s=rate_bytes_per_s,
        price_per_hour=price,
        uploads=prepared.listings,
    )
    where = str(instance) if instance else None
    if as_json:
        facts = {"host": where, **found.to_json(), "unresolved": list(prepared.unresolved)}
        say_json(facts)
        return
    for line in screen(found, host=where, width=_width()):
        say(line)
    for sentence in prepared.unresolved:
        say(f"open      {sentence}")


def screen(found: Estimate, *, host: str | None, width: int) -> Iterator[str]:
    """The plan for people, one line at a time."""
    from ..console.text import harmless

    place = f"{host}:{found.workspace}" if host else found.workspace
    yield f"{found.name} → {place}  (plan {found.plan_hash[:12]})"
    yield ""
    yield _row("at once", " · ".join(found.at_once) or "nothing")
    if found.then:
        yield _row("then", " → ".join(found.then))
    if found.files:
        yield ""
        yield from (harmless(line) for line in _files(found, width))
    yield ""
    yield from _sums(found)
    yield from (harmless(line) for line in _troubles(found))


def _files(found: Estimate, width: int) -> Iterator[str]:
    from ..console.text import shortened
    from ..console.units import size

    largest = sorted(found.files, key=lambda file: -(file.size_bytes or 0))[:SHOWN_FILES]
    shown = [file for file in found.files if file in largest]
    hosts = max(len(file.host) for file in shown)
    yield f"{'LEVEL':8}  {'SIZE':>8}  {'STATE':11}  {'SOURCE':{hosts}}  FILE"
    for file in shown:
        bytes_ = size(file.size_bytes) if file.size_bytes is not None else "?"
        head = f"{file.level:8}  {bytes_:>8}  {file.state:11}  {file.host:{hosts}}  "
        yield head + shortened(file.item, max(width - len(head), 20))
    if len(found.files) > len(shown):
        yield f"… and {len(found.files) - len(shown)} smaller ones (--json lists all)"


def _sums(found: Estimate) -> Iterator[str]:
    from ..console.units import counted, duration, size, speed

    unknown = f" and {counted(found.unknown_sizes, 'file')} of unknown size" if found.unknown_sizes else ""
    there = (
        f"; {size(found.there_bytes)} of {size(found.total_bytes)} are there already"
        if found.there_bytes
        else ""
    )
    if found.uploads:
        files, bytes_ = (
            sum(numbers) for numbers in zip(*((u.files, u.bytes) for u in found.uploads), strict=True)
        )
        yield _row("send", f"{size(bytes_)} in {counted(files, 'file')}, less what is there already")
    more = f", and up to {size(found.depends_bytes)} more as the instance is" if found.depends_bytes else ""
    yield _row("fetch", f"{size(found.fetch_bytes)}{unknown}{more}{there}")
    for disk in found.disks:
        free = "" if disk.free_bytes is None else f", {size(disk.free_bytes)} free"
        yield _row(
            "disk",
            f"{size(disk.needed_bytes)} needed on {disk.path}{free}{': TOO SMALL' if disk.is_too_small else ''}",
        )
    if found.complete_s is None or found.usable_s is None:
        yield _row(
            "time",
            "not known: give the line's speed with `--rate`, such as `--rate 500Mbit`, or ask with `--host`",
        )
    else:
        critical = f", what is critical after {duration(found.usable_s)}" if found.critical_bytes else ""
        at = f"at {speed(found.rate_bytes_per_s or 0)} ({found.rate_is})"
        yield _row(
            "time",
            f"{duration(found.complete_s)} for the downloads {at}{critical}; packages are not estimated",
        )
    if found.cost is not None:
        yield _row("cost", f"{found.cost:.2f} for that time, at {found.price_per_hour:g} per hour")
    elif found.price_per_hour is not None:
        yield _row("cost", "not known while the time is not")


def _troubles(found: Estimate) -> Iterator[str]:
    from ..console.units import duration

    if found.complete_s is not None and found.complete_s > found.deadline_s:
        yield _row(
            "deadline",
            f"too short: the run may take {duration(found.deadline_s)}; raise `limits.run`, or `up --timeout`",
        )
    for secret in found.secrets_missing:
        names = " or ".join((secret.name, *secret.aliases))
        wanted = f"; refused without it: {', '.join(secret.files)}" if secret.files else ""
        yield _row("secret", f"{names} is not set ({', '.join(secret.hosts) or 'for commands'}){wanted}")
    for token in found.default_secrets:
        yield _row("secret", f"{token.name} (from {token.taken_from}): {_where_it_goes(token)}")
    for upload in found.uploads:
        if upload.message:
            yield _row("missing", f"{upload.item}: {upload.message}")
    labels = {"fetch": "note", "partial": "note", "unavailable": "missing"}
    for each in found.conditional:
        yield _row(each.state, f"{each.step}: {each.item}: {each.message}")
    told = [
        (f"{labels.get(file.state, file.state)}: {file.message}", file.item)
        for file in found.files
        if file.message
    ]
    told += [(f"repo: {repo.message}", repo.path) for repo in found.repos_failing]
    for reason, items in _by_reason(told).items():
        label, _, message = reason.partition(": ")
        others = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
        yield _row(label, f"{items[0]}{others}: {message}")
    if not found.was_asked:
        yield _row("sources", "nobody was asked (--offline)")


def _where_it_goes(token: Token) -> str:
    hosts = " and ".join(token.hosts)
    if token.is_wanted is None:
        return f"goes to {hosts} if something is refused there without it"
    if token.is_wanted:
        return f"goes to the instance, and from there to {hosts}, which refused something without it"
    return f"stays here: nothing was refused on {hosts} without it"


def _by_reason(told: list[tuple[str, str]]) -> dict[str, list[str]]:
    """One trouble that hits many items is said once; messages that differ in a URL only are one trouble."""
    groups: dict[str, tuple[str, list[str]]] = {}
    for reason, item in told:
        key = re.sub(r"'?https?://\S+", "", reason)
        groups.setdefault(key, (reason, []))[1].append(item)
    return dict(groups.values())


def _row(label: str, text: str) -> str:
    return f"{label:8}  {text}"


def _width() -> int:
    import shutil

    return shutil.get_terminal_size((110, 40)).columns if sys.stdout.isatty() else 200
