"""Every run of this server: begun once, watched to its end, taken up again after whatever ended the last server.

What clients see of a run is its stream; a step counts when it is written there.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from provision_agent import protocol
from provision_agent.plan import Plan

from .. import hooks, registry, scorecard
from ..errors import ProvisionError
from ..events import EventTail
from ..instance import Instance
from ..mirror import MirrorState
from ..order import Order, new_run_id
from ..outcome import outcome_of
from ..profile import values_of
from ..registry import RunFiles, RunRecord
from ..run import Run
from .orders import Accepted, RunRequest, prepare
from .store import Row, Store
from .stream import StreamWriter, read_events
from .view import View, is_over, summary_of, tell, view_of

MAX_GOING = 2000
RETRY_S = 2.0
STOP_RETRY_S = 10.0

log = structlog.get_logger()


class ConflictError(ProvisionError):
    """The run id is taken."""

    verdict = "conflict"


class BusyError(ProvisionError):
    """More runs are going than one server takes."""

    verdict = "busy"


@dataclass(frozen=True)
class Rules:
    """How this server treats its runs."""

    state_dir: Path
    logs_dir: Path
    profiles: Path | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the server itself holds for profiles that ask for it."""
    gone_check: str | None = None
    hooks: tuple[hooks.Hook, ...] = ()
    keep: int = 1000
    """So many finished runs are remembered."""


class Pool:
    """The runs of one server. `open` takes up what is unfinished; `close` leaves every run going."""

    def __init__(self, rules: Rules, store: Store) -> None:
        self.rules = rules
        self.store = store
        self.events_told: Counter[str] = Counter()
        self._watches: dict[str, Watch] = {}
        self._deliveries: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Take up every unfinished run and every hook that is owed."""
        for row in await self.store.unfinished():
            secrets = values_of(Plan.from_json(row.plan).secrets, self.rules.secrets)[0]
            self._watch(row, secrets, is_new=False)
        for key, body in await self.store.owed():
            self._deliver(key, body)
        await self._forget_old()

    async def close(self) -> None:
        """Stop watching; the runs go on, and the next server takes them up."""
        await asyncio.gather(*(watch.close() for watch in self._watches.values()))
        for task in self._deliveries:
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        await self.store.close()

    def stream_of(self, run: str) -> Path:
        """Where the stream of *run* lies."""
        return self.rules.state_dir / "streams" / f"{run}.jsonl"

    def going(self, run: str) -> Watch | None:
        """The watch of a run that is not finished."""
        return self._watches.get(run)

    def all_going(self) -> Iterator[Watch]:
        """Every unfinished run, newest first."""
        return reversed(list(self._watches.values()))

    async def view_of(self, run: str) -> View:
        """What is known of *run*, going or finished."""
        watch = self._watches.get(run)
        if watch is not None:
            return watch.view
        return await asyncio.to_thread(view_of, run, read_events(self.stream_of(run)))

    async def accept(self, request: RunRequest) -> tuple[Row, bool]:
        """Begin the run that is asked for; returns it, and whether it is new.

        Raises:
            ProfileError, UsageError: it cannot be carried out. ConflictError: the id means another run. BusyError.
        """
        if request.run_id is not None and (found := await self.store.find(request.run_id)) is not None:
            return _same(found, request), False
        if len(self._watches) >= MAX_GOING:
            raise BusyError(
                f"{MAX_GOING} runs are going on this server", hint="ask again when some have ended"
            )
        rules = self.rules
        accepted = await asyncio.to_thread(
            prepare, request, profiles=rules.profiles, held=rules.secrets, scratch=rules.state_dir
        )
        row = _row(request, accepted)
        if registry.find(row.run) is not None:
            raise ConflictError(f"run `{row.run}` is known here from before", hint="choose another `run_id`")
        if not await self.store.add(row):
            found = await self.store.find(row.run)
            assert found is not None
            return _same(found, request), False
        watch = self._watch(row, accepted.secrets, is_new=True)
        for warning in accepted.warnings:
            watch.warn(warning)
        return row, True

    def _watch(self, row: Row, secrets: dict[str, str], *, is_new: bool) -> Watch:
        watch = self._watches[row.run] = Watch(self, row, secrets, is_new=is_new)
        return watch

    async def over(self, watch: Watch) -> None:
        """*watch* has come to its end."""
        self._watches.pop(watch.row.run, None)
        await self._forget_old()

    async def _forget_old(self) -> None:
        """Drop what is known of the oldest finished runs; their mirrors are `provision prune`'s matter."""
        for run in await self.store.forget(keep=self.rules.keep):
            self.stream_of(run).unlink(missing_ok=True)

    async def tell_hooks(self, kind: hooks.Kind, run: str, facts: Mapping[str, Any]) -> None:
        """Owe every hook of *kind* a delivery; on the disk when this returns."""
        for number, hook in enumerate(self.rules.hooks):
            if hook.kind == kind:
                key = f"{run}:{kind}:{number}"
                body = hooks.payload_of(kind, run, facts)
                if await self.store.owe(key, body):
                    self._deliver(key, body)

    def _deliver(self, key: str, body: str) -> None:
        task = asyncio.create_task(self._delivered(key, body), name=f"hook {key}")
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _delivered(self, key: str, body: str) -> None:
        _, kind, number = key.rsplit(":", 2)
        known = [hook for at, hook in enumerate(self.rules.hooks) if (hook.kind, str(at)) == (kind, number)]
        attempts = 0
        for hook in known:
            _, attempts = await hooks.deliver(hook, key, body)
        await self.store.settle(key, attempts=attempts)


