"""One run as this side sees it, left to right: connect, deploy, follow, verdict.

The instance decides and this side watches: a run goes on without us, and its verdict is its own `run_finished`
event. Every cut is answered by going on at the mirrors' ends; a dead agent is started again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from provision_agent.plan import Plan
from provision_agent.protocol import VERDICTS
from provision_agent.status import fold, new_status

from . import registry, scorecard
from .errors import (
    AgentLostError,
    HostUnreachableError,
    LocalMachineError,
    ProvisionError,
    RefusedError,
    UsageError,
)
from .events import EventTail, LocalEvents
from .instance import Deployment, Instance, Link, build_bundle, call, first_contact
from .mirror import FollowSession, LinkLostError, Listener, Mirror, MirrorBusyError, MirrorState
from .order import Order, agent_folders, new_run_id
from .outcome import outcome_of
from .profile.secrets import values_of
from .registry import RunFiles, RunRecord

START_TIMEOUT_S = 90.0
"""Longer than a lock that is watched for a dead machine, and than a replaced run needs to stop."""
STOP_TIMEOUT_S = 75.0
SECRETS_WITHIN_S = 600.0
"""How long an agent that needs a start waits for secrets that only somebody else can give."""
ORDER_ATTEMPTS = 8
"""How often a link may break between the order and its answer."""
AGENT_RESTARTS = 3
AGENT_DEAD_AFTER_S = 3.0
"""How long neither keeper nor agent may be seen before they are started again."""
WORD_AFTER_DEADLINE_S = 30.0
WATCH_EVERY_S = 0.1

log = structlog.get_logger()


class Run:
    """A run that this process watches. Leaving it does not end it; `stop` does.

    Any number of `events` iterators may run; each sees every event from the first.
    """

    def __init__(self, instance: Instance, order: Order) -> None:
        self.instance = instance
        self.id = order.run_id or new_run_id()
        self.files: RunFiles | None = None
        self.status: dict[str, Any] = new_status(self.id)
        self._order = order
        self._local = LocalEvents(self.id)
        self._accepted_unix = int(time.time())
        self._wake = asyncio.Event()
        self._started = asyncio.Event()
        self._is_ordered = False
        self._done = asyncio.Event()
        self._secrets_given = asyncio.Event()
        self._link = Link(instance, self._emit)
        self._deployment: Deployment | None = None
        self._answer: dict[str, Any] = {}
        self._state: MirrorState | None = None
        self._tail: EventTail | None = None
        self._sizes: dict[str, int] | None = None
        self._restarts = 0
        self._is_alive = True
        self._leaving: tuple[str, int] | None = None
        self._outcome: dict[str, Any] | None = None
        self._emit("run_accepted", host=str(instance), labels=dict(order.labels))
        self._task = asyncio.create_task(self._course(), name=f"run {self.id}")
        self._task.add_done_callback(lambda _: self._notify())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    @property
    def is_started(self) -> bool:
        """True once the instance has the run: from then on it goes on without this process."""
        return self._started.is_set()

    @property
    def may_go_on(self) -> bool:
        """True once the order was sent: whether it arrived is known when `is_started`."""
        return self._is_ordered

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Every event of the run from its first, the agent's and this side's (``"from": "collector"``).

        Ends after the `outcome` event. A slow reader costs no memory: events are read from the mirror.
        """
        tail: EventTail | None = None
        seen = 0
        while True:
            wake = self._wake
            is_over = self._outcome is not None
            if tail is None and self.files is not None:
                tail = EventTail(self.files.events)
            is_moving = True
            while is_moving:
                ours = [event for event in self._local.all[seen:] if event["event"] != "outcome"]
                theirs = await _readable(tail)
                seen += len(ours)
                for event in (*ours, *theirs):
                    yield dict(event)
                is_moving = bool(theirs)
            if is_over:
                yield dict(self._local.all[-1])
                return
            if self._task.done() and self._outcome is None:
                self._task.result()  # a bug here, or cancelled from outside: raised to whoever listens
                return
            await wake.wait()

    async def started(self) -> None:
        """Wait until the instance has taken the run (or it became clear that it will not: see `outcome`)."""
        started: asyncio.Task[Any] = asyncio.create_task(self._started.wait())
        waits: list[asyncio.Task[Any]] = [started, self._task]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()

    async def outcome(self) -> dict[str, Any]:
        """Wait for the end; the fields are those of docs/SCRIPTING.md."""
        with suppress(asyncio.CancelledError):
            await asyncio.shield(self._task)
        if self._outcome is None:
            raise asyncio.CancelledError
        return self._outcome

    def give_secrets(self, values: Mapping[str, str]) -> None:
        """Take *values* for whenever an agent must be started again; answers `secrets_needed`."""
        self._order = replace(self._order, secrets={**self._order.secrets, **values})
        self._secrets_given.set()

    async def stop(self) -> None:
        """End the run on the instance; `outcome` then says `cancelled`. Partial downloads stay."""
        if self._is_ordered:
            await self.started()  # the answer is on its way
        if not self._started.is_set():
            await self.leave()
            return
        connection = self._link.connection
        is_borrowed = connection is not None and not connection.lost.is_set()
        if connection is None or not is_borrowed:
            connection = await first_contact(self.instance, on_wait=lambda *_: None)
        try:
            await call(
                connection,
                build_bundle(),
                folders=[f"{self._answer['workspace']}/.provision/agent"],
                arguments=["stop"],
                request={"workspace": self._answer["workspace"], "run": self.id},
                timeout_s=STOP_TIMEOUT_S,
            )
        except HostUnreachableError:
            if self.status["verdict"] is None:  # else the end of the run was quicker than the answer
                raise
        finally:
            if not is_borrowed:
                connection.abort()

    async def leave(self, verdict: str = "cancelled", exit_code: int = 130) -> None:
        """Stop watching. The run goes on; `provision attach` finds it again."""
        if not self._task.done():
            self._leaving = (verdict, exit_code)
            self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    # -- the course of the run

    async def _course(self) -> None:
        error: ProvisionError | None = None
        try:
            await self._work()
            verdict = str(self.status["verdict"])
            code = VERDICTS.get(verdict, 1)
        except ProvisionError as problem:
            error, verdict, code = problem, problem.verdict, problem.exit_code
        except TimeoutError:
            verdict, code = "timeout", VERDICTS["timeout"]
        except asyncio.CancelledError:
            if self._leaving is None:
                raise
            verdict, code = self._leaving
        finally:
            self._link.drop()
        self._finish(verdict, code, error)
        if self._leaving is None or verdict == "instance-gone":
            await asyncio.to_thread(self._score)

    def _score(self) -> None:
        assert self.files is not None and self._outcome is not None
        try:
            scorecard.record(self.instance, self.files.events, self._outcome)
        except OSError as error:  # the verdict stands whether it can be remembered or not
            log.warning("scorecard_not_written", run=self.id, why=str(error))

    def _finish(self, verdict: str, code: int, error: ProvisionError | None) -> None:
        files = self.files
        if files is None:
            files = RunFiles.of(self._order.logs_dir, self.id, self._accepted_unix)
            with suppress(OSError):  # without a folder for it, the outcome is still told
                files.core.parent.mkdir(parents=True, exist_ok=True)
                self._local.bind(files.collector)
            self.files = files
        paths = {"core": files.core, "errors": files.errors, "events": files.events}
        logs = {name: str(path) for name, path in paths.items() if path.exists()}
        self._outcome = outcome_of(
            self.status,
            host=str(self.instance),
            verdict=verdict,
            exit_code=code,
            labels=self.status.get("labels") or self._order.labels,
            logs=logs,
            gaps=self._state.gaps if self._state is not None else [],
            reconnects=self._link.reconnects,
            error=error,
        )
        if self._started.is_set() and self.status["verdict"] is not None:
            self._remember(verdict=verdict)
        self._emit("outcome", **{key: value for key, value in self._outcome.items() if key != "run"})

    async def _work(self) -> None:
        await self._link.connected()
        plan = self._order.plan
        await self._order_run(plan)
        self._bind(str(self._answer["run"]), int(self._answer["started_unix"]))
        self._remember(verdict=None)
        self._started.set()
        is_over = self._answer.get("verdict") is not None
        limit_s = max(float(self._answer["remaining_s"]), 0.0) + WORD_AFTER_DEADLINE_S
        async with asyncio.timeout(None if is_over else limit_s):
            await self._follow_to_the_end()

    async def _order_run(self, plan: Plan | None) -> None:
        """Start or join the run. A link that breaks meanwhile is no answer: the same order again joins what it began."""
        for attempt in range(1, ORDER_ATTEMPTS + 1):
            try:
                await (self._join() if plan is None or self._order.resume else self._start(plan))
                return
            except HostUnreachableError as lost:
                if lost.cause != "reset" or attempt == ORDER_ATTEMPTS:
                    raise
                self._link.lose(str(lost), heard_at=None)

    async def _start(self, plan: Plan) -> None:
        await self._ask_for_owed_secrets()
        self._is_ordered = True
        answer = await self._call(
            ["start"],
            {
                "run": self.id,
                "plan": plan.to_json(),
                "secrets": values_of(plan.secrets, self._order.secrets)[0],
                "labels": dict(self._order.labels),
                "started_unix": self._accepted_unix,
                "replace": self._order.replace,
                "kill_holders": self._order.kill_holders,
            },
            plan,
            START_TIMEOUT_S,
        )
        state = answer["state"]
        if state == "refused":
            lines = "".join(f"\n  {line}" for line in answer.get("differences", []))
            raise RefusedError(
                answer["message"] + lines, hint=answer["hint"], differences=answer.get("differences", [])
            )
        if state == "usage":
            raise UsageError(answer["message"], hint=answer.get("hint", ""))
        if state == "failed":
            raise ProvisionError(
                answer["message"], hint=answer.get("hint", ""), cause=answer.get("class", "")
            )
        self._answer = answer

    async def _join(self) -> None:
        """Find the run on the instance; one whose agent and keeper are dead is started again."""
        request = {"run": self._order.run_id, "workspace": self._order.workspace, "with_plan": True}
        runs = (await self._call(["status"], request, None, START_TIMEOUT_S))["runs"]
        if not runs and self._order.plan is not None:
            await self._start(self._order.plan)
            return
        if not runs:
            wanted = f"no run `{self._order.run_id}`" if self._order.run_id else "no run"
            raise UsageError(
                f"there is {wanted} on {self.instance}", hint="`provision status --host …` lists its runs"
            )
        found = max(runs, key=lambda run: (bool(run["is_alive"]), str(run.get("started") or "")))
        if found["verdict"] is None and not found["is_alive"] and found["is_current"]:
            self._order = replace(self._order, plan=Plan.from_json(found["plan"]), run_id=found["run"])
            self.id = str(found["run"])
            await self._start(Plan.from_json(found["plan"]))
        else:
            self._answer = found

    async def _ask_for_owed_secrets(self) -> None:
        missing = sorted(self._order.owed_secrets - set(self._order.secrets))
        if not missing:
            return
        self._emit("secrets_needed", names=missing)
        with suppress(TimeoutError):
            async with asyncio.timeout(SECRETS_WITHIN_S):
                await self._secrets_given.wait()
        self._order = replace(
            self._order, owed_secrets=frozenset()
        )  # without them: the agent says what it lacks

    async def _call(
        self, arguments: list[str], request: Mapping[str, Any], plan: Plan | None, timeout_s: float
    ) -> dict[str, Any]:
        self._deployment, answer = await call(
            await self._link.connected(),
            build_bundle(),
            folders=agent_folders(plan, self._order.workspace),
            arguments=arguments,
            request=request,
            timeout_s=timeout_s,
        )
        return answer

    def _bind(self, run: str, started_unix: int) -> RunFiles:
        """Settle which run it is and where its files lie: those of an earlier watcher on this machine, if any."""
        record = registry.find(run)
        known = (
            record is not None and record.started_unix == started_unix and Path(record.stem).parent.is_dir()
        )
        self.files = (
            record.files if known and record else RunFiles.of(self._order.logs_dir, run, started_unix)
        )
        try:
            self.files.core.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LocalMachineError(f"cannot write to `{self.files.core.parent}`: {error.strerror}") from None
        self.id = self._local.run = run
        self.status["run"] = run
        self._tail = EventTail(self.files.events)
        self._notify()
        return self.files

    def _remember(self, *, verdict: str | None) -> None:
        assert self.files is not None
        registry.remember(
            RunRecord(
                run=self.id,
                stem=self.files.stem,
                started_unix=int(self._answer["started_unix"]),
                instance=registry.record_of(self.instance),
                workspace=str(self._answer["workspace"]),
                profile=self._order.profile or str(self.status.get("name") or ""),
                labels=dict(self._order.labels),
                verdict=verdict,
            )
        )

    # -- following

    async def _follow_to_the_end(self) -> None:
        while not self._is_complete():
            try:
                mirrors = self._open_mirrors()
            except MirrorBusyError:
                await self._watch_other_watcher()
                continue
            try:
                await self._feed(mirrors)
            finally:
                for mirror in mirrors:
                    mirror.close()

    def _open_mirrors(self) -> list[Mirror]:
        assert self.files is not None
        self._state = MirrorState(self.files.state)
        core = Mirror(self.files.core, self._state, "core")
        try:
            mirrors = [
                core,
                Mirror(self.files.errors, self._state, "errors"),
                Mirror(self.files.events, self._state, "events"),
            ]
        except ProvisionError:
            core.close()
            raise
        self._local.bind(
            self.files.collector
        )  # whoever holds the mirrors is the one writer of this file, too
        _link_latest(self.files.core)
        return mirrors

    async def _watch_other_watcher(self) -> None:
        """Another process here writes the mirrors: read them until it ends or the run does."""
        assert self.files is not None
        log.info("mirror_shared", path=str(self.files.core))
        self._link.drop()
        while not self._is_complete():
            self._absorb()
            try:
                Mirror(self.files.core, MirrorState(self.files.state), "core").close()
                return
            except MirrorBusyError:
                await asyncio.sleep(WATCH_EVERY_S)

    async def _feed(self, mirrors: list[Mirror]) -> None:
        self._absorb()
        guardian = asyncio.create_task(self._guard_agent())
        following: asyncio.Task[None] | None = None
        try:
            while not self._is_complete():
                self._check_complete(mirrors)
                connection = await self._link.connected()
                session = self._session(mirrors)
                following = asyncio.create_task(session.run(connection, done=self._done))
                await asyncio.wait((following, guardian), return_when=asyncio.FIRST_COMPLETED)
                if guardian.done():
                    guardian.result()
                try:
                    await following
                except (LinkLostError, HostUnreachableError) as lost:
                    self._link.lose(str(lost), heard_at=session.heard_at)
        finally:
            await _end(guardian, following)  # the mirrors are closed next: nobody may write them any more

    def _session(self, mirrors: list[Mirror]) -> FollowSession:
        paths = self._answer["files"]
        return FollowSession(
            mirrors,
            [paths[mirror.name] for mirror in mirrors],
            _Ears(self, mirrors),
            command=self._follow_command(),
            workspace=str(self._answer["workspace"]),
        )

    def _follow_command(self) -> str:
        assert self._deployment is not None
        return self._deployment.command("follow")

    async def _guard_agent(self) -> None:
        """Start the agent again when neither it nor its keeper lives; give up after `AGENT_RESTARTS`."""
        dead_since: float | None = None
        while True:
            await asyncio.sleep(0.25)
            is_dead = (
                not self._is_alive and self.status["verdict"] is None and self._link.connection is not None
            )
            dead_since = (dead_since or time.monotonic()) if is_dead else None
            if dead_since is None or time.monotonic() - dead_since < AGENT_DEAD_AFTER_S:
                continue
            if self._restarts >= AGENT_RESTARTS:
                raise AgentLostError(
                    f"agent and keeper on {self.instance} died {self._restarts + 1} times without a verdict",
                    hint="look at agent.log in the run's folder on the instance: out of memory is the usual reason",
                )
            await self._restart_agent()
            dead_since = None

    async def _restart_agent(self) -> None:
        if self._order.plan is None:
            self._order = replace(self._order, plan=await self._plan_on_instance())
        assert self._order.plan is not None
        self._restarts += 1
        previous = self._answer
        try:
            await self._start(self._order.plan)
        except HostUnreachableError:
            self._restarts -= 1  # the link is down: that is the session's matter
            return
        except UsageError:
            self._restarts -= 1  # it ended in the meantime, and its last events are on their way
            self._is_alive = True
            return
        if self._answer["run"] != previous["run"]:
            raise AgentLostError(f"run `{previous['run']}` is gone: `{self._answer['run']}` runs there now")
        self._is_alive = True
        self._emit("agent_restarted", restarts=self._restarts)

    async def _plan_on_instance(self) -> Plan:
        request = {"run": self.id, "workspace": self._answer["workspace"], "with_plan": True}
        answer = await self._call(["status"], request, None, START_TIMEOUT_S)
        return Plan.from_json(answer["runs"][0]["plan"])

    # -- what has arrived

    def _absorb(self) -> None:
        assert self._tail is not None
        while events := self._tail.read_new():
            for event in events:
                fold(self.status, event)
                if event["event"] == "run_finished":
                    self._sizes = event.get("sizes") or {}
                    self.status["bytes_downloaded"] = event.get("bytes_downloaded")
        self._notify()

    def _check_complete(self, mirrors: list[Mirror]) -> None:
        if self._sizes is None:
            return
        if all(mirror.offset >= self._sizes.get(mirror.name, 0) for mirror in mirrors):
            self._done.set()

    def _is_complete(self) -> bool:
        if self._done.is_set():
            return True
        if self._sizes is None or self.files is None:
            return False
        files = {"core": self.files.core, "errors": self.files.errors}
        if all(
            os.path.getsize(path) >= self._sizes.get(name, 0) for name, path in files.items() if path.exists()
        ):
            self._done.set()
        return self._done.is_set()

    # -- telling

    def _emit(self, event: str, **fields: Any) -> None:
        self._local.emit(event, **fields)
        self._notify()

    def _notify(self) -> None:
        wake, self._wake = self._wake, asyncio.Event()
        wake.set()


