"""One run of this server on its way to its outcome: watched, stopped, released, taken up after a crash.

What a `Run` tells comes into the run's story once, whichever server is watching.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from provision_agent.contract import verdicts
from provision_agent.contract.plan import Plan

from ...errors import ProvisionError
from ...instance import Instance
from ...mirror import MirrorState
from ...profile import values_of
from ...run import registry
from ...run.events import EventTail
from ...run.outcome import outcome_of
from ...run.registry import RunFiles, RunRecord
from ...run.run import Run, with_labels
from ...run.spec import Order
from .. import scorecard
from ..gone import leave_when_gone
from ..hooks import Deliveries, Kind
from ..store.store import Row, Store
from .rules import Rules
from .run_log import Story
from .view import View

STOP_RETRY_S = 10.0

log = structlog.get_logger()


class Watch:
    """The way of the run in *row*; *secrets* are by the names that its profile uses.

    It begins at once and calls *on_end* when the outcome is told and remembered.
    """

    def __init__(
        self,
        row: Row,
        secrets: dict[str, str],
        *,
        is_new: bool,
        stream: Path,
        rules: Rules,
        store: Store,
        deliveries: Deliveries,
        told: Counter[str],
        on_end: Callable[[Watch], Awaitable[None]],
    ) -> None:
        self.row = row
        self.instance: Instance = RunRecord(
            run="", stem="", started_unix=0, instance=row.instance
        ).to_instance()
        self.story = Story(row.run, stream, labels=row.labels, told=told)
        self._rules = rules
        self._store = store
        self._deliveries = deliveries
        self._on_end = on_end
        self._secrets = secrets
        self._secret_names = frozenset(rule.name for rule in Plan.from_json(row.plan).secrets)
        self._run: Run | None = None
        self._is_closing = False
        self._stopping: asyncio.Task[None] | None = None
        if not self.story.is_begun:
            self.story.say("run_accepted", host=str(self.instance), labels=row.labels)
        self._task = asyncio.create_task(self._course(is_new=is_new), name=f"watch {row.run}")

    @property
    def view(self) -> View:
        """What polling shows."""
        return self.story.view

    async def close(self) -> None:
        """Stop watching, without a word in the stream."""
        self._is_closing = True
        self._end_stopping()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._run is not None:
            await self._run.leave()
        self.story.end()

    async def stop(self) -> None:
        """End the run on the instance; tried until it is over, by the next server too."""
        self._begin_stopping()
        await self._store.update(self.row, is_stopping=True)

    async def release(self) -> None:
        """The instance is gone: end the run here."""
        if self._run is not None:
            await self._run.leave("instance-gone", verdicts.exit_code("instance-gone"))

    async def warn(self, message: str) -> None:
        """Tell the clients something that ends nothing."""
        await self.story.say_surely("warning", message=message)

    def give_secrets(self, values: Mapping[str, str]) -> None:
        """Take secrets for when the agent must be started again."""
        self._secrets.update(values_of(Plan.from_json(self.row.plan).secrets, values)[0])
        if self._run is not None:
            self._run.give_secrets(self._secrets)

    # -- the way to the outcome

    async def _course(self, *, is_new: bool) -> None:
        outcome = self.view.outcome
        try:
            if outcome is None and not is_new:
                outcome = await self._ended_while_away()
            if outcome is None:
                outcome = await self._watched(is_new=is_new)
        except ProvisionError as problem:  # what the instance left in the mirrors cannot be read
            outcome = await self._tell_outcome(problem.verdict, problem.exit_code, error=problem)
        except Exception as bug:  # one run's bug is not the end of the others
            log.exception("watch_failed", run=self.row.run)
            error = ProvisionError(f"{type(bug).__name__}: {bug}", hint="see the server's log, and report it")
            outcome = await self._tell_outcome("bug", 70, error=error)
        await self._end(outcome)

    async def _watched(self, *, is_new: bool) -> dict[str, Any]:
        """Follow the run to its outcome, which is told then."""
        self._run = run = Run(self.instance, self._order(is_new=is_new))
        if self.row.is_stopping:
            self._begin_stopping()
        gone_check = asyncio.create_task(self._leave_when_gone(run))
        pump = asyncio.create_task(self._pump(run))
        ended = asyncio.create_task(run.outcome())
        try:
            await asyncio.wait((pump, ended), return_when=asyncio.FIRST_EXCEPTION)
            if not pump.done():
                ended.result()  # a bug in the run: its traceback
            pump.result()
        finally:
            for task in (gone_check, pump, ended):
                task.cancel()
            await asyncio.gather(gone_check, pump, ended, return_exceptions=True)
        return dict(self.view.outcome or {})

    def _order(self, *, is_new: bool) -> Order:
        row = self.row
        return Order(
            plan=Plan.from_json(row.plan),
            run_id=row.joined or row.run,
            secrets=dict(self._secrets),
            labels=row.labels,
            replace=row.replaces,
            logs_dir=self._rules.logs_dir,
            profile=row.profile,
            resume=not is_new,
            owed_secrets=frozenset(row.secret_names),
        )

    async def _pump(self, run: Run) -> None:
        async for event in run.events():
            if self._is_closing:
                return
            if run.files is not None and self.row.stem != run.files.stem:
                await self._store.update(self.row, joined=run.id, stem=run.files.stem)
            if not self.story.knows(event):
                await self._tell(event)

    async def _tell(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "secrets_needed":  # nobody is asked for a secret that the order has no use for
            event = {**event, "names": [name for name in event["names"] if name in self._secret_names]}
        await self.story.tell_surely(event)
        if event["event"] == "run_usable":
            await self._tell_hooks("usable", {"usable_after_s": event["after_s"]})

    async def _tell_hooks(self, kind: Kind, facts: Mapping[str, Any]) -> None:
        about = {
            "host": str(self.instance),
            "instance_id": self.instance.instance_id,
            "labels": self.row.labels,
        }
        await self._deliveries.tell(kind, self.row.run, {**about, **facts})

    async def _end(self, outcome: dict[str, Any]) -> None:
        """Hooks first, then the verdict: a server killed in between owes them again under the same key."""
        facts = {"outcome": outcome, "verdict": outcome["verdict"], "next": outcome["next"]}
        await self._tell_hooks("finished", facts)
        await asyncio.to_thread(self._remember_gone, outcome)
        summary = self.view.summary(time.time())
        await self._store.update(self.row, verdict=outcome["verdict"], summary=summary)
        self._end_stopping()
        self.story.end()
        await self._on_end(self)

    def _remember_gone(self, outcome: Mapping[str, Any]) -> None:
        record = registry.find(self.row.joined or self.row.run, self.instance)
        if outcome["verdict"] == "instance-gone" and record is not None and record.verdict is None:
            registry.remember(replace(record, verdict="instance-gone"))

    async def _leave_when_gone(self, run: Run) -> None:
        command = self._rules.gone_check
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

    async def _ended_while_away(self) -> dict[str, Any] | None:
        """The outcome of a run that was mirrored to its end, though its stream does not tell yet."""
        record = registry.find(self.row.joined or self.row.run, self.instance)
        if record is None or record.verdict is None or not record.files.events.exists():
            return None
        tail = EventTail(record.files.events)
        while events := await asyncio.to_thread(tail.read_new):
            for event in events:
                if not self.story.knows(event.data):
                    await self._tell(with_labels(event.data, self.row.labels))
        outcome = self._outcome(record.verdict, verdicts.exit_code(record.verdict), record.files)
        await asyncio.to_thread(scorecard.record, self.instance, record.files.events, outcome)
        await self.story.say_surely("outcome", **outcome)
        return outcome

    async def _tell_outcome(self, verdict: str, exit_code: int, *, error: ProvisionError) -> dict[str, Any]:
        files = RunFiles(self.row.stem) if self.row.stem is not None else None
        outcome = self._outcome(verdict, exit_code, files, error)
        await self.story.say_surely("outcome", **outcome)
        return outcome

    def _outcome(
        self, verdict: str, exit_code: int, files: RunFiles | None, error: ProvisionError | None = None
    ) -> dict[str, Any]:
        logs = {} if files is None else {"core": files.core, "errors": files.errors, "events": files.events}
        outcome = outcome_of(
            self.view.run_state,
            host=str(self.instance),
            verdict=verdict,
            exit_code=exit_code,
            labels=self.row.labels,
            logs={name: str(path) for name, path in logs.items()},
            gaps=MirrorState(files.state).gaps if files is not None else [],
            reconnects=self.view.reconnects,
            error=error,
        )
        return dict(outcome)
