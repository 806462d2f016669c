"""``provision collect``: mirror the log of any script on an instance; no agent, no profile."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from .last_word import LAST_WORD
from .options import Connection, configure_logging, connection_options, duration, instance_of, profile_option
from .output import say, tell, ticker
from .signals import on_signals

if TYPE_CHECKING:
    from ..collect.collect import CollectOrder, LogToCollect
    from ..collect.markers import Markers
    from ..instance import Instance
    from ..run.outcome import Outcome


class Limits(TypedDict):
    """The options that go to the order as they are."""

    timeout_s: float
    max_attempts: int
    max_mirror_bytes: int | None
    poll_interval_s: float


def size(text: str) -> int:
    """An option's value as bytes: a number, or ``100MiB 6.9GB``."""
    from ..profile.units import size_bytes

    try:
        return size_bytes(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("collect")
@connection_options
@click.option(
    "--remote-log",
    "--remote-log-path",
    "remote_logs",
    required=True,
    multiple=True,
    metavar="PATH",
    help="The log on the instance; repeatable.",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="FILE",
    help="The local mirror, one for each log; an existing one is continued.",
)
@click.option("--contract-id", metavar="ID", help="Names the default output and the events.")
@click.option(
    "--logs-dir", default="logs", show_default=True, metavar="DIR", help="Where the default output goes."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=duration,
    default="3600",
    metavar="SECONDS",
    help="When to give up, in seconds or as 30m (3600).",
)
@click.option(
    "--max-attempts",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Failed reconnects in a row; 0 means until the timeout.",
)
@click.option(
    "--marker-success",
    "success",
    multiple=True,
    metavar="TEXT",
    help="A line with it ends this with 0; repeatable, replaces the defaults.",
)
@click.option(
    "--marker-failure",
    "failure",
    multiple=True,
    metavar="TEXT",
    help="A line with it ends this with 1; repeatable, replaces the defaults.",
)
@profile_option("Take this profile's markers.")
@click.option(
    "--max-mirror-size",
    "max_mirror_bytes",
    type=size,
    default="10GiB",
    show_default=True,
    metavar="SIZE",
    help="A mirror becomes no longer.",
)
@click.option(
    "--poll-interval",
    "poll_interval_s",
    type=duration,
    default="2",
    metavar="SECONDS",
    help="How often to look where the instance has no python3 (2).",
)
@click.option("--json", "as_json", is_flag=True, help="Events and the outcome as JSON Lines on stdout.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    connection: Connection,
    remote_logs: tuple[str, ...],
    outputs: tuple[str, ...],
    contract_id: str | None,
    logs_dir: str,
    success: tuple[str, ...],
    failure: tuple[str, ...],
    profile: str | None,
    as_json: bool,
    verbose: bool,
    **limits: Unpack[Limits],
) -> None:
    """Mirror logs of an instance byte for byte, until a line in one of them says how it ended.

    Works with any script: nothing is installed, started or stopped there. Run the same command again to go on
    where it stopped: nothing is lost and nothing comes twice.
    """
    configure_logging(verbose)
    from dataclasses import replace

    from ..collect.collect import CollectOrder
    from ..errors import UsageError

    instance = instance_of(connection, waits_for_boot=True)
    if connection["contact_timeout_s"] is None:
        instance = replace(instance, contact_timeout_s=limits["timeout_s"])
    name = contract_id or re.sub(r"[^A-Za-z0-9._-]+", "-", str(instance)).strip("-.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(
            f"`{name}` cannot name a file", hint="a `--contract-id` is letters, digits, `.`, `_`, `-`"
        )
    order = CollectOrder(
        logs=_pairs(remote_logs, outputs, Path(logs_dir), name),
        markers=_markers(success, failure, profile),
        contract_id=name,
        **limits,
    )
    sys.exit(asyncio.run(_collect(instance, order, as_json=as_json)))


def _pairs(
    remote_logs: tuple[str, ...], outputs: tuple[str, ...], logs_dir: Path, name: str
) -> tuple[LogToCollect, ...]:
    from ..collect.collect import LogToCollect
    from ..errors import UsageError

    if outputs and len(outputs) != len(remote_logs):
        raise UsageError(
            f"{len(remote_logs)} logs and {len(outputs)} outputs",
            hint="give one `--output` for each `--remote-log`",
        )
    stem = f"provision_{name}_{int(time.time())}"
    chosen = [Path(output) for output in outputs] or [
        logs_dir / (f"{stem}.log" if not number else f"{stem}.{number}.{_file_name(remote)}")
        for number, remote in enumerate(remote_logs)
    ]
    for kind, values in (("output", [path.absolute() for path in chosen]), ("log", list(remote_logs))):
        if len(set(values)) != len(values):
            raise UsageError(f"the same {kind} is given twice", hint="each log has one output of its own")
    for remote in remote_logs:
        if not remote.startswith("/") or "\n" in remote:
            raise UsageError(f"`{remote}` is not an absolute path", hint="begin `--remote-log` with a `/`")
    return tuple(LogToCollect(remote, output) for remote, output in zip(remote_logs, chosen, strict=True))


def _file_name(remote: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", PurePosixPath(remote).name) or "log"


def _markers(success: tuple[str, ...], failure: tuple[str, ...], profile: str | None) -> Markers:
    from ..collect.markers import Markers
    from ..errors import UsageError

    if not all(text.strip() and "\n" not in text for text in (*success, *failure)):
        raise UsageError("a marker is a part of one line", hint="give some text with `--marker-success`")
    if profile is None:
        return Markers.of(success, failure)
    from ..profile import load_profile

    named = load_profile(profile).markers
    return Markers.of(success or tuple(named.success), failure or tuple(named.failure))


async def _collect(instance: Instance, order: CollectOrder, *, as_json: bool) -> int:
    from ..collect.collect import collect
    from ..console import view_for

    leave, codes = asyncio.Event(), []

    def stop(exit_code: int) -> None:
        codes.append(exit_code)
        leave.set()

    on_signals(stop)
    if as_json:
        with view_for("json", host=str(instance), stdout=sys.stdout, stderr=sys.stderr) as view:
            outcome = await collect(instance, order, on_event=view.event, leave=leave)
            outcome["exit_code"] = (
                codes[0] if codes and outcome["verdict"] == "cancelled" else outcome["exit_code"]
            )
            view.outcome(outcome)
            LAST_WORD.is_said = True
    else:
        outcome = await _collected_on_terminal(instance, order, leave)
        _say_outcome(outcome, order)
    return codes[0] if codes and outcome["verdict"] == "cancelled" else int(outcome["exit_code"])


async def _collected_on_terminal(instance: Instance, order: CollectOrder, leave: asyncio.Event) -> Outcome:
    """Collect with words for people; on a terminal with a line that says how far it is."""
    from ..collect.collect import collect

    if not sys.stderr.isatty():
        return await collect(instance, order, on_event=_say, leave=leave)
    from .collect_ticker import keep_ticking

    mirrors = [log.output for log in order.logs]
    ticking = asyncio.create_task(keep_ticking(mirrors, timeout_s=order.timeout_s))

    def say(event: Mapping[str, object]) -> None:
        ticker("")
        _say(event)

    try:
        return await collect(instance, order, on_event=say, leave=leave)
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)


def _say(event: Mapping[str, object]) -> None:
    from ..console import harmless

    words = {
        "connecting": "still booting? {cause}; waited {waited_s} s of {gives_up_after_s} s at most",
        "connected": "connected to {host}",
        "connection_lost": "connection lost: {cause}; trying again",
        "log_missing": "`{file}` is not there yet: waiting for it",
        "log_found": "`{file}` is there now",
        "gap": "warning: {bytes} bytes of `{file}` are lost for ever: deleted before they could be read",
        "warning": "warning: {message}",
        "marker_found": "{kind}: {line}",
    }
    text = words.get(str(event["event"]))
    if text is not None:
        known = {key: "some" if value is None else value for key, value in event.items()}
        tell(f"provision: {harmless(text.format_map(known))}")


def _say_outcome(outcome: Mapping[str, object], order: CollectOrder) -> None:
    from ..console.values import children, text

    for error in children(outcome, "errors"):
        tell(f"provision: {text(error, 'message')}")
        if error.get("hint"):
            tell(f"  next: {text(error, 'hint')}")
    for log in order.logs:
        say(f"{outcome['verdict']}: {log.output}{_amount(log.output) if sys.stdout.isatty() else ''}")


def _amount(mirror: Path) -> str:
    """How much is in *mirror*, in brackets; empty where it was never made."""
    from ..console.units import size as shown

    return f" ({shown(mirror.stat().st_size)})" if mirror.exists() else ""
