"""One run of this server on its way to its outcome: watched, stopped, released, taken up after a crash.

What a `Run` tells comes into the run's log once, whichever server is watching.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

import structlog
from provision_agent.contract import verdicts
from provision_agent.contract.events import JsonObject
from provision_agent.contract.plan import Plan
from sqlalchemy.exc import SQLAlchemyError

from ...errors import ProvisionError
from ...files import UploadSource, sources_within
from ...files.buckets import sign, sign_without_aws
from ...instance import Flag
from ...mirror import MirrorState
from ...profile import values_of
from ...run import registry
from ...run.events import EventTail
from ...run.outcome import outcome_of
from ...run.registry import RunFiles
from ...run.run import Run, with_labels
from ...run.spec import Order, knows
from .. import scorecard
from ..gone import leave_when_gone
from ..hooks import HookQueue, Kind
from ..source_turns import SourceTurns
from ..store.rows import Row
from ..store.store import Store
from ..store.writer import FencedError
from .feed import Feeds
from .keeping import Keeping, found_here
from .kept import Taken, taken_up
from .orders import rules_of
from .rules import Rules
from .run_log import RunLog
from .view import View

STOP_RETRY_S = 10.0
FIRST_EVENT_WITHIN_S = 2.0
"""A client is answered when its run's first event is written; on a full disk after so long, without."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Shared:
    """What all watches of one server use."""

    rules: Rules
    store: Store
    hooks: HookQueue
    told: Counter[str]
    """Events by name, since this process began."""
    on_end: Callable[[Watch], Awaitable[None]]
    """Called when an outcome is told and remembered."""
    source_turns: SourceTurns
    feeds: Feeds


