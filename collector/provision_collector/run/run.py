"""One run as this side sees it, left to right: connect, order, watch, verdict.

The instance decides and this side watches: a run goes on without us, and its verdict is its own `run_finished`
event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from provision_agent.contract import verdicts
from provision_agent.contract.plan_jobs import MAX_MIRRORED_JOBS
from provision_agent.contract.status import RunState

from ..errors import HostUnreachableError, LocalMachineError, ProtocolFaultError, ProvisionError
from ..instance import Flag, Instance, Link
from ..storage import in_thread
from . import registry
from .access import keep_proving
from .dispatch import Dispatch
from .outcome import Outcome, outcome_of
from .outputs import Outputs
from .reach import Reach
from .registry import RunFiles, RunRecord
from .spec import NO_BUCKETS, Known, Order, ReadSoFar, knows, new_run_id
from .state import LocalRun
from .watcher import Watcher

log = structlog.get_logger()

WORD_AFTER_DEADLINE_S = 30.0
"""How long after the run's deadline its verdict may take to get here."""
JOBS_SPARE_S = 600.0
"""What jobs with a timeout may take beside it: to be begun, ended, and told of."""

OnEnd = Callable[[Instance, RunFiles, Outcome], None]
"""Takes the instance, the run's mirrors here, and how it ended."""


