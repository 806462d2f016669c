"""``provision fleet``: one profile on many instances at once."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from .last_word import LAST_WORD
from .options import (
    Connection,
    configure_logging,
    gone_check_option,
    login_options,
    profile_option,
    unlock_keys,
    variables_option,
)
from .output import say, say_json, tell, terminal_width
from .output_options import outputs_options
from .run_options import RunOptions, prepared, run_options
from .signals import on_signals

if TYPE_CHECKING:
    from ..console.fleet_live import FleetProgress, FleetView, Instance
    from ..pool.fleet import Fleet, Member, Target
    from ..run.spec import OutputsHere


class Options(RunOptions):
    """What `fleet up` is told besides the instances."""

    profile: str
    variables: tuple[tuple[str, str], ...]
    name: str | None
    parallel: int
    canary: int
    stop_after: int | None
    per_source_host: int | None
    outputs: OutputsHere | None
    gone_check: str | None
    on_usable: tuple[str, ...]
    on_finished: tuple[str, ...]


@click.group("fleet")
def command() -> None:
    """Bring many instances up at once, and see how they are."""


@command.command("up")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--host", "hosts", multiple=True, metavar="[USER@]HOST[:PORT]", help="An instance; repeatable.")
@login_options
@profile_option("What every instance must have.", required=True)
@variables_option
@click.option("--name", metavar="NAME", help="The fleet's name (FILE's, else the profile's).")
@click.option(
    "--parallel", type=click.IntRange(1, 1000), default=50, show_default=True, help="Runs at once, at most."
)
@click.option(
    "--canary",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="So many first; the rest when they are good.",
)
@click.option("--stop-after", type=click.IntRange(1), metavar="N", help="Stop the rest when N fail alike.")
@click.option(
    "--per-source-host",
    type=click.IntRange(1),
    metavar="N",
    help="Waves: so many instances fetch from one host (huggingface.co, say) at once; the next begin as those are done.",
)
@run_options
@outputs_options
@gone_check_option
@click.option("--on-usable", multiple=True, metavar="COMMAND|URL", help="Told when an instance is usable.")
@click.option("--on-finished", multiple=True, metavar="COMMAND|URL", help="Told how a run ended.")
@click.option("--json", "as_json", is_flag=True, help="Every event and outcome as JSON Lines on stdout.")
@click.option("--quiet", "-q", is_flag=True, help="Only the table.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def up(
    *,
    file: Path | None,
    hosts: tuple[str, ...],
    connection: Connection,
    labels: tuple[tuple[str, str], ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Unpack[Options],
) -> None:
    """Bring the instances in FILE and those of --host to what a profile says.

    FILE has one address per line, or a YAML list. The same command again takes up what is unfinished, leaves what
    is complete, and tries the rest once more. The exit code is the worst of them.
    """
    configure_logging(verbose)
    from ..errors import UsageError
    from ..pool.descriptors import allow_many_files

    LAST_WORD.concerns(labels=dict(labels))
    allow_many_files()
    targets = _targets(file, hosts, connection, dict(labels))
    if not targets:
        raise UsageError("which instances?", hint="give FILE, or `--host` once per instance")
    teller = _Teller(as_json=as_json, quiet=quiet, verbose=verbose)
    fleet = _fleet(targets, options, file, teller)
    with teller.watching(fleet):
        code = asyncio.run(_up(fleet))
    if as_json:
        facts = {
            "event": "fleet_finished",
            "fleet": fleet.name,
            "exit_code": code,
            "held_because": fleet.held_because,
        }
        say_json({**facts, "members": [vars(member) for member in fleet.members]})
        LAST_WORD.is_said = True
    else:
        _print_table(fleet.members)
    if fleet.held_because is not None:
        tell(
            f"provision: the rest was held: {fleet.held_because}\n  next: mend that, then the same command again"
        )
    if code in (130, 143):
        tell("the runs go on: the same command takes them up again")
    sys.exit(code)


@command.command("status")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per instance and line.")
def status(*, name: str | None, as_json: bool) -> None:
    """Show the instances of the fleet NAME (of the one that changed last when left out)."""
    from ..errors import UsageError
    from ..pool.fleet import fleet_names, read_members

    names = [name] if name is not None else fleet_names()[:1]
    if not names:
        raise UsageError("no fleet is known here", hint="`provision fleet up` makes one")
    members = read_members(names[0])
    if as_json:
        for member in members:
            say_json({"fleet": names[0], **vars(member)})
    else:
        _print_table(members)


def _targets(
    file: Path | None, hosts: tuple[str, ...], login: Connection, labels: dict[str, str]
) -> list[Target]:
    from dataclasses import replace

    from ..instance import Instance
    from ..pool.fleet import Target, read_targets

    given = {name: value for name, value in login.items() if value is not None}
    targets = read_targets(file, given) if file is not None else []
    targets += [Target(Instance.parse(host, **given)) for host in hosts]
    unlock_keys([target.instance for target in targets])
    return [replace(target, labels={**labels, **target.labels}) for target in targets]


def _fleet(targets: list[Target], options: Options, file: Path | None, teller: _Teller) -> Fleet:
    from ..pool.fleet import Fleet, Rules
    from ..pool.gone import gone_check
    from ..pool.hooks import Hook

    wanted = prepared(options["profile"], dict(options["variables"]), options)
    for warning in wanted.warnings if not teller.is_quiet else ():
        tell(f"provision: warning: {warning}")
    rules = Rules(
        parallel=options["parallel"],
        canary=options["canary"],
        stop_after=options["stop_after"],
        per_source_host=options["per_source_host"],
        replace=options["replace"],
        gone_check=gone_check(options["gone_check"]),
        hooks=(
            *(Hook.parse("usable", text) for text in options["on_usable"]),
            *(Hook.parse("finished", text) for text in options["on_finished"]),
        ),
        uploads=wanted.uploads,
        outputs=options["outputs"],
    )
    return Fleet(
        options["name"] or (file.stem if file is not None else wanted.plan.name),
        wanted.plan,
        targets,
        secrets={**wanted.bucket_values, **wanted.secrets},
        buckets=wanted.profile.buckets,
        logs_dir=Path(options["logs_dir"]),
        rules=rules,
        tell=teller,
    )


async def _up(fleet: Fleet) -> int:
    """The fleet's exit code; 130 or 143 when a signal ended the watching, while the runs go on."""
    work = asyncio.create_task(fleet.up())
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        work.cancel()

    on_signals(leave, (signal.SIGINT, signal.SIGTERM))
    try:
        return await work
    except asyncio.CancelledError:
        if not codes:
            raise
        return codes[0]