class Watch:
    """One run on its way to its outcome."""

    def __init__(self, pool: Pool, row: Row, secrets: dict[str, str], *, is_new: bool) -> None:
        self.row = row
        self.stream = StreamWriter(pool.stream_of(row.run))
        self.view = view_of(row.run, read_events(self.stream.path))
        self._pool = pool
        self._secrets = secrets
        self._run: Run | None = None
        self._is_closing = False
        self._stopping: asyncio.Task[None] | None = None
        if not self.stream.last_id:
            facts = {"host": str(self.instance), "labels": row.labels}
            self._write(_event("run_accepted", row.run, **facts))
        self._task = asyncio.create_task(self._course(is_new=is_new), name=f"watch {row.run}")

    @property
    def instance(self) -> Instance:
        """The machine."""
        return RunRecord(run="", stem="", started_unix=0, instance=self.row.instance).to_instance()

    async def close(self) -> None:
        """Stop watching, without a word in the stream."""
        self._is_closing = True
        if self._stopping is not None:
            self._stopping.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._run is not None:
            await self._run.leave()
        self.stream.end()

    async def stop(self) -> None:
        """End the run on the instance; tried until it is over, by the next server too."""
        await self._pool.store.update(self.row, is_stopping=True)
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop {self.row.run}")

    async def release(self) -> None:
        """The instance is gone: end the run here."""
        if self._run is not None:
            await self._run.leave("instance-gone", protocol.VERDICTS["instance-gone"])

    def warn(self, message: str) -> None:
        """Tell the clients something that ends nothing."""
        self._write(_event("warning", self.row.run, message=message))

    def give_secrets(self, values: Mapping[str, str]) -> None:
        """Take secrets for when the agent must be started again."""
        self._secrets.update(values_of(Plan.from_json(self.row.plan).secrets, values)[0])
        if self._run is not None:
            self._run.give_secrets(self._secrets)

    # -- the way to the outcome

    async def _course(self, *, is_new: bool) -> None:
        outcome = self.view["outcome"]
        try:
            if outcome is None and not is_new:
                outcome = await self._finished_while_away()
            if outcome is None:
                outcome = await self._watched(is_new=is_new)
        except Exception as bug:  # one run's bug is not the end of the others
            log.exception("watch_failed", run=self.row.run)
            outcome = self._own_outcome(
                "bug",
                70,
                ProvisionError(f"{type(bug).__name__}: {bug}", hint="see the server's log, and report it"),
            )
            await self._tell(_event("outcome", self.row.run, **outcome))
        await self._end(outcome)

    async def _watched(self, *, is_new: bool) -> dict[str, Any]:
        row, rules = self.row, self._pool.rules
        order = Order(
            plan=Plan.from_json(row.plan),
            run_id=row.joined or row.run,
            secrets=dict(self._secrets),
            labels=row.labels,
            replace=row.replaces,
            logs_dir=rules.logs_dir,
            profile=row.profile,
            resume=not is_new,
            owed_secrets=frozenset(row.secret_names),
        )
        self._run = run = Run(self.instance, order)
        helpers = []
        if rules.gone_check is not None:
            facts = hooks.facts_for_command(row.run, str(run.instance), run.instance.instance_id, row.labels)
            helpers.append(
                hooks.leave_when_gone(
                    run,
                    rules.gone_check,
                    facts,
                    is_out_of_contact=lambda: self.view["contact"] not in (None, "connected"),
                    every_s=hooks.GONE_CHECK_EVERY_S,
                )
            )
        if row.is_stopping and self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"stop {row.run}")
        tasks = [asyncio.create_task(helper) for helper in helpers]
        pump = asyncio.create_task(self._pump(run))
        ended = asyncio.create_task(run.outcome())
        try:
            await asyncio.wait((pump, ended), return_when=asyncio.FIRST_EXCEPTION)
            if not pump.done():
                ended.result()  # a bug in the run: its traceback
            pump.result()
        finally:
            for task in (*tasks, pump, ended):
                task.cancel()
            await asyncio.gather(*tasks, pump, ended, return_exceptions=True)
        return dict(self.view["outcome"])

    async def _pump(self, run: Run) -> None:
        async for event in run.events():
            if self._is_closing:
                return
            if run.files is not None and self.row.stem != run.files.stem:
                await self._pool.store.update(self.row, joined=run.id, stem=run.files.stem)
            if event.get("from") != "collector":
                if int(event["seq"]) > self.view["seq"]:
                    await self._tell(event)
            elif event["event"] != "run_accepted":
                await self._tell(event)

    async def _tell(self, event: dict[str, Any]) -> None:
        while True:
            try:
                self._write(event)
                break
            except OSError as error:  # a full disk: nobody has seen the event, so it can wait
                log.warning("stream_not_written", run=self.row.run, why=error.strerror)
                await asyncio.sleep(RETRY_S)
        if event["event"] == "run_usable":
            await self._pool.tell_hooks(
                "usable", self.row.run, {**self._facts(), "usable_after_s": event["after_s"]}
            )

    def _write(self, event: dict[str, Any]) -> None:
        if event.get("from") == "collector":  # one sequence over all servers that told this story
            event = {**event, "seq": self.view["collector_seq"] + 1}
        self.stream.append(event)
        self._pool.events_told[str(event["event"])] += 1
        tell(self.view, event)

    async def _end(self, outcome: dict[str, Any]) -> None:
        """Hooks first, then the verdict: a server killed in between owes them again under the same key."""
        facts = {**self._facts(), "outcome": outcome, "verdict": outcome["verdict"], "next": outcome["next"]}
        await self._pool.tell_hooks("finished", self.row.run, facts)
        await asyncio.to_thread(self._remember, outcome)
        summary = summary_of(self.view, time.time())
        await self._pool.store.update(self.row, verdict=outcome["verdict"], summary=summary)
        if self._stopping is not None:
            self._stopping.cancel()
        self.stream.end()
        await self._pool.over(self)

    def _facts(self) -> dict[str, Any]:
        instance = self.instance
        return {"host": str(instance), "instance_id": instance.instance_id, "labels": self.row.labels}

    def _remember(self, outcome: Mapping[str, Any]) -> None:
        record = registry.find(self.row.joined or self.row.run)
        if outcome["verdict"] == "instance-gone" and record is not None and record.verdict is None:
            registry.remember(replace(record, verdict="instance-gone"))

    async def _stop(self) -> None:
        while not is_over(self.view):
            run = self._run
            if run is not None:
                try:
                    if self.view["contact"] == "connected":
                        await run.started()  # it may be beginning on the instance right now
                    await run.stop()
                    return
                except (ProvisionError, TimeoutError) as error:
                    self.warn(f"the run could not be stopped yet: {error}")
            await asyncio.sleep(STOP_RETRY_S if run is not None else 0.1)

    # -- a run that ended between two servers

    async def _finished_while_away(self) -> dict[str, Any] | None:
        """The outcome of a run that was mirrored to its end, though its stream does not tell yet."""
        record = registry.find(self.row.joined or self.row.run)
        if record is None or record.verdict is None or not record.files.events.exists():
            return None
        tail = EventTail(record.files.events)
        while events := tail.read_new():
            for event in events:
                if int(event["seq"]) > self.view["seq"]:
                    await self._tell(event)
        verdict = record.verdict
        outcome = self._own_outcome(verdict, protocol.exit_code(verdict), None, record.files)
        await asyncio.to_thread(scorecard.record, self.instance, record.files.events, outcome)
        await self._tell(_event("outcome", self.row.run, **outcome))
        return outcome

    def _own_outcome(
        self, verdict: str, exit_code: int, error: ProvisionError | None, files: RunFiles | None = None
    ) -> dict[str, Any]:
        if files is None and self.row.stem is not None:
            files = RunFiles(self.row.stem)
        logs = {} if files is None else {"core": files.core, "errors": files.errors, "events": files.events}
        return outcome_of(
            self.view,
            host=str(self.instance),
            verdict=verdict,
            exit_code=exit_code,
            labels=self.row.labels,
            logs={name: str(path) for name, path in logs.items()},
            gaps=MirrorState(files.state).gaps if files is not None else [],
            reconnects=self.view["reconnects"],
            error=error,
        )


def _row(request: RunRequest, accepted: Accepted) -> Row:
    return Row(
        run=request.run_id or new_run_id(),
        request_hash=request.hash,
        instance=registry.record_of(accepted.instance),
        plan=accepted.plan.to_json(),
        profile=accepted.plan.name,
        labels=request.labels,
        secret_names=sorted(accepted.secrets),
        replaces=request.replace,
    )


def _same(found: Row, request: RunRequest) -> Row:
    if found.request_hash != request.hash:
        raise ConflictError(
            f"run `{found.run}` was asked for with another body",
            hint="choose another `run_id`, or send the same body",
        )
    return found


def _event(event: str, run: str, /, **fields: Any) -> dict[str, Any]:
    ts = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    own = {"format": protocol.FORMAT, "ts": ts, "run": run, "seq": 0, "event": event, "from": "collector"}
    return {**fields, **own}
