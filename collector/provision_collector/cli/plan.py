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
    profile_option,
    variables_option,
    workflow_option,
)
from .output import say, say_json
from .run_options import default_secrets_option
from .target_options import TargetWords, target_options

if TYPE_CHECKING:
    from ..instance import Instance
    from ..planning.answers import Survey
    from ..planning.estimate import Estimate
    from ..planning.packages import Packages
    from ..planning.prepare import Prepared
    from ..planning.secrets_wanted import Token

MEASURED_FROM_BYTES = 8 << 20
"""The instance measures the line with no smaller file."""
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
@profile_option("The same as the argument.")
@variables_option
@workflow_option
@target_options
@click.option("--locked", is_flag=True, help="As `up --locked` would do it.")
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
    words: TargetWords,
    locked: bool,
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
    """Say what `up` would do with PROFILE: steps, files and packages and their sources, bytes, disk, time, missing tokens.

    Every source is asked about every file: from this machine, or with --host from the instance, which also tells
    what is there already, how much disk is free, and how fast the line is. Packages are those of the instance, or of
    the machine that --python and --accelerator describe. Ends with 0, with 1 (the disk is too small, or something critical
    cannot be had) or with 5 (something required cannot be had). What nobody knows is said to be unknown.
    """
    if not offline:  # else there is nothing to log
        configure_logging(verbose)
    from ..planning.estimate import estimate_of
    from ..planning.prepare import prepare
    from .check import one_profile

    prepared = prepare(
        one_profile("plan", name, profile),
        overrides=dict(variables),
        workflows=workflows,
        locked=locked,
        workspace=workspace,
        skip=skip,
        only=only,
        default_secrets=default_secrets,
        lists_files=True,
    )
    instance = instance_of(connection) if connection["host"] else None
    surveyed = _asked(prepared, instance, words, is_offline=offline, measure=rate_bytes_per_s is None)
    found = estimate_of(
        prepared.plan,
        surveyed,
        secrets=prepared.secrets,
        taken_from=prepared.taken_from,
        rate_bytes_per_s=rate_bytes_per_s,
        price_per_hour=price,
        uploads=prepared.listings,
    )
    _print(found, prepared, host=str(instance) if instance else None, as_json=as_json)
    if found.exit_code:
        sys.exit(found.exit_code)


def _asked(
    prepared: Prepared, instance: Instance | None, words: TargetWords, *, is_offline: bool, measure: bool
) -> Survey | None:
    """What the sources say; None where nobody is to be asked."""
    from ..errors import UsageError

    target = words.target(prepared.plan, host=str(instance) if instance else None)
    if is_offline and (instance is not None or target is not None):
        other = "`--host` asks the instance" if instance else "packages are known by their indexes"
        raise UsageError(f"`--offline` asks nobody, {other}", hint="give one of them")
    if is_offline:
        return None
    return prepared.ask(
        instance=instance, packages=True, measure=measure and instance is not None, target=target
    )


def _print(found: Estimate, prepared: Prepared, *, host: str | None, as_json: bool) -> None:
    if as_json:
        say_json({"host": host, **found.to_json(), "unresolved": list(prepared.unresolved)})
        return
    for line in screen(found, host=host, width=_width()):
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
    yield from _sums(found, is_asked=host is not None)
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


