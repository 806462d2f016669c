"""Every run of this server: begun once, watched to its end, taken up again after whatever ended the last server.

What clients see of a run is its stream; a step counts when it is written there.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import structlog
from provision_agent.contract.messages import StopAnswer, StopRequest
from provision_agent.contract.parsing import parse, to_json
from provision_agent.contract.plan import Plan

from ...errors import ProvisionError
from ...files import sources_within
from ...instance import Instance, as_answer
from ...instance.query import ask
from ...profile import values_of
from ...run import registry
from ...run.spec import new_run_id
from ..descriptors import room_here
from ..hooks import HookQueue
from ..instances import Instances, Kept
from ..source_turns import SourceTurns
from ..store.rows import Row
from ..store.store import Store
from .answers import BusyError
from .figures import Figures
from .orders import Accepted, RunRequest, accepted_of, instance_of, rules_of
from .reading import ProfileReader
from .rules import Rules
from .stream import read_events
from .view import View, view_of
from .watch import Shared, Watch

MAX_GOING = 2000

log = structlog.get_logger()


class ConflictError(ProvisionError):
    """The run id is taken."""

    verdict = "conflict"


class Pool:
    """The runs of one server. `open` takes up what is unfinished; `close` leaves every run going."""

    def __init__(self, rules: Rules, store: Store) -> None:
        self.rules = rules
        self.store = store
        self.events_told: Counter[str] = Counter()
        """By name, since this process began."""
        self.runs_ended: Counter[str] = Counter()
        """By verdict, since this process began."""
        self.figures = Figures()
        """What the runs that ended took, since this process began."""
        self.instances = Instances(
            rules.state_dir / "instances.json",
            every_s=rules.watch_instances_s,
            gone_check=rules.gone_check,
            tell=self._tell_health,
        )
        """Those of the runs that are usable, and how they are."""
        self._watches: dict[str, Watch] = {}
        self._broken: dict[str, tuple[Row, str]] = {}
        """Unfinished runs that could not be taken up, and why."""
        self._hooks = HookQueue(rules.hooks, store)
        turns = SourceTurns(rules.per_source_host)
        self._shared = Shared(rules, store, self._hooks, self.events_told, self._over, turns)
        self._reader = ProfileReader(rules.profiles, rules.state_dir)
        self._most_going = min(MAX_GOING, room_here().runs)
        self._accepting = asyncio.Lock()
        """One request is accepted at a time: reading a profile and its plan needs the processor and much memory."""

    async def open(self) -> None:
        """Take up every unfinished run and every hook that is owed."""
        for row in await self.store.unfinished():
            try:
                plan = await asyncio.to_thread(Plan.from_json, row.plan)
                secrets = values_of(rules_of(plan, row.buckets), self.rules.secrets)[0]
                self._watches[row.run] = await Watch.open(row, plan, secrets, self._shared, is_new=False)
            except Exception as error:  # one run is not the end of the others
                log.exception("run_not_taken_up", run=row.run)
                self._broken[row.run] = row, f"{type(error).__name__}: {error}"[:500]
        await self._hooks.resume()
        await self.instances.open()
        await self._forget_old()

    async def close(self) -> None:
        """Stop watching; the runs go on, and the next server takes them up."""
        await self._reader.close()
        await asyncio.gather(*(watch.close() for watch in self._watches.values()))
        await self.instances.close()
        await self._hooks.close()
        await self.store.close()

    async def end_reading(self) -> None:
        """Accept nothing more: what is being read of a profile is given up."""
        await self._reader.close()

    def stream_of(self, run: str) -> Path:
        """Where the stream of *run* lies."""
        return self._shared.stream_of(run)

    def going(self, run: str) -> Watch | None:
        """The watch of a run that is not finished."""
        return self._watches.get(run)

    async def find(self, run: str) -> tuple[Row, Watch | None] | None:
        """What is known of *run*, and its watch while it is not finished; None when there is no such run."""
        if (watch := self._watches.get(run)) is not None:
            return watch.row, watch
        row = await self.store.find(run, with_plan=False)
        if row is None or row.verdict is not None or run in self._broken:
            return None if row is None else (row, None)
        async with self._accepting:  # it is just being begun
            watch = self._watches.get(run)
        return (watch.row, watch) if watch is not None else (row, None)

    def all_going(self) -> Iterator[Watch]:
        """Every unfinished run, newest first."""
        return reversed(list(self._watches.values()))

    def all_broken(self) -> Iterator[tuple[Row, View]]:
        """Every unfinished run that could not be taken up, newest first."""
        for row, why in reversed(list(self._broken.values())):
            yield row, _broken_view(row, why)

    async def view_of(self, run: str) -> View:
        """What is known of *run*, going or finished."""
        watch = self._watches.get(run)
        if watch is not None:
            return watch.view
        if run in self._broken:
            return _broken_view(*self._broken[run])
        return await asyncio.to_thread(view_of, run, read_events(self.stream_of(run)))

    async def end_broken(self, run: str, verdict: str) -> None:
        """Give a run that could not be taken up its *verdict*; any other is left as it is."""
        if run in self._broken:
            row, why = self._broken.pop(run)
            summary = replace(_broken_view(row, why).summary(0.0), state=verdict, verdict=verdict)
            await self.store.update(row, verdict=verdict, summary=summary)
            self.runs_ended[verdict] += 1

    async def stop_broken(self, run: str) -> None:
        """End a run that could not be taken up on its instance. Raises ProvisionError when that cannot be done."""
        if run not in self._broken:
            return
        row, _ = self._broken[run]
        await self.store.update(row, is_stopping=True)
        record = await asyncio.to_thread(registry.find, row.joined or row.run)
        workspace = record.workspace if record is not None else None
        request = StopRequest(run=row.joined or row.run, workspace=workspace)
        await ask(row.instance, "stop", request, as_answer(StopAnswer), workspace=workspace)
        await self.end_broken(run, "cancelled")

    async def accept(self, request: RunRequest) -> tuple[Row, bool]:
        """Begin the run that is asked for; returns it, and whether it is new.

        Raises:
            ProfileError, UsageError: it cannot be carried out. ConflictError: the id means another run. BusyError.
        """
        found = await self._same_run(request)
        if found is not None:
            return found, False
        instance = await asyncio.to_thread(instance_of, request, self.rules.keys_dir)
        plan = await self._reader.read(request)  # may take long: meanwhile others are accepted
        accepted = accepted_of(request, instance, plan, self.rules.secrets)
        await asyncio.to_thread(sources_within, accepted.plan, self.rules.uploads)
        async with self._accepting:
            found = await self._same_run(request)
            if found is not None:
                return found, False
            if len(self._watches) >= self._most_going:
                raise BusyError(
                    f"{len(self._watches)} runs are going on this server, which is as many as it takes",
                    hint="ask again when some have ended; `ulimit -n` before `provision serve` bounds them, too",
                )
            row = _row(request, accepted)
            known = await asyncio.to_thread(registry.find, row.run)
            if known is not None and known.is_named_here:
                raise ConflictError(
                    f"run `{row.run}` is known here from before", hint="choose another `run_id`"
                )
            is_added = await self.store.add(row)
            assert is_added, "its id was free, and one request is accepted at a time"
            if request.watch is not None:
                await self.instances.want(row.run)
            watch = await Watch.open(row, accepted.plan, accepted.secrets, self._shared, is_new=True)
            self._watches[row.run] = watch
        for warning in accepted.warnings:
            await watch.warn(warning)
        return row, True

    async def _tell_health(self, run: str, facts: Mapping[str, object]) -> None:
        await self._hooks.tell("health", run, facts, about=f"@{time.time():.3f}")

    async def _same_run(self, request: RunRequest) -> Row | None:
        """The run that *request* ordered before. Raises ConflictError: its id means another run."""
        found = await self.store.find(request.run_id, with_plan=False) if request.run_id is not None else None
        return None if found is None else _same(found, request)

    async def _over(self, watch: Watch) -> None:
        self._watches.pop(watch.row.run, None)
        row, view = watch.row, watch.view
        self.runs_ended[str(row.verdict)] += 1
        billed_s = time.time() - row.created_unix
        facts, outcome = view.run_state.facts, view.outcome or {}
        gpus = facts.get("gpus")
        kept = Kept(
            row.instance,
            row.run,
            view.run_state.workspace,
            row.profile,
            row.labels,
            len(gpus) if isinstance(gpus, list) else 0,
        )
        await self.instances.run_ended(kept, is_usable=row.verdict in ("complete", "incomplete"))
        self.figures.count(outcome, facts, profile=row.profile, billed_s=billed_s)
        await self._forget_old()

    async def _forget_old(self) -> None:
        """Drop what is known of the oldest finished runs; their mirrors are `provision prune`'s matter."""
        for run in await self.store.forget(keep=self.rules.keep):
            await asyncio.to_thread(self.stream_of(run).unlink, missing_ok=True)


def _broken_view(row: Row, why: str) -> View:
    view = View(row.run)
    view.break_(why)
    return view


def _row(request: RunRequest, accepted: Accepted) -> Row:
    return Row(
        run=request.run_id or new_run_id(),
        request_hash=request.hash,
        instance=parse(
            Instance, registry.record_of(accepted.instance), "instance"
        ),  # with paths that hold in any folder
        plan={
            **accepted.plan.to_json(),
            **({"buckets": to_json(accepted.buckets)} if accepted.buckets.places else {}),
        },
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