class Watch:
    """The way of one run to its outcome. `open` begins it."""

    def __init__(self, row: Row, plan: Plan, secrets: dict[str, str], taken: Taken, shared: Shared) -> None:
        self.row = row
        feed = shared.feeds.of(row.day, row.rid)
        feed.is_own = True
        self.log = RunLog(row, shared.store, view=taken.view, feed=feed, told=shared.told)
        self._read_before = taken.so_far
        self._keeping = Keeping(row, shared.store, taken.view) if shared.store.is_shared else None
        if self._keeping is not None:
            self.log.with_fold = self._keeping.with_fold
        self._plan = plan
        self._buckets = row.buckets
        self._secrets = secrets
        self._shared = shared
        self._run: Run | None = None
        self._is_closing = False
        self._turn = shared.source_turns.turn(plan)
        self._hurry = Flag()
        self._is_released = row.is_released
        self._stopping: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, row: Row, plan: Plan, secrets: dict[str, str], shared: Shared, *, is_new: bool
    ) -> Self:
        """Begin to watch the run in *row*, or take it up.

        Args:
            plan: The one in *row*, read.
            secrets: Values by the names that its profile uses.
            is_new: No server has ordered it yet.
        """
        taken = (
            Taken(View(row.run), None) if is_new else await taken_up(shared.store, row, planned=knows(plan))
        )
        taken = await found_here(row, taken, shared.store, shared.rules)
        watch = cls(row, plan, secrets, taken, shared)
        try:
            if not watch.log.is_begun:
                first = watch.log.say("run_accepted", host=str(row.instance), labels=row.labels)
                await asyncio.wait({asyncio.create_task(first)}, timeout=FIRST_EVENT_WITHIN_S)
            elif watch.view.word != row.state:
                await shared.store.update(row, state=watch.view.word)
        except BaseException:  # whoever follows it here hears of it from whoever watches it
            watch.log.feed.is_own = False
            raise
        watch._task = asyncio.create_task(watch._course(is_new=is_new), name=f"watch {row.run}")
        return watch

    @property
    def view(self) -> View:
        """What polling shows."""
        return self.log.view

    async def close(self) -> None:
        """Stop watching, without a word in the stream."""
        self._is_closing = True
        self._end_stopping()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(FencedError, SQLAlchemyError):  # what was not written, nobody has seen
            if self._keeping is not None:
                await self._keeping.once(self._files)
            await self.log.end()
        if self._run is not None:
            await self._run.leave()

    async def stop(self) -> None:
        """End the run on the instance; tried until it is over, by the next server too."""
        self.begin_to_stop()
        await self._shared.store.update(self.row, is_stopping=True)

    def begin_to_stop(self) -> None:
        """As `stop`, when it is written down already."""
        self.row.is_stopping = True
        self._begin_stopping()
        self._hurry.set()

    async def release(self) -> None:
        """The instance is gone: end the run here."""
        if not self.row.is_released:
            await self._shared.store.update(self.row, is_released=True)
        await self.leave_released()

    async def leave_released(self) -> None:
        """As `release`, when it is written down already."""
        self._is_released = self.row.is_released = True
        self._hurry.set()
        if self._run is not None:
            await self._run.leave("instance-gone", verdicts.exit_code("instance-gone"))

    async def warn(self, message: str) -> None:
        """Tell the clients something that ends nothing."""
        await self.log.say("warning", message=message)

    def give_secrets(self, values: Mapping[str, str]) -> None:
        """Take secrets for when the agent must be started again."""
        self._secrets.update(values_of(rules_of(self._plan, self._buckets), values)[0])
        if self._run is not None:
            self._run.give_secrets(self._secrets)

    # -- the way to the outcome

    async def _course(self, *, is_new: bool) -> None:
        try:
            await self._to_the_end(is_new=is_new)
        except FencedError:
            log.warning("run_is_anothers", run=self.row.run)

    async def _to_the_end(self, *, is_new: bool) -> None:
        outcome = self.view.outcome
        try:
            if outcome is None and not is_new:
                outcome = await self._ended_while_away()
            if outcome is None:
                outcome = await self._watched(is_new=is_new)
        except FencedError:
            raise
        except ProvisionError as problem:  # what the instance left in the mirrors cannot be read
            outcome = await self._tell_outcome(problem.verdict, problem.exit_code, self._files, problem)
        except Exception as bug:  # one run's bug is not the end of the others
            log.exception("watch_failed", run=self.row.run)
            error = ProvisionError(f"{type(bug).__name__}: {bug}", hint="see the server's log, and report it")
            outcome = await self._tell_outcome("bug", verdicts.exit_code("bug"), self._files, error)
        await self._end(outcome)

    async def _watched(self, *, is_new: bool) -> JsonObject:
        """Follow the run to its outcome, which is told then."""
        uploads = await asyncio.to_thread(sources_within, self._plan, self._shared.rules.uploads)
        await self._take_turn(is_new=is_new)
        order = self._order(uploads, is_new=is_new)
        on_end = scorecard.record if self._keeping is None else None  # else as the run ends here
        self._run = run = Run(self.row.instance, order, on_end=on_end)
        self.view.watch(run.state)
        self.log.so_far = lambda: run.so_far
        if self.row.is_stopping:
            self._begin_stopping()
        if self._is_released:
            await self.leave_released()
        gone_check = asyncio.create_task(self._leave_when_gone(run))
        pump = asyncio.create_task(self._pump(run))
        ended = asyncio.create_task(run.outcome())
        beside = [gone_check]
        if self._keeping is not None:
            beside.append(asyncio.create_task(self._keeping.keep(lambda: run.files)))
        try:
            await asyncio.wait((pump, ended), return_when=asyncio.FIRST_EXCEPTION)
            if not pump.done():
                ended.result()  # a bug in the run: its traceback
            pump.result()
        finally:
            for task in (*beside, pump, ended):
                task.cancel()
            await asyncio.gather(*beside, pump, ended, return_exceptions=True)
            self._turn.end()
        return self.view.outcome or {}

    async def _take_turn(self, *, is_new: bool) -> None:
        """Wait until there is room at the source hosts; who is to be stopped or released does not wait."""
        if not is_new or not self._turn.waits_for:
            self._turn.take()
            return
        hosts = ", ".join(self._turn.waits_for)
        await self.warn(f"begins when fewer runs fetch from {hosts} (`--per-source-host`)")
        waiting = asyncio.create_task(self._turn.wait())
        hurrying = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait((waiting, hurrying), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (waiting, hurrying):
                task.cancel()
            await asyncio.gather(waiting, hurrying, return_exceptions=True)

    @property
    def _files(self) -> RunFiles | None:
        return RunFiles(self.row.stem) if self.row.stem is not None else None

    def _order(self, uploads: tuple[UploadSource, ...], *, is_new: bool) -> Order:
        row = self.row
        return Order(
            plan=self._plan,
            run_id=row.joined or row.run,
            secrets=dict(self._secrets),
            labels=row.labels,
            replace=row.replaces,
            logs_dir=self._shared.rules.logs_dir,
            profile=row.profile,
            outputs=self._shared.rules.outputs_of(row.run),
            uploads=uploads,
            resume=not is_new,
            owed_secrets=frozenset(row.secret_names),
            buckets=self._buckets,
            so_far=self._read_before,
            asks_own_host_only=True,
            sign=sign if self._shared.rules.uses_aws else sign_without_aws,
        )

    async def _pump(self, run: Run) -> None:
        async for event in run.events():
            if self._is_closing:
                return
            self._turn.note(event)
            if run.files is not None and self.row.stem != run.files.stem:
                home = self._shared.store.leases.home
                await self._shared.store.update(self.row, joined=run.id, stem=run.files.stem, home=home)
            if not self.log.knows(event):
                await self._tell(event)
        await self.log.flush()

    async def _tell(self, event: JsonObject) -> None:
        names = event.get("names")
        if event["event"] == "secrets_needed" and isinstance(names, list):
            wanted = {
                rule.name for rule in rules_of(self._plan, self._buckets)
            }  # nobody is asked for what the order has no use for
            event = {**event, "names": [name for name in names if name in wanted]}
        await self.log.tell(event)
        if event["event"] == "run_usable":
            await self.log.flush()
            await self._tell_hooks("usable", {"usable_after_s": event["after_s"]})

    async def _tell_hooks(self, kind: Kind, facts: JsonObject) -> None:
        about = {
            "host": str(self.row.instance),
            "instance_id": self.row.instance.instance_id,
            "labels": self.row.labels,
        }
        await self._shared.hooks.tell(kind, self.row.run, {**about, **facts})

    async def _end(self, outcome: JsonObject) -> None:
        """Hooks first, then the verdict: a server killed in between owes them again under the same key."""
        facts = {"outcome": outcome, "verdict": outcome["verdict"], "next": outcome["next"]}
        await self._tell_hooks("finished", facts)
        await asyncio.to_thread(self._remember_gone, outcome)
        if self._keeping is not None:
            await self._keeping.finish(self._files, outcome)
        await self.log.end()
        summary = await asyncio.to_thread(self.view.summary, time.time())
        verdict = outcome["verdict"]
        await self._shared.store.update(
            self.row, verdict=verdict, state=verdict, summary=summary, ended_unix=time.time()
        )
        self._end_stopping()
        self.log.feed.end()
        await self._shared.on_end(self)

    def _remember_gone(self, outcome: JsonObject) -> None:
        record = registry.find(self.row.joined or self.row.run, self.row.instance)
        if outcome["verdict"] == "instance-gone" and record is not None and record.verdict is None:
            registry.remember(replace(record, verdict="instance-gone"))

    async def _leave_when_gone(self, run: Run) -> None:
        command = self._shared.rules.gone_check
        if command is not None:
            await leave_when_gone(run, command)

    # -- stopping

    def _begin_stopping(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop {self.row.run}")

    def _end_stopping(self) -> None:
        if self._stopping is not None:
            self._stopping.cancel()

    async def _stop(self) -> None:
        while not self.view.is_over:
            run = self._run
            if run is not None:
                try:
                    if self.view.contact == "connected":
                        await run.started()  # it may be beginning on the instance right now
                    await run.stop()
                    return
                except (ProvisionError, TimeoutError) as error:
                    await self.warn(f"the run could not be stopped yet: {error}")
            await asyncio.sleep(STOP_RETRY_S if run is not None else 0.1)

    # -- a run that ended between two servers

    async def _ended_while_away(self) -> JsonObject | None:
        """The outcome of a run that was mirrored to its end, though its stream does not tell yet."""
        record = await asyncio.to_thread(registry.find, self.row.joined or self.row.run, self.row.instance)
        if record is None or record.verdict is None or not record.files.events.exists():
            return None
        tail = EventTail(record.files.events)
        while events := await asyncio.to_thread(tail.read_new):
            for event in events:
                if not self.log.knows(event.data):
                    await self._tell(with_labels(event.data, self.row.labels))
        await self.log.flush()
        outcome = await self._tell_outcome(record.verdict, verdicts.exit_code(record.verdict), record.files)
        if self._keeping is None:
            await asyncio.to_thread(scorecard.record, self.row.instance, record.files, outcome)
        return outcome

    async def _tell_outcome(
        self, verdict: str, exit_code: int, files: RunFiles | None, error: ProvisionError | None = None
    ) -> JsonObject:
        logs = {} if files is None else {"core": files.core, "errors": files.errors, "events": files.events}
        state = await asyncio.to_thread(MirrorState, files.state) if files is not None else None
        outcome = outcome_of(
            self.view.run_state,
            host=str(self.row.instance),
            verdict=verdict,
            exit_code=exit_code,
            labels=self.row.labels,
            logs={name: str(path) for name, path in logs.items()},
            gaps=state.gaps if state is not None else [],
            reconnects=self.view.reconnects,
            error=error,
            warnings=self.view.own_warnings,
        )
        told = {**outcome, "run": self.row.run}
        await self.log.say("outcome", **told)
        return told