class Run:
    """A run that this process watches. Leaving it does not end it; `stop` does.

    Any number of `events` iterators may run; each sees every event from the first.

    Args:
        on_end: Is told, in a thread, how a run ended that was watched to its end: what it raises is raised to whoever
            waits for the outcome.
    """

    def __init__(self, instance: Instance, order: Order, *, on_end: OnEnd | None = None) -> None:
        self.instance = instance
        self._on_end = on_end
        self._order = order
        self._accepted_unix = int(time.time())
        self._local = LocalRun(
            order.run_id or new_run_id(),
            planned=None if order.plan is None else knows(order.plan),
            so_far=order.so_far,
        )
        self._link = Link(instance, self._local.emit)
        self._dispatch = Dispatch(
            order,
            instance,
            self._link,
            self._local.emit,
            run=self._local.run,
            accepted_unix=self._accepted_unix,
        )
        self._reach = Reach(instance, self._local, self._dispatch, self._link)
        self._watcher = Watcher(self._local, self._dispatch, self._link, self._reach.look)
        self._outputs = Outputs(
            order.outputs, registry.identity_of(instance), self._dispatch, self._link, self._local.emit
        )
        self._started = Flag()
        self._leaving: tuple[str, int] | None = None
        self._local.emit("run_accepted", host=str(instance), labels=dict(order.labels))
        self._task = asyncio.create_task(self._course(), name=f"run {self.id}")
        self._task.add_done_callback(lambda _: self._local.changed())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    @property
    def id(self) -> str:
        """The run's id; one that joins learns it from the instance."""
        return self._local.run

    @property
    def files(self) -> RunFiles | None:
        """The mirrors on this machine; None until the instance has said which run it is."""
        return self._local.files

    @property
    def status(self) -> Mapping[str, object]:
        """The state of the run, folded from its events: the fields of `status.json`."""
        return self._local.state.to_json()

    @property
    def state(self) -> RunState:
        """The state of the run, folded from its events: once in this process, here."""
        return self._local.state

    @property
    def so_far(self) -> ReadSoFar | None:
        """What a later process need not read again, once all is told that `events` gave; None while that cannot be said."""
        return self._local.so_far()

    @property
    def is_started(self) -> bool:
        """True once the instance has the run: from then on it goes on without this process."""
        return self._started.is_set()

    @property
    def labels(self) -> dict[str, str]:
        """Those of the order; of a run that is joined, those that this side recorded when it started it.

        What labels the instance says that the run has is never among them: see `with_labels`.
        """
        return dict(self._dispatch.labels)

    @property
    def known(self) -> Known | None:
        """What this side knows of the run from the profile that it was started with; None when it knows nothing."""
        return self._dispatch.known

    @property
    def warnings(self) -> tuple[str, ...]:
        """What this side warned of so far."""
        return tuple(self._local.own_warnings)

    @property
    def has_contact(self) -> bool:
        """There is a connection to the instance now."""
        return self._link.is_up

    @property
    def may_go_on(self) -> bool:
        """True once the order was sent: whether it arrived is known when `is_started`."""
        return self._dispatch.is_sent

    async def events(self) -> AsyncIterator[dict[str, object]]:
        """Every event of the run from its first, the agent's and this side's (``"from": "collector"``), with `labels`.

        Labels that only the instance knows are its `instance_labels`.

        Ends after the `outcome` event. A slow reader costs no memory: events are read from the mirror.
        """
        async for event in self._local.events(is_abandoned=self._task.done):
            yield self._told(event)
        if self._local.outcome is None:
            self._task.result()  # a bug here, or cancelled from outside: raised to whoever listens

    def _told(self, event: dict[str, object]) -> dict[str, object]:
        if event["event"] == "secrets_needed" and event.get("from") != "collector":
            known = {rule.name for rule in self.known.secrets} if self.known is not None else set()
            names = event.get("names")
            event["names"] = [name for name in names if name in known] if isinstance(names, list) else []
        if event["event"] == "sources_needed":
            asked, known_here = (
                event.get("urls"),
                self.known.buckets if self.known is not None else NO_BUCKETS,
            )
            urls = [str(url) for url in asked] if isinstance(asked, list) else []
            event["urls"] = [source.url for source in known_here.only(urls).sources]
        return with_labels(event, self.labels)

    async def started(self) -> None:
        """Wait until the instance has taken the run (or it became clear that it will not: see `outcome`)."""
        await self._unless_over(self._started)

    async def caught_up(self) -> None:
        """Wait until all that the instance has written so far is in the mirrors, or the watching has ended."""
        await self._unless_over(self._watcher.caught_up)

    async def uploaded(self) -> None:
        """Wait until each of the plan's uploads is there or has failed, or the watching has ended."""
        await self._unless_over(self._watcher.uploading.settled)

    async def outcome(self) -> Outcome:
        """Wait for the end; the fields are those of docs/SCRIPTING.md."""
        with suppress(asyncio.CancelledError):
            await asyncio.shield(self._task)
        if self._local.outcome is None:
            raise asyncio.CancelledError
        return self._local.outcome

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
            if not self._local.is_finished:  # else the end of the run was quicker than the answer
                raise

    async def leave(self, verdict: str = "cancelled", exit_code: int = 130) -> None:
        """Stop watching. The run goes on; `provision attach` finds it again.

        Args:
            verdict: What the outcome says then, if the run has no verdict yet.
            exit_code: Its exit code.
        """
        await asyncio.sleep(0)  # a course that has not begun would end without its outcome
        if not self._task.done() and self._local.outcome is None:  # else it is at its last words already
            self._leaving = (verdict, exit_code)
            self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _unless_over(self, event: asyncio.Event) -> None:
        waiting = asyncio.create_task(_wait(event))
        await asyncio.wait((waiting, self._task), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def _course(self) -> None:
        error: ProvisionError | None = None
        try:
            await self._work()
            verdict = str(self.state.verdict)
            code = verdicts.exit_code(verdict)
        except ProvisionError as problem:
            error = problem.of_a_run() if isinstance(problem, ProtocolFaultError) else problem
            verdict, code = error.verdict, error.exit_code
        except TimeoutError:
            verdict, code = "timeout", verdicts.exit_code("timeout")
        except asyncio.CancelledError:
            if self._leaving is None:
                raise
            verdict, code = self._leaving
        finally:
            await self._reach.close()
            await self._outputs.close()
            self._link.drop()
        outcome = await self._finish(verdict, code, error)
        if self._on_end is not None and (self._leaving is None or verdict == "instance-gone"):
            assert self.files is not None
            await asyncio.to_thread(self._on_end, self.instance, self.files, outcome)

    async def _work(self) -> None:
        first = (self._dispatch.sign_ahead(), self._dispatch.ask_hosts(), self._link.connected())
        tasks = [asyncio.create_task(each) for each in first]
        try:
            await asyncio.gather(*tasks)  # the first that fails ends the wait
        finally:
            for task in tasks:
                task.cancel()
        await self._dispatch.take_place()
        files = await asyncio.to_thread(self._choose_files)
        await self._local.bind(self._dispatch.run, files)
        self._local.mirror_jobs(self._dispatch.told.jobs[:MAX_MIRRORED_JOBS])
        await self._remember(files, verdict=None)
        self._started.set()
        await self._outputs.begin()
        proving = asyncio.create_task(keep_proving(self.instance, self._local.emit))
        try:
            async with asyncio.timeout(self._dispatch.limit_s + WORD_AFTER_DEADLINE_S) as deadline:
                lifting = asyncio.create_task(self._lift(deadline))
                try:
                    await self._watcher.watch()
                finally:
                    lifting.cancel()
        finally:
            proving.cancel()
        await self._reach.settle()
        await self._outputs.finish()

    async def _lift(self, deadline: asyncio.Timeout) -> None:
        """Once a job has begun, the run may take as long as its jobs may."""
        await self._local.job_begun.wait()
        limit_s = self._dispatch.told.jobs_limit_s
        if not deadline.expired():
            now = asyncio.get_running_loop().time()
            deadline.reschedule(None if limit_s is None else now + limit_s + JOBS_SPARE_S)

    def _choose_files(self) -> RunFiles:
        """Those of an earlier watcher on this machine, wherever they lie; else new ones in the logs directory."""
        run, started_unix = self._dispatch.run, self._dispatch.started_unix
        record = registry.find(run, self.instance)
        if record is not None and record.started_unix == started_unix and Path(record.stem).parent.is_dir():
            return record.files
        # two instances may have runs of one id that began in one second: each has its own mirrors
        others = {record.stem for record in registry.all_of(run) if not record.is_of(self.instance)}
        while True:
            files = RunFiles.of(self._order.logs_dir, run, started_unix)
            if files.stem not in others and registry.claim(files.stem, self.instance):
                return files
            started_unix += 1

    async def _finish(self, verdict: str, code: int, error: ProvisionError | None) -> Outcome:
        files = self.files
        if files is None:
            files = RunFiles.of(self._order.logs_dir, self.id, self._accepted_unix)
            await self._local.write_what_is_left(files)
        outcome = outcome_of(
            self.state,
            host=str(self.instance),
            verdict=verdict,
            exit_code=code,
            labels=self.labels,
            logs=files.logs(),
            gaps=self._watcher.gaps,
            reconnects=self._link.reconnects,
            error=error,
            warnings=self._local.own_warnings,
            outputs=self._outputs.outcome(),
        )
        if self.is_started and self._local.is_finished:
            await self._remember(files, verdict=verdict)
        self._local.end(outcome)
        return outcome

    async def _remember(self, files: RunFiles, *, verdict: str | None) -> None:
        record = RunRecord(
            run=self.id,
            stem=files.stem,
            started_unix=self._dispatch.started_unix,
            instance=registry.record_of(self.instance),
            workspace=self._dispatch.workspace,
            profile=self._order.profile or self.state.name,
            labels=self.labels,
            verdict=verdict,
            known=None if self.known is None else self.known.to_json(),
            is_named_here=self._dispatch.is_named_here,
        )
        try:
            await in_thread(registry.remember, record)
        except (OSError, LocalMachineError) as error:
            if verdict is None:
                log.warning(
                    "run not remembered",
                    run=self.id,
                    why=str(error),
                    next=f"watch it from here; later `provision attach {self.instance.options}` finds it",
                )


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def with_labels(event: Mapping[str, object], labels: Mapping[str, str]) -> dict[str, object]:
    """*event* with this side's *labels*; others that it brings are marked as `instance_labels`.

    Args:
        event: An event of either side.
        labels: Those that the run was started with here.

    Returns:
        A copy; *event* is as it was.
    """
    told = dict(event)
    theirs = told.pop("labels", None)
    if labels or theirs is not None:
        told["labels"] = dict(labels)
    if isinstance(theirs, dict) and theirs and theirs != labels:
        told["instance_labels"] = theirs
    return told