async def _readable(tail: EventTail | None) -> list[dict[str, Any]]:
    try:
        return await tail.read_later() if tail is not None else []
    except UsageError:
        return []  # events of a format that is not spoken here: the outcome says so


class _Ears(Listener):
    """What a session tells its run."""

    def __init__(self, run: Run, mirrors: list[Mirror]) -> None:
        self._run = run
        self._mirrors = mirrors

    def on_bytes(self, mirror: Mirror) -> None:
        if mirror.name == "events":
            self._run._absorb()
        self._run._check_complete(self._mirrors)

    def on_status(self, status: dict[str, Any]) -> None:
        lives = bool(status.get("keeper") or status.get("agent"))
        self._run._is_alive = status.get("run") == self._run.id and lives

    def on_gap(self, mirror: Mirror, lost_bytes: int | None) -> None:
        gap = {"file": mirror.name, "bytes": lost_bytes}
        if self._run._state is not None:
            self._run._state.add_gap(gap)
        self._run._emit("gap", **gap)


async def _end(*tasks: asyncio.Task[None] | None) -> None:
    """Cancel *tasks* and wait until they are over, however they end."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _link_latest(core: Path) -> None:
    temporary = core.with_name(f"latest.{os.getpid()}.tmp")
    with suppress(OSError):  # a convenience: a file system without links is no reason to fail
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(core.name)
        temporary.replace(core.with_name("latest.log"))
