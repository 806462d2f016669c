"""The instances of a pool after their runs: how is each, until it is released or gone?

One task per instance asks it every so often, over a connection that stays open; a fresh one every five minutes shows
whether the key still opens the door. What changed is told to the hooks of the kind `health`. Where servers share a database,
each instance is watched by one of them, and by another when that one is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import structlog
from provision_agent.contract.health import HealthAnswer, HealthRequest
from provision_agent.contract.parsing import ParseError, bounded, parse, read_object, to_json

from ..errors import AuthRefusedError, ProvisionError
from ..instance import Connection, Instance, as_answer, call, connect
from ..storage import in_thread
from .gone import is_gone
from .hooks import HookQueue
from .local_command import facts_of
from .scorecard import key_of
from .store.instances import WatchedInstances, WatchedRow
from .store.writer import FencedError

FRESH_EVERY_S = 300.0
ANSWER_WITHIN_S = 45.0
UNREACHED_AFTER = 2
"""So often in a row nobody may get in before that is told: one lost connection is none of the instance's."""
AT_ONCE = 64
OTHERS_TURN_S = 0.1
"""Between two steps in which instances are taken up, so that every server gets its part."""
SPREAD = 0.2
MAX_FILE_BYTES = 64 << 20
HEALTHY, DEGRADED, GONE = "instance_healthy", "instance_degraded", "instance_gone"
STATES = ("unknown", "healthy", "degraded", "gone")

log = structlog.get_logger()


@dataclass(frozen=True)
class Kept:
    """One instance that is watched, as it is written down."""

    instance: Instance
    run: str
    """The run that made it what it is."""
    workspace: str
    profile: str = ""
    labels: Mapping[str, str] = bounded(factory=dict)
    gpus: int = bounded(0, low=0)
    """How many cards it had then."""


@dataclass(frozen=True)
class _File:
    """What servers of earlier releases kept in a file of their own."""

    instances: tuple[Kept, ...] = ()


@dataclass(frozen=True)
class _Told:
    """How an instance was, as it is written down."""

    state: str = bounded("unknown", one_of=STATES)
    why: tuple[str, ...] = ()
    answer: HealthAnswer = field(default_factory=HealthAnswer)
    since_unix: float = 0.0
    checked_unix: float | None = None


@dataclass
class Health:
    """How an instance was when it was asked last."""

    kept: Kept
    state: str = "unknown"
    why: tuple[str, ...] = ()
    answer: HealthAnswer = field(default_factory=HealthAnswer)
    since_unix: float = field(default_factory=time.time)
    """When it came into its state."""
    checked_unix: float | None = None
    failures: int = 0
    """How often in a row nobody got in."""
    unreached_since: float | None = None


Reach = Callable[[Instance], Awaitable[Instance]]
"""Takes an instance as another server wrote it down, and says how it is reached from here."""


