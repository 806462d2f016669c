"""One run as this side sees it, left to right: connect, order, watch, verdict.

The instance decides and this side watches: a run goes on without us, and its verdict is its own `run_finished`
event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from provision_agent import protocol

from . import registry, scorecard
from .dispatch import Dispatch
from .errors import HostUnreachableError, ProvisionError
from .instance import Instance, Link
from .order import Order, new_run_id
from .outcome import outcome_of
from .progress import Progress
from .registry import RunFiles, RunRecord
from .watcher import Watcher

WORD_AFTER_DEADLINE_S = 30.0
"""How long after the run's deadline its verdict may take to get here."""

log = structlog.get_logger()


class Run:
    """A run that this process watches. Leaving it does not end it; `stop` does.

    Any number of `events` iterators may run; each sees every event from the first.
    """

    def __init__(self, instance: Instance, order: Order) -> None:
        self.instance = instance
        self._order = order
        self._accepted_unix = int(time.time())
        self._progress = Progress(order.run_id or new_run_id())
        self._link = Link(instance, self._progress.emit)
        self._dispatch = Dispatch(
            order,
            instance,
            self._link,
            self._progress.emit,
            run=self._progress.run,
            accepted_unix=self._accepted_unix,
        )
        self._watcher = Watcher(self._progress, self._dispatch, self._link)
        self._started = asyncio.Event()
        self._leaving: tuple[str, int] | None = None
        self._progress.emit("run_accepted", host=str(instance), labels=dict(order.labels))
        self._task = asyncio.create_task(self._course(), name=f"run {self.id}")
        self._task.add_done_callback(lambda _: self._progress.changed())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    @property
    def id(self) -> str:
        """The run's id; one that joins learns it from the instance."""
        return self._progress.run

    @property
    def files(self) -> RunFiles | None:
        """The mirrors on this machine; None until the instance has said which run it is."""
        return self._progress.files

    @property
    def status(self) -> Mapping[str, Any]:
        """The state of the run, folded from its events: the fields of `status.json`."""
        return self._progress.status

    @property
    def is_started(self) -> bool:
        """True once the instance has the run: from then on it goes on without this process."""
        return self._started.is_set()

    @property
    def labels(self) -> dict[str, str]:
        """Those of the run on the instance, once they are known; before, those of the order."""
        return dict(self.status.get("labels") or self._order.labels)

    @property
    def has_contact(self) -> bool:
        """There is a connection to the instance now."""
        return self._link.is_up

    @property
    def may_go_on(self) -> bool:
        """True once the order was sent: whether it arrived is known when `is_started`."""
        return self._dispatch.is_sent

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Every event of the run from its first, the agent's and this side's (``"from": "collector"``), with its labels.

        Ends after the `outcome` event. A slow reader costs no memory: events are read from the mirror.
        """
        async for event in self._progress.events(is_abandoned=self._task.done):
            yield {**event, "labels": self.labels} if self.labels else event
        if self._progress.outcome is None:
            self._task.result()  # a bug here, or cancelled from outside: raised to whoever listens

    async def started(self) -> None:
        """Wait until the instance has taken the run (or it became clear that it will not: see `outcome`)."""
        await self._unless_over(self._started)

    async def caught_up(self) -> None:
        """Wait until all that the instance has written so far is in the mirrors, or the watching has ended."""
        await self._unless_over(self._watcher.caught_up)

    async def outcome(self) -> dict[str, Any]:
        """Wait for the end; the fields are those of docs/SCRIPTING.md."""
        with suppress(asyncio.CancelledError):
            await asyncio.shield(self._task)
        if self._progress.outcome is None:
            raise asyncio.CancelledError
        return self._progress.outcome

    def give_secrets(self, values: Mapping[str, str]) -> None:
        """Take *values* for whenever an agent must be started again; answers `secrets_needed`."""
        self._dispatch.give_secrets(values)

    async def stop(self) -> None:
        """End the run on the instance; `outcome` then says `cancelled`. Partial downloads stay."""
        if self._dispatch.is_sent:
            await self.started()  # the answer is on its way
        if not self.is_started:
            await self.leave()
            return
        try:
            await self._dispatch.stop()
        except HostUnreachableError:
            if not self._progress.is_finished:  # else the end of the run was quicker than the answer
                raise

    async def leave(self, verdict: str = "cancelled", exit_code: int = 130) -> None:
        """Stop watching. The run goes on; `provision attach` finds it again."""
        if not self._task.done() and self._progress.outcome is None:  # else it is at its last words already
            self._leaving = (verdict, exit_code)
            self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _unless_over(self, event: asyncio.Event) -> None:
        waiting: asyncio.Task[Any] = asyncio.create_task(event.wait())
        waits: list[asyncio.Task[Any]] = [waiting, self._task]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def _course(self) -> None:
        error: ProvisionError | None = None
        try:
            await self._work()
            verdict = str(self.status["verdict"])
            code = protocol.exit_code(verdict)
        except ProvisionError as problem:
            error, verdict, code = problem, problem.verdict, problem.exit_code
        except TimeoutError:
            verdict, code = "timeout", protocol.exit_code("timeout")
        except asyncio.CancelledError:
            if self._leaving is None:
                raise
            verdict, code = self._leaving
        finally:
            self._link.drop()
        outcome = self._finish(verdict, code, error)
        if self._leaving is None or verdict == "instance-gone":
            await asyncio.to_thread(self._score, outcome)

    async def _work(self) -> None:
        await self._link.connected()
        await self._dispatch.place()
        self._progress.bind(self._dispatch.run, self._choose_files())
        self._remember(verdict=None)
        self._started.set()
        left_s = self._dispatch.remaining_s
        async with asyncio.timeout(None if left_s is None else max(left_s, 0.0) + WORD_AFTER_DEADLINE_S):
            await self._watcher.watch()

    def _choose_files(self) -> RunFiles:
        """Those of an earlier watcher on this machine, wherever they lie; else new ones in the logs directory."""
        run, started_unix = self._dispatch.run, self._dispatch.started_unix
        record = registry.find(run)
        if record is None or record.started_unix != started_unix or not Path(record.stem).parent.is_dir():
            return RunFiles.of(self._order.logs_dir, run, started_unix)
        there = record.to_instance()
        if (there.host, there.port) == (self.instance.host, self.instance.port):
            return record.files
        # if both began now, two instances have a run of this name, and the other one's mirrors are not ours
        return RunFiles.of(self._order.logs_dir, run, started_unix + self._dispatch.is_new)

    def _finish(self, verdict: str, code: int, error: ProvisionError | None) -> dict[str, Any]:
        if self.files is None:
            self._progress.write_what_is_left(RunFiles.of(self._order.logs_dir, self.id, self._accepted_unix))
        files = self.files
        assert files is not None
        paths = {"core": files.core, "errors": files.errors, "events": files.events}
        outcome = outcome_of(
            self.status,
            host=str(self.instance),
            verdict=verdict,
            exit_code=code,
            labels=self.labels,
            logs={name: str(path) for name, path in paths.items() if path.exists()},
            gaps=self._watcher.gaps,
            reconnects=self._link.reconnects,
            error=error,
        )
        if self.is_started and self._progress.is_finished:
            self._remember(verdict=verdict)
        self._progress.end(outcome)
        return outcome

    def _remember(self, *, verdict: str | None) -> None:
        assert self.files is not None
        registry.remember(
            RunRecord(
                run=self.id,
                stem=self.files.stem,
                started_unix=self._dispatch.started_unix,
                instance=registry.record_of(self.instance),
                workspace=self._dispatch.workspace,
                profile=self._order.profile or str(self.status.get("name") or ""),
                labels=dict(self._order.labels),
                verdict=verdict,
            )
        )

    def _score(self, outcome: dict[str, Any]) -> None:
        assert self.files is not None
        try:
            scorecard.record(self.instance, self.files.events, outcome)
        except OSError as error:  # the verdict stands whether it can be remembered or not
            log.warning("scorecard_not_written", run=self.id, why=str(error))