class _Teller:
    """Says what happens: every event as JSON; a table on a terminal; else a line for what a person waits for."""

    def __init__(self, *, as_json: bool, quiet: bool, verbose: bool) -> None:
        self._as_json = as_json
        self.is_quiet = quiet
        self._is_verbose = verbose
        self._progress: FleetProgress | None = None
        self._view: FleetView | None = None

    @contextmanager
    def watching(self, fleet: Fleet) -> Iterator[None]:
        """Show how far *fleet* is, until this ends."""
        from .watch import mode_for

        mode = mode_for(json=self._as_json, quiet=self.is_quiet, verbose=self._is_verbose)
        if mode not in ("live", "plain"):
            yield
            return
        from ..console.fleet_live import FleetProgress, FleetView

        self._progress = FleetProgress(lambda: map(_shown, fleet.members))
        if mode == "plain":
            yield
            return
        with FleetView(self._progress, sys.stderr) as self._view:
            yield
        self._view = None

    def __call__(self, member: Member, event: Mapping[str, object]) -> None:
        if self._as_json:
            say_json({**event, "host": member.host})
            return
        if self._progress is None:
            return
        self._progress.take(member.key, member.host, event)
        line = _line(event)
        if self._view is not None:
            if line and event["event"] == "outcome" and event["exit_code"] != 0:
                self._view.tell(f"{member.host}: {line}")
        elif line:
            tell(f"{member.host}: {line}")
        elif total := self._progress.line_if_due():
            tell(total)


def _shown(member: Member) -> Instance:
    from ..console.fleet_live import Instance

    why = (member.fingerprint or "").partition(": ")[2] or member.message
    return Instance(member.key, member.host, member.state, why)


def _line(event: Mapping[str, object]) -> str | None:
    from ..console.values import children, number, text

    name = event["event"]
    if name == "run_accepted":
        return "begins"
    if name == "connecting":
        return f"not reachable yet ({text(event, 'cause')})"
    if name == "run_usable":
        return f"usable after {number(event, 'after_s'):.0f} s"
    if name == "outcome":
        first = next(iter(children(event, "errors")), None)
        why = f": {_what(first)}{text(first, 'message')}" if first else ""
        advice = "" if event["next"] == "none" else f" (next: {text(event, 'next')})"
        return f"{text(event, 'verdict')}{why}{advice}"
    return None


def _what(error: Mapping[str, object]) -> str:
    """Which item failed, and how; nothing where it is the instance as a whole, whose verdict says it."""
    from ..console.values import text

    return "" if text(error, "item") == "instance" else f"{text(error, 'class')} {text(error, 'item')}: "


def _print_table(members: list[Member]) -> None:
    from ..console import harmless
    from ..console.fleet_table import Ended, ended_lines
    from ..console.units import duration as shown

    rows = [
        Ended(
            *map(
                harmless,
                (
                    member.host if member.key == member.host else f"{member.key} ({member.host})",
                    member.state,
                    "" if member.exit_code is None else member.exit_code,
                    "" if member.usable_after_s is None else shown(member.usable_after_s),
                    "" if member.duration_s is None else shown(member.duration_s),
                    "" if member.next in (None, "none") else member.next,
                    member.run or "",
                    member.message or (member.fingerprint or "").partition(": ")[2],
                ),
            )
        )
        for member in members
    ]
    for line in ended_lines(rows, terminal_width()):
        say(line)