class Instances:
    """Watches instances. `open` takes over what a server of an earlier release watched.

    Args:
        book: Where they are written down.
        hooks: Is told every change.
        every_s: Seconds between two questions; None: only those are watched whose order asked for it.
        gone_check: The words of a command that says whether an instance is gone.
        reach: How instances of other servers are reached.
    """

    def __init__(
        self,
        book: WatchedInstances,
        hooks: HookQueue,
        *,
        every_s: float | None,
        gone_check: Sequence[str] | None,
        reach: Reach,
    ) -> None:
        self._book = book
        self._hooks = hooks
        self._is_for_all = every_s is not None
        self._every_s = every_s or 30.0
        self._gone_check = gone_check
        self._reach = reach
        self._all: dict[str, Health] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def open(self, path: Path) -> None:
        """Take over the instances in the file *path*, if a server of an earlier release left it; it stays as a backup."""
        found = await asyncio.to_thread(_read, path)
        if found is not None:
            await self._book.bring([_row_of(Health(kept)) for kept in found.instances])
            with suppress(OSError):
                await in_thread(os.replace, path, path.with_name(f"{path.stem}-1{path.suffix}"))

    async def take_up(self) -> None:
        """Watch a fair part of those that nobody watches. Raises FencedError, sqlalchemy.exc.DBAPIError."""
        while rows := await self._book.claim():
            for row in rows:
                try:
                    health = _health_of(row)
                    kept = replace(health.kept, instance=await self._reach(health.kept.instance))
                except (ParseError, ValueError) as error:
                    log.warning("instance_not_read", instance=row.instance, why=str(error))
                    continue
                self._begin(replace(health, kept=kept))
            await asyncio.sleep(OTHERS_TURN_S)

    async def drop(self) -> None:
        """Ask no more: the next server goes on, or another one."""
        tasks, self._tasks = list(self._tasks.values()), {}
        self._all.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def all(self) -> list[Health]:
        """Every instance that is watched here, or was until it was gone."""
        return list(self._all.values())

    async def told(self) -> list[dict[str, object]]:
        """As ``GET /api/instances`` has them: those that other servers watch, too."""
        return await asyncio.to_thread(_as_told, await self._book.all())

    async def run_ended(self, kept: Kept, *, is_usable: bool, is_wanted: bool) -> None:
        """A run of the instance ended: from now on it is watched here, or, if it is not usable, no more.

        Args:
            kept: What is to be watched.
            is_usable: The run has made it so.
            is_wanted: Its order asked for it.
        """
        self._end(key_of(kept.instance))
        if is_usable and (is_wanted or self._is_for_all):
            health = Health(kept)
            await self._book.watch(_row_of(health))
            self._begin(health)
        else:
            await self._book.remove(instance=key_of(kept.instance))

    async def release(self, run: str) -> None:
        """The instance of *run* is given back: it is watched no more, whoever does it."""
        for key in [key for key, health in self._all.items() if health.kept.run == run]:
            self._end(key)
        await self._book.remove(run=run)

    def _begin(self, health: Health) -> None:
        key = key_of(health.kept.instance)
        self._end(key)
        self._all[key] = health
        self._tasks[key] = asyncio.create_task(self._keep_asking(health), name=f"health {key}")

    def _end(self, key: str) -> None:
        if (task := self._tasks.pop(key, None)) is not None:
            task.cancel()
        self._all.pop(key, None)

    # -- one instance

    async def _keep_asking(self, health: Health) -> None:
        line = _Line(health.kept.instance)
        try:
            while health.state != "gone":
                await asyncio.sleep(self._every_s * random.uniform(1 - SPREAD, 1 + SPREAD))  # noqa: S311
                async with self._turns:
                    state, why = await self._ask(health, line)
                health.checked_unix = time.time()
                if not await self._keep(health, state, why):
                    break
        except FencedError:
            log.warning("instance_is_anothers", instance=key_of(health.kept.instance))
        finally:
            line.drop()

    async def _keep(self, health: Health, state: str, why: tuple[str, ...]) -> bool:
        """Write down how it is, with the hooks that this owes; False when nobody watches it here any more."""
        kept, owed = health.kept, list[tuple[str, str]]()
        is_news = (state, why) != (health.state, health.why) and state != "unknown"
        if is_news:
            health.state, health.why, health.since_unix = state, why, time.time()
            event = {"healthy": HEALTHY, "degraded": DEGRADED, "gone": GONE}[state]
            facts = {
                "event": event,
                "why": list(why),
                "host": str(kept.instance),
                "instance_id": kept.instance.instance_id,
                "labels": dict(kept.labels),
                "profile": kept.profile,
            }
            owed = self._hooks.to_tell("health", kept.run, facts, about=f"@{health.since_unix:.3f}")
        if not await self._book.change(_row_of(health), owed):
            self._all.pop(key_of(kept.instance), None)
            return False
        if is_news:
            log.info(event, instance=key_of(kept.instance), why="; ".join(why))
        self._hooks.deliver(owed)
        return True

    async def _ask(self, health: Health, line: _Line) -> tuple[str, tuple[str, ...]]:
        kept = health.kept
        try:
            health.answer = answer = await line.ask(HealthRequest(kept.workspace, kept.gpus))
        except AuthRefusedError as refused:
            return "degraded", (f"access lost: {refused}",)
        except (ProvisionError, TimeoutError) as error:
            return await self._unreached(health, str(error) or "no answer in time")
        health.failures, health.unreached_since = 0, None
        return ("degraded", answer.problems) if answer.problems else ("healthy", ())

    async def _unreached(self, health: Health, why: str) -> tuple[str, tuple[str, ...]]:
        """Nobody gets in, which is no news at first; whether it is gone, a command knows, or else time tells."""
        kept = health.kept
        health.failures += 1
        health.unreached_since = health.unreached_since or time.monotonic()
        if self._gone_check is not None:
            facts = facts_of(kept.run, str(kept.instance), kept.instance.instance_id, kept.labels)
            if await is_gone(self._gone_check, facts):
                return "gone", ("the provider says so",)
        elif time.monotonic() - health.unreached_since > kept.instance.contact_timeout_s:
            return "gone", (f"out of reach for {kept.instance.contact_timeout_s:.0f} s",)
        if health.failures < UNREACHED_AFTER:
            return health.state, health.why
        return "degraded", ("it cannot be reached",)