def _sums(found: Estimate, *, is_asked: bool) -> Iterator[str]:
    from ..console.units import counted, size

    of_unknown = counted(found.unknown_sizes, "file") + " of unknown size" if found.unknown_sizes else ""
    there = (
        f"; {size(found.there_bytes)} of {_bytes(found.total_bytes)} are there already"
        if found.there_bytes
        else ""
    )
    if found.uploads:
        files, bytes_ = (
            sum(numbers) for numbers in zip(*((u.files, u.bytes) for u in found.uploads), strict=True)
        )
        yield _row("send", f"{size(bytes_)} in {counted(files, 'file')}, less what is there already")
    more = f", and up to {size(found.depends_bytes)} more as the instance is" if found.depends_bytes else ""
    if found.fetch_bytes is None:
        yield _row("fetch", f"unknown: {of_unknown}{more}{there}")
    elif found.files or found.packages.basis == "none":
        and_unknown = f" and {of_unknown}" if of_unknown else ""
        yield _row("fetch", f"{size(found.fetch_bytes)}{and_unknown}{more}{there}")
    yield from _packages(found.packages)
    for disk in found.disks:
        if disk.needed_bytes == 0 and not disk.is_too_small:
            continue
        needed = (
            "unknown"
            if disk.needed_bytes is None
            else f"{_least(disk.is_least)}{size(disk.needed_bytes)} needed"
        )
        free = "" if disk.free_bytes is None else f", {size(disk.free_bytes)} free"
        yield _row("disk", f"{needed} on {disk.path}{free}{': TOO SMALL' if disk.is_too_small else ''}")
    yield from _time(found, is_asked=is_asked)


def _packages(packages: Packages) -> Iterator[str]:
    from ..console.text import harmless
    from ..console.units import counted

    if packages.basis == "none":
        return
    target = f" ({packages.target})" if packages.target else ""
    if packages.count is None:
        yield _row("packages", harmless(f"unknown{target}: {packages.message}"))
        return
    there = f", {packages.present} of them there already" if packages.present else ""
    fetch, unpacked = _bytes(packages.fetch_bytes), _bytes(packages.unpacked_bytes)
    more = f"; {counted(packages.unknown_sizes, 'package')} of unknown size" if packages.unknown_sizes else ""
    sums = f": {fetch} to fetch, {unpacked} on the disk{more}" if packages.count != packages.present else ""
    locked = ", locked" if packages.basis == "locked" else ""
    yield _row("packages", f"{packages.count}{there}{sums}{target}{locked}")
    if packages.torch:
        yield _row("torch", harmless(packages.torch))
    for line in packages.left_out[:SHOWN_FILES]:
        yield _row("left out", harmless(line))


def _not_measured(found: Estimate, *, is_asked: bool) -> str:
    """Why the line's speed is not known, and how it would be."""
    rate = "give the line's speed with `--rate`, such as `--rate 500Mbit`"
    if not is_asked:
        return f"{rate}, or ask with `--host`"
    is_large = any((file.size_bytes or 0) >= MEASURED_FROM_BYTES for file in found.files)
    why = "the source of the largest file gave nothing" if is_large else "no file is large enough (8 MiB)"
    return f"{why} to measure the line with; {rate}"


def _time(found: Estimate, *, is_asked: bool) -> Iterator[str]:
    from ..console.units import duration, speed

    least = _least(found.is_least)
    if found.complete_s is None or found.usable_s is None:
        why = (
            _not_measured(found, is_asked=is_asked)
            if found.rate_bytes_per_s is None
            else "the sizes of what is fetched are not known"
        )
        yield _row("time", f"unknown: {why}")
    elif found.complete_s == 0 and not found.is_least:
        yield _row("time", "nothing is to be fetched")
    else:
        has_critical = found.critical_bytes or found.packages.fetch_bytes
        critical = f", what is critical after {duration(found.usable_s)}" if has_critical else ""
        at = f"at {speed(found.rate_bytes_per_s or 0)} ({found.rate_is})"
        yield _row("time", f"{least}{duration(found.complete_s)} to fetch it all {at}{critical}")
    if found.cost is not None:
        cost = f"{found.cost:.2f}" if found.cost >= 0.005 or not found.complete_s else "less than 0.01"
        yield _row("cost", f"{least}{cost} for that time, at {found.price_per_hour:g} per hour")
    elif found.price_per_hour is not None:
        yield _row("cost", "unknown while the time is")


def _bytes(count: int | None) -> str:
    from ..console.units import size

    return "unknown" if count is None else size(count)


def _least(is_least: bool) -> str:
    return "at least " if is_least else ""


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
