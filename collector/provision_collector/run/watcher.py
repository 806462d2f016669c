"""Watch a run that the instance has taken, to its end: follow its files, and start its agent again when it died.

Every cut is answered by going on at the mirrors' ends. Where another process here feeds the mirrors, they are read.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog
from provision_agent.contract.event_bodies import SourcesNeeded
from provision_agent.contract.plan_jobs import job_file

from ..errors import AgentLostError, HostUnreachableError, ProtocolFaultError, UsageError
from ..instance import Flag, Link
from ..mirror import (
    RESERVE_BYTES,
    AgentChangedError,
    FolderGoneError,
    FollowSession,
    Gap,
    GarbledSessions,
    Holders,
    LinkLostError,
    Listener,
    Mirror,
    MirrorBusyError,
    MirrorFullError,
    MirrorState,
    Pace,
    check_events,
)
from ..storage import in_thread
from .dispatch import Dispatch
from .registry import RunFiles
from .state import LocalRun
from .uploading import Uploading

AGENT_RESTARTS = 3
RESTARTS_COUNT_FOR_S = 600.0
"""A restart longer ago than this does not count: a run with a job may go on for days."""
AGENT_DEAD_AFTER_S = 3.0
"""How long neither keeper nor agent may be seen before they are started again."""
GUARD_EVERY_S = 0.25
SIGN_AGAIN_S = 1.0
MAX_LOG_BYTES = 1 << 30
"""Of each log of a run; what it writes beyond that is a gap."""
MAX_EVENTS_BYTES = 1 << 30
"""More than that ends the run, however old it is: events are never cut."""
LOOK_EVERY_S = 0.1

log = structlog.get_logger()


class Watcher(Listener):
    """Watches one run; `gaps` are the bytes that could not be had. *on_news* is called when more of its events is known."""

    def __init__(
        self, local: LocalRun, dispatch: Dispatch, link: Link, on_news: Callable[[], None] = lambda: None
    ) -> None:
        self._on_news = on_news
        self._local = local
        self._dispatch = dispatch
        self._link = link
        self._state: MirrorState | None = None
        self._mirrors: list[Mirror] = []
        self.uploading = Uploading(dispatch, link, local.emit)
        self._done = Flag()
        self.caught_up = Flag()
        """Set once all that the instance had written when it was asked is here, or another process feeds the mirrors."""
        self._is_agent_alive = True
        self._is_suspect = Flag()
        """Neither agent nor keeper was seen alive: whoever guards them looks closer."""
        self._restarts = 0
        self._restarted_at = float("-inf")
        self._answered: set[str] = set()
        """Names of secrets that were asked for, and of which those that may be given were given."""
        self._signed: set[str] = set()
        """Requests for signed addresses that were answered, or are being answered."""
        self._giving: list[asyncio.Task[None]] = []
        self._cut: set[str] = set()
        """Logs that may not grow here."""
        self._garbled = GarbledSessions()
        self._pace = Pace()
        self._changed = 0
        """How often somebody else's file lay in the agent's place."""

    @property
    def gaps(self) -> list[Gap]:
        """What could not be mirrored."""
        return self._state.gaps if self._state is not None else []

    async def watch(self) -> None:
        """Return when the run has ended and all that it wrote is here.

        Raises:
            AgentLostError: agent and keeper keep dying, or the run's folder was deleted.
            ProvisionError: as `Link`, `FollowSession` and `Mirror` say.
        """
        while not self._is_complete():
            try:
                await self._open_mirrors()
            except MirrorBusyError:
                await self._read_along()
                continue
            try:
                with self._pace:
                    await self._feed()
            finally:
                self._close_mirrors()

    async def _open_mirrors(self) -> None:
        files = self._local.files
        assert files is not None
        self._mirrors = []
        try:
            await in_thread(self._open, files)
        except BaseException:
            self._close_mirrors()
            raise
        self._local.write_own_events()

    def _open(self, files: RunFiles) -> None:
        """Open the mirrors; each is read once, to see whether it is as it was left."""
        self._state = MirrorState(files.state)
        logs = {"core": files.core, "errors": files.errors, "events": files.events}
        for name, path in {**logs, **{job_file(job): files.job(job) for job in self._local.jobs}}.items():
            is_log = name != "events"
            self._mirrors.append(
                Mirror(
                    path,
                    self._state,
                    name,
                    max_bytes=MAX_LOG_BYTES if is_log else MAX_EVENTS_BYTES,
                    reserve_bytes=RESERVE_BYTES if is_log else 0,
                )
            )
        _link_latest(files.core)

    def _close_mirrors(self) -> None:
        for mirror in self._mirrors:
            mirror.close()

    async def _read_along(self) -> None:
        """Another process here writes the mirrors: read them until it ends or the run does."""
        files = self._local.files
        assert files is not None
        log.info("mirror_shared", path=str(files.core))
        self.caught_up.set()
        self.uploading.settled.set()
        self._link.drop()
        while not self._is_complete():
            await self._local.absorb()
            if not await in_thread(is_fed, files):
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _feed(self) -> None:
        await self._local.absorb()
        self._on_news()
        guardian = asyncio.create_task(self._guard_agent())
        uploading = asyncio.create_task(self.uploading.work())
        following: asyncio.Task[None] | None = None
        try:
            while not self._is_complete():
                await self._tell_cut()
                self._end_when_fed()
                connection = await self._link.connected()
                session = self._session()
                following = asyncio.create_task(session.run(connection, done=self._done))
                await asyncio.wait((following, guardian), return_when=asyncio.FIRST_COMPLETED)
                if guardian.done():
                    guardian.result()
                await self._end_of(session, following)
        finally:
            await _end(
                guardian, uploading, following, *self._giving
            )  # the mirrors are closed next: nobody may write them any more

    async def _tell_cut(self) -> None:
        """Say once of each log that no more of it comes here."""
        for mirror in self._mirrors:
            if mirror.is_full and mirror.name != "events" and mirror.name not in self._cut:
                self._cut.add(mirror.name)
                await self.on_gap(mirror, None)

    def _session(self) -> FollowSession:
        paths = self._dispatch.remote_files
        remote = {"core": paths.core, "errors": paths.errors, "events": paths.events}
        own = posixpath.dirname(paths.core)
        remote |= {file: f"{own}/{file}.log" for file in map(job_file, self._local.jobs)}
        wanted = [mirror for mirror in self._mirrors if mirror.name == "events" or not mirror.is_full]
        return FollowSession(
            wanted,
            [remote[mirror.name] for mirror in wanted],
            self,
            command=self._dispatch.agent_command("follow"),
            workspace=self._dispatch.workspace,
            heartbeat_s=self._pace.heartbeat_s,
            pace=self._pace,
        )

    async def _end_of(self, session: FollowSession, following: asyncio.Task[None]) -> None:
        """Wait for *following*; what ended it decides how it goes on."""
        try:
            await following
        except MirrorFullError as full:
            if full.mirror.name == "events":
                raise ProtocolFaultError(f"more than {MAX_EVENTS_BYTES >> 20} MiB of events") from None
        except AgentChangedError as changed:
            self._changed += 1
            if self._changed > AGENT_RESTARTS:
                raise AgentLostError(str(changed), hint=changed.hint, cause=changed.cause) from None
            with suppress(HostUnreachableError):
                await self._dispatch.deploy_again()
        except FolderGoneError:
            with suppress(HostUnreachableError):
                await self._dispatch.deploy_again()
        except (LinkLostError, HostUnreachableError) as lost:
            self._garbled.count(lost, lasted_s=session.lasted_s)
            self._link.lose(str(lost), heard_at=session.heard_at)

    def _end_when_fed(self) -> None:
        if self._local.is_fed(self._mirrors):
            self._done.set()

    def _is_complete(self) -> bool:
        if self._local.is_complete():
            self._done.set()
        return self._done.is_set()

    # -- the agent

    async def _guard_agent(self) -> None:
        """Start the agent again when neither it nor its keeper lives; give up after `AGENT_RESTARTS`."""
        dead_since: float | None = None
        while True:
            if self._is_agent_alive:
                self._is_suspect.clear()
                await self._is_suspect.wait()
            await asyncio.sleep(GUARD_EVERY_S)
            is_dead = not (self._is_agent_alive or self._local.is_finished or self._link.connection is None)
            dead_since = (dead_since or time.monotonic()) if is_dead else None
            if dead_since is None or time.monotonic() - dead_since < AGENT_DEAD_AFTER_S:
                continue
            if self._dispatch.order.only_looks:
                raise AgentLostError(
                    f"agent and keeper of run `{self._dispatch.run}` are dead, and it has no verdict",
                    hint=f"`provision attach {self._dispatch.run}` starts them again and goes on with the run",
                    cause="agents-dead",
                )
            if self._restarts >= AGENT_RESTARTS:
                raise AgentLostError(
                    f"agent and keeper of run `{self._dispatch.run}` died {self._restarts + 1} times without a verdict",
                    hint="look at agent.log in the run's folder on the instance: out of memory is the usual reason",
                )
            self._answered.clear()  # another agent asks anew
            await self._start_agent_again()
            dead_since = None

    async def _start_agent_again(self) -> None:
        try:
            await self._dispatch.again()
        except HostUnreachableError:
            return  # the link is down: that is the session's matter
        except UsageError:  # it ended in the meantime, and its last events are on their way
            self._is_agent_alive = True
            return
        now = time.monotonic()
        self._restarts = self._restarts + 1 if now - self._restarted_at < RESTARTS_COUNT_FOR_S else 1
        self._restarted_at = now
        self._is_agent_alive = True
        self._local.emit("agent_restarted", restarts=self._restarts)

    def _give_what_is_needed(self) -> None:
        """Answer what the instance asked for, beside the reading of what it tells."""
        names = self._local.needed - self._answered
        if names and not self._local.is_finished:
            self._answered |= names
            self._giving.append(asyncio.create_task(self._dispatch.give_what_is_needed(names)))

        asked = self._local.needed_sources
        is_new = asked is not None and asked.request not in self._signed
        if asked is not None and is_new and not self._local.is_finished:
            self._signed.add(asked.request)
            self._giving.append(asyncio.create_task(self._sign_again(asked)))

    async def _sign_again(self, asked: SourcesNeeded) -> None:
        """Sign what the instance asks for; a link that breaks meanwhile is no answer."""
        if not await self._dispatch.sign_again(asked.urls):
            await asyncio.sleep(SIGN_AGAIN_S)
            self._signed.discard(asked.request)

    # -- what a session tells

    async def on_bytes(self, mirror: Mirror, new: bytes) -> None:
        if mirror.name == "events":
            check_events(mirror.length, age_s=time.time() - self._dispatch.started_unix)
            await self._local.absorb(mirror.length - len(new), new)
            self._on_news()
            self._give_what_is_needed()
        self._end_when_fed()

    async def on_status(self, status: Holders) -> None:
        self._is_agent_alive = status.run == self._dispatch.run and (status.keeper or status.agent)
        if not self._is_agent_alive:
            self._is_suspect.set()
        self._give_what_is_needed()

    async def on_beat(self, unread: Sequence[int]) -> None:
        if not any(unread):
            self.caught_up.set()

    async def on_gap(self, mirror: Mirror, lost_bytes: int | None) -> None:
        gap = Gap(mirror.name, lost_bytes)
        if self._state is None or await in_thread(
            self._state.add_gap, gap
        ):  # else so many that nobody reads them
            self._local.emit("gap", file=gap.file, bytes=gap.bytes)


async def _end(*tasks: asyncio.Task[None] | None) -> None:
    """Cancel *tasks* and wait until they are over, however they end."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def is_fed(files: RunFiles) -> bool:
    """Whether a process here writes the mirrors."""
    try:
        Mirror(files.core, MirrorState(files.state), "core").close()
    except MirrorBusyError:
        return True
    return False


def _link_latest(core: Path) -> None:
    temporary = core.with_name(f"latest.{os.getpid()}.tmp")
    with suppress(OSError):  # a convenience: a file system without links is no reason to fail
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(core.name)
        temporary.replace(core.with_name("latest.log"))