class _Line:
    """The connection to one instance, made anew every `FRESH_EVERY_S`."""

    def __init__(self, instance: Instance) -> None:
        self._instance = replace(instance, boot_grace_s=0.0)
        self._connection: Connection | None = None
        self._made_at = 0.0

    async def ask(self, request: HealthRequest) -> HealthAnswer:
        """Raises ProvisionError or TimeoutError."""
        if self._connection is None or self._connection.lost.is_set() or self._is_old:
            self.drop()
            self._connection = await connect(self._instance)
            self._made_at = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                _, answer = await call(
                    self._connection,
                    folders=[f"{request.workspace}/.provision/agent"],
                    arguments=["health"],
                    request=request,
                    read=as_answer(HealthAnswer),
                    timeout_s=ANSWER_WITHIN_S,
                )
            return answer
        except BaseException:
            self.drop()
            raise

    @property
    def _is_old(self) -> bool:
        return time.monotonic() - self._made_at > FRESH_EVERY_S

    def drop(self) -> None:
        """Close it. Safe to repeat."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None


def _read(path: Path) -> _File | None:
    """What a server of an earlier release watched; None where it left nothing, or that cannot be read."""
    try:
        return parse(_File, read_object(path.read_bytes(), max_bytes=MAX_FILE_BYTES), path.name)
    except FileNotFoundError:
        return None
    except (OSError, ParseError) as error:
        log.warning("instances_not_read", path=str(path), why=str(error))
        return None


def _row_of(health: Health) -> WatchedRow:
    kept = health.kept
    told = _Told(health.state, health.why, health.answer, health.since_unix, health.checked_unix)
    texts = [json.dumps(to_json(each), separators=(",", ":")) for each in (kept, told)]
    key = key_of(kept.instance)
    return WatchedRow(key, kept.run, texts[0], texts[1], health.state, health.since_unix)


def _health_of(row: WatchedRow) -> Health:
    """Raises ParseError."""
    kept = parse(Kept, read_object(row.kept, max_bytes=MAX_FILE_BYTES), "kept")
    told = parse(_Told, read_object(row.health, max_bytes=MAX_FILE_BYTES), "health")
    return Health(kept, told.state, told.why, told.answer, told.since_unix, told.checked_unix)


def _as_told(rows: Sequence[WatchedRow]) -> list[dict[str, object]]:
    found = []
    for row in rows:
        with suppress(ParseError):
            found.append(_as_json(_health_of(row)))
    return found


def _as_json(health: Health) -> dict[str, object]:
    """As ``GET /api/instances`` tells it."""
    kept, answer = health.kept, health.answer
    return {
        "instance": key_of(kept.instance),
        "host": str(kept.instance),
        "instance_id": kept.instance.instance_id,
        "run": kept.run,
        "profile": kept.profile,
        "labels": dict(kept.labels),
        "state": health.state,
        "why": list(health.why),
        "since_unix": round(health.since_unix, 3),
        "checked_unix": None if health.checked_unix is None else round(health.checked_unix, 3),
        "services": [asdict(service) for service in answer.services],
        "disk_free_bytes": answer.disk_free_bytes,
        "gpu_used_bytes": answer.gpu_used_bytes,
    }
