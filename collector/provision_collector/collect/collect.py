"""Mirror the logs of somebody else's script on an instance, until a line in one of them says how it ended.

The mirrors are exact and survive everything: the same order again goes on where they end. Nothing is installed on
the instance; the follower's source goes through stdin, and where there is no python3, `tail` has to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from provision_agent.contract import verdicts
from provision_agent.contract.status import RunState

from ..errors import HostUnreachableError, LocalMachineError, ProtocolFaultError, ProvisionError
from ..instance import Connection, Flag, Instance, Link, refusal
from ..mirror import (
    Begun,
    FileFacts,
    FollowSession,
    Gap,
    GarbledSessions,
    LinkLostError,
    Listener,
    Mirror,
    heartbeat_s,
)
from ..run.events import LocalEvents
from ..run.outcome import Outcome, outcome_of
from ..storage import in_thread
from .marker_log import MarkedLog
from .markers import Markers, Match
from .polled import ShellSession
from .sender import follower_command, follower_program

DRAIN_S = 30.0
"""So long after the marker what is still in the remote log is waited for."""
HELLOS = 2
"""So often a first command may stay without an answer."""
PROBE_EVERY_S = 300.0
"""A key that was revoked is found by a fresh connection only."""

OnEvent = Callable[[dict[str, object]], None]


@dataclass(frozen=True)
class LogToCollect:
    """One remote log and the local file that mirrors it."""

    remote: str
    output: Path


@dataclass(frozen=True)
class CollectOrder:
    """What to collect and when to stop. `max_attempts`: failed reconnects in a row; 0 means until the timeout."""

    logs: tuple[LogToCollect, ...]
    markers: Markers = field(default_factory=Markers)
    contract_id: str = ""
    timeout_s: float = 3600.0
    max_attempts: int = 0
    max_mirror_bytes: int | None = 10 << 30
    poll_interval_s: float = 2.0
    probe_every_s: float = PROBE_EVERY_S
    ends_when_read: bool = False
    """End as `complete` once everything that is there now has come, whatever it says."""


_going = 0
"""So many hosts are followed by this process."""


async def collect(
    instance: Instance, order: CollectOrder, *, on_event: OnEvent, leave: asyncio.Event | None = None
) -> Outcome:
    """Mirror the logs of *order* until a marker, the timeout, or the loss of the instance; returns the outcome.

    Args:
        on_event: Called with each event but the outcome.
        leave: Set it to end as `cancelled`. However it ends, the same order continues the mirrors.
    """
    global _going
    _going += 1
    try:
        return await _Collection(instance, order, on_event).run(leave or asyncio.Event())
    finally:
        _going -= 1


class _Collection(Listener):
    """The course of one `collect`."""

    def __init__(self, instance: Instance, order: CollectOrder, on_event: OnEvent) -> None:
        self._instance = instance
        self._order = order
        self._on_event = on_event
        self._events = LocalEvents(order.contract_id)
        self._logs: list[MarkedLog] = []
        self._session: FollowSession | ShellSession | None = None
        self._match: tuple[MarkedLog, Match] | None = None
        self._done = Flag()
        self._has_python = True
        self._was_in = False
        self._unanswered = 0
        self._garbled = GarbledSessions()
        self._link = Link(
            instance,
            self._emit,
            max_attempts=order.max_attempts,
            way_back="the same command goes on where it stopped",
        )
        self._warnings: list[str] = []
        self._began = time.monotonic()

    async def run(self, leave: asyncio.Event) -> Outcome:
        error: ProvisionError | None = None
        self._emit("run_accepted", host=str(self._instance))
        work, leaving = asyncio.create_task(self._work()), asyncio.create_task(leave.wait())
        try:
            await asyncio.wait(
                (work, leaving), timeout=self._order.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if work.done():
                await work
            elif not leaving.done():
                error = self._timed_out()
        except ProvisionError as problem:
            error = problem.of_a_run() if isinstance(problem, ProtocolFaultError) else problem
        finally:
            for task in (work, leaving):
                task.cancel()
            await asyncio.gather(work, leaving, return_exceptions=True)
            self._link.drop()
            error = await self._close_mirrors() or error
        return self._outcome(error)

    async def _work(self) -> None:
        for log in self._order.logs:
            made = await in_thread(
                MarkedLog,
                log.remote,
                log.output,
                self._order.markers,
                max_bytes=self._order.max_mirror_bytes,
            )
            self._logs.append(made)
        for made in self._logs:
            if await self._take_matches(made):
                return  # it was said before this process began
        await self._link.connected()
        probing = asyncio.create_task(self._probe())
        try:
            while not self._done.is_set():
                await self._follow(await self._link.connected())
        finally:
            probing.cancel()
            with suppress(asyncio.CancelledError):
                await probing

    async def _follow(self, connection: Connection) -> None:
        session = self._new_session()
        try:
            await session.run(connection, done=self._done)
        except (LinkLostError, HostUnreachableError) as lost:
            cause = getattr(lost, "cause", "")
            if cause == "no-python" and self._has_python:
                self._has_python = False
                self._warn(
                    f"there is no python3 on the instance: its logs are polled every {self._order.poll_interval_s:g} s by `tail`"
                )
                return
            if cause in ("no-exec", "no-python") and not self._was_in:
                raise
            if isinstance(lost, LinkLostError) and not lost.was_greeted:
                self._check_answered()
            self._garbled.count(lost, lasted_s=session.lasted_s)
            self._link.lose(str(lost), heard_at=session.heard_at)

    def _check_answered(self) -> None:
        self._unanswered += 1
        if self._unanswered >= HELLOS and not self._was_in:
            raise HostUnreachableError(
                f"{self._instance} takes commands and answers none of them",
                cause="no-exec",
            )

    def _new_session(self) -> FollowSession | ShellSession:
        mirrors, paths = [log.mirror for log in self._logs], [log.remote for log in self._logs]
        if self._has_python:
            self._session = FollowSession(
                mirrors,
                paths,
                self,
                command=follower_command(),
                program=follower_program(),
                has_history=True,
                heartbeat_s=heartbeat_s(_going),
            )
        else:
            self._session = ShellSession(mirrors, paths, self, poll_s=self._order.poll_interval_s)
        return self._session

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(self._order.probe_every_s)
            try:
                refused = await refusal(self._instance)
            except ProvisionError:
                continue
            if refused is not None:
                self._warn(
                    f"{refused}: the connection that is open still works, but there would be no way back"
                )
                return

    # -- what the sessions tell

    async def on_bytes(self, mirror: Mirror, new: bytes) -> None:
        self._link.made_progress()
        log = self._log_of(mirror)
        log.is_proved = True
        await self._take_matches(log, new)
        self._check_drained()

    async def on_begin(self, mirror: Mirror, begun: Begun) -> None:
        self._was_in = True
        log = self._log_of(mirror)
        log.is_proved = begun.resumed
        is_first = mirror.fresh_from is None
        await in_thread(mirror.first_seen, begun.unread)
        await in_thread(mirror.belongs_to, log.remote)
        if is_first and begun.before_bytes:
            await self._say_gap(log, begun.before_bytes)
        self._say_missing(log, begun.missing)
        await self._take_matches(log)

    async def on_generation(self, mirror: Mirror, facts: FileFacts) -> None:
        log = self._log_of(mirror)
        log.forget_unproved()
        self._say_missing(log, facts.ino is None)

    async def on_gap(self, mirror: Mirror, lost_bytes: int | None) -> None:
        await self._say_gap(self._log_of(mirror), lost_bytes)

    async def on_beat(self, unread: Sequence[int]) -> None:
        for log, count in zip(self._logs, unread, strict=False):
            if self._match is not None and log.wanted_length is None:
                log.wanted_length = log.mirror.length + count
            settled = log.settled(is_read_to_end=count == 0)
            if settled is not None and self._match is None:
                self._end_by(log, settled)
        if self._order.ends_when_read and not any(unread):
            self._done.set()
        self._check_drained()

    async def _take_matches(self, log: MarkedLog, new: bytes | None = None) -> bool:
        """Look at the new lines of *log*, *new* if it came just now; True when one of them is the end."""
        if new is not None and log.is_next(new):
            matches = log.matches(new)
        else:
            matches = await asyncio.to_thread(log.matches)
        if matches and self._match is None:
            self._end_by(log, matches[0])
        return self._match is not None

    def _end_by(self, log: MarkedLog, match: Match) -> None:
        self._match = (log, match)
        line = match.line.decode("utf-8", "replace")
        self._emit("marker_found", file=log.remote, kind=match.kind, line=line)
        if self._session is not None:
            self._session.ask()
            asyncio.get_running_loop().call_later(DRAIN_S, self._done.set)

    def _check_drained(self) -> None:
        if self._match is not None and all(
            log.wanted_length is not None and log.mirror.length >= log.wanted_length for log in self._logs
        ):
            self._done.set()

    def _log_of(self, mirror: Mirror) -> MarkedLog:
        return next(log for log in self._logs if log.mirror is mirror)

    # -- words

    def _emit(self, event: str, **fields: object) -> None:
        self._on_event(self._events.emit(event, **fields))

    def _warn(self, message: str) -> None:
        self._warnings.append(message)
        self._emit("warning", message=message)

    def _say_missing(self, log: MarkedLog, is_missing: bool) -> None:
        if is_missing != log.is_missing and (is_missing or log.is_missing is not None):
            self._emit("log_missing" if is_missing else "log_found", file=log.remote)
        log.is_missing = is_missing

    async def _say_gap(self, log: MarkedLog, lost_bytes: int | None) -> None:
        gap = Gap(log.remote, lost_bytes)
        if await in_thread(log.state.add_gap, gap):
            self._emit("gap", file=gap.file, bytes=gap.bytes)

    def _timed_out(self) -> ProvisionError | None:
        if self._match is not None:
            return None  # only the drain was cut short
        missing = [log.remote for log in self._logs if log.is_missing]
        why = f"`{missing[0]}` was never there" if missing else "no marker was written"
        return CollectTimeoutError(
            f"{why} within {self._order.timeout_s:.0f} s",
            hint="check `--remote-log`" if missing else "the same command with a longer `--timeout` goes on",
        )

    async def _close_mirrors(self) -> ProvisionError | None:
        """Seal and release the mirrors; the error if this disk does not take them any more."""
        error: ProvisionError | None = None
        for log in self._logs:
            try:
                await log.mirror.seal()
            except LocalMachineError as problem:
                error = problem
            log.mirror.close()
        return error

    def _outcome(self, error: ProvisionError | None) -> Outcome:
        verdict, code = "cancelled", verdicts.exit_code("cancelled")
        if error is not None:
            verdict, code = error.verdict, error.exit_code
        elif self._order.ends_when_read and self._done.is_set():
            verdict, code = "complete", 0
        elif self._match is not None:
            verdict = "complete" if self._match[1].kind == "success" else "failed"
            code = verdicts.exit_code(verdict)
        outcome = outcome_of(
            RunState(self._order.contract_id),
            host=str(self._instance),
            verdict=verdict,
            exit_code=code,
            labels={},
            logs={log.remote: str(log.output) for log in self._order.logs},
            gaps=[gap for log in self._logs for gap in log.state.gaps],
            reconnects=self._link.reconnects,
            error=error,
            warnings=self._warnings,
        )
        outcome["duration_s"] = round(time.monotonic() - self._began, 3)
        outcome["line"] = None if self._match is None else self._match[1].line.decode("utf-8", "replace")
        return outcome


class CollectTimeoutError(ProvisionError):
    """The time that the caller gave is over, and no marker was seen."""

    exit_code = verdicts.exit_code("timeout")
    verdict = "timeout"
