"""The runs of this server: begun once, watched to their end, taken up again after whatever ended the last server.

What clients see of a run is its stream; a step counts when it is written there. A run that another server watches, or
nobody yet, is answered for from the database.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog
from provision_agent.contract.messages import StopAnswer, StopRequest
from provision_agent.contract.plan import Plan
from sqlalchemy.exc import SQLAlchemyError

from ...errors import ProvisionError
from ...files import sources_within
from ...instance import Instance, as_answer
from ...instance.query import ask
from ...profile import values_of
from ...run import registry
from ..descriptors import room_here
from ..hooks import HookQueue
from ..instances import Instances, Kept
from ..source_turns import SourceTurns
from ..store.leases import Orders
from ..store.rows import Row
from ..store.store import Store
from ..store.writer import FencedError
from .answers import BusyError
from .feed import Feed, Feeds
from .figures import Figures
from .keeping import reached_from_here
from .kept import taken_up
from .logs import Log, MirroredLog, SharedLog
from .membership import Duties, Membership
from .new_runs import ConflictError, row_of, the_same
from .orders import Accepted, RunRequest, accepted_of, instance_of, rules_of
from .reading import ProfileReader
from .rules import Rules
from .sealed import sealed_for
from .view import View, broken_view_of
from .watch import Shared, Watch

MAX_GOING = 2000
FORGET_EVERY_S = 600.0

log = structlog.get_logger()


class Pool:
    """The runs of one server. `open` begins to take up what is unfinished; `close` leaves every run going."""

    def __init__(self, rules: Rules, store: Store) -> None:
        self.rules = rules
        self.store = store
        self.feeds = Feeds()
        self.events_told: Counter[str] = Counter()
        """By name, since this process began."""
        self.runs_ended: Counter[str] = Counter()
        """By verdict, since this process began."""
        self.figures = Figures()
        """What the runs that ended took, since this process began."""
        self._watches: dict[str, Watch] = {}
        self._broken: dict[str, tuple[Row, str]] = {}
        """Unfinished runs that could not be taken up, and why."""
        self._opening: set[str] = set()
        """Runs that are just being begun or taken up."""
        self._early: dict[int, dict[str, str]] = {}
        """Secrets that came before their run was taken up, by its number."""
        self._hooks = HookQueue(rules.hooks, store)
        self.instances = Instances(
            store.instances,
            self._hooks,
            every_s=rules.watch_instances_s,
            gone_check=rules.gone_check,
            reach=lambda instance: reached_from_here(instance, store, rules),
        )
        """Those of the runs that are usable, and how they are."""
        turns = SourceTurns(rules.per_source_host)
        self._shared = Shared(rules, store, self._hooks, self.events_told, self._over, turns, self.feeds)
        self._reader = ProfileReader(rules.profiles, rules.state_dir)
        self._most_going = min(MAX_GOING, room_here().runs)
        self._accepting = asyncio.Lock()
        """One request is accepted at a time: reading a profile and its plan needs the processor and much memory."""
        duties = Duties(
            self._take,
            self._obey,
            self._drop,
            self.instances.take_up,
            lambda: self._most_going - len(self._watches),
        )
        self.membership = Membership(store, self.feeds, duties, takes_runs=rules.watches)
        self._forgetting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Answer from now on, and take up every unfinished run and every hook that is owed, beside that."""
        await self.instances.open(self.rules.state_dir / "instances.json")
        await self.membership.join()
        self._forgetting = asyncio.create_task(self._forget_now_and_then(), name="forget")

    async def close(self) -> None:
        """Stop watching; the runs go on, and the next server, or another one, takes them up."""
        await self.membership.stop()
        if self._forgetting is not None:
            self._forgetting.cancel()
            await asyncio.gather(self._forgetting, return_exceptions=True)
        await self._reader.close()
        self.store.writer.is_closing = True
        await asyncio.gather(*(watch.close() for watch in self._watches.values()), return_exceptions=True)
        await self.instances.drop()
        await self._hooks.close()
        await self.membership.leave()
        await self.store.close()

    async def end_reading(self) -> None:
        """Accept nothing more: what is being read of a profile is given up."""
        await self._reader.close()

    @property
    def trouble(self) -> str | None:
        """What keeps this server from writing down what it does; None when nothing does."""
        return "the database does not answer" if self.membership.is_cut else self.store.writer.trouble

    def going(self, run: str) -> Watch | None:
        """The watch of a run that is not finished, and is watched here."""
        return self._watches.get(run)

    async def find(self, run: str) -> tuple[Row, Watch | None] | None:
        """What is known of *run*, and its watch if it has one here; None when there is no such run."""
        if (watch := self._watches.get(run)) is not None:
            return watch.row, watch
        row = await self.store.find(run, with_plan=False)
        if row is None:
            return None
        watch = self._watches.get(run)  # it may have begun meanwhile
        return (row, None) if watch is None else (watch.row, watch)

    def is_over(self, row: Row) -> bool:
        """Whether nothing more comes of a run."""
        return row.verdict is not None or row.run in self._broken

    def feed_of(self, row: Row) -> Feed:
        """What a follower of the run hears."""
        if self.is_over(row):
            feed = Feed(row.day, row.rid)
            feed.end()
            return feed
        return self.feeds.of(row.day, row.rid)

    def log_of(self, row: Row, kind: str) -> Log:
        """A log of a run: a file here, or in the database that servers share."""
        return SharedLog(row, kind, self.store.streams) if self.store.is_shared else MirroredLog(row, kind)

    def all_going(self) -> Iterator[Watch]:
        """Every unfinished run that is watched here, newest first."""
        return reversed(list(self._watches.values()))

    def broken_view(self, run: str) -> View | None:
        """The view of a run that could not be taken up here."""
        return broken_view_of(*self._broken[run]) if run in self._broken else None

    async def view_of(self, row: Row) -> View:
        """What is known of a run, going or finished, here or elsewhere."""
        watch = self._watches.get(row.run)
        if watch is not None:
            return watch.view
        return self.broken_view(row.run) or (await taken_up(self.store, row)).view

    # -- what clients want of a run, whoever watches it

    async def stop(self, row: Row) -> None:
        """End a run on its instance. Raises ProvisionError when that of one that is broken cannot be done."""
        if (watch := self._watches.get(row.run)) is not None:
            await watch.stop()
        elif row.run in self._broken:
            await self._stop_broken(row.run)
        elif row.verdict is None:
            await self.store.leases.order(row.rid, is_stopping=True)
            self.membership.wake()

    async def release(self, row: Row) -> None:
        """The instance is gone: end the run as `instance-gone`."""
        await self.instances.release(row.run)
        if (watch := self._watches.get(row.run)) is not None:
            await watch.release()
        elif row.run in self._broken:
            await self._end_broken(row.run, "instance-gone")
        elif row.verdict is None:
            await self.store.leases.order(row.rid, is_released=True)
            self.membership.wake()

    async def give_secrets(self, row: Row, values: dict[str, str]) -> bool:
        """Hand secrets to whoever watches the run; False when nobody does now."""
        if (watch := self._watches.get(row.run)) is not None:
            watch.give_secrets(values)
            return True
        worker = await self.store.leases.watcher_of(row.rid) if not self.is_over(row) else None
        if worker is not None:
            sealed = sealed_for(worker.public_key, row.run, values)
            await self.store.leases.give_secrets(row.rid, worker.id, sealed)
            self.membership.wake()
        return worker is not None

    async def _obey(self, orders: Orders) -> None:
        watches = {watch.row.rid: watch for watch in self._watches.values()}
        for rid, sealed in orders.secrets:
            row = watches[rid].row if rid in watches else None
            name = row.run if row is not None else await self.store.name_of(rid)
            values = self.membership.seal.opened(sealed, name or "")
            if rid in watches:
                watches[rid].give_secrets(values)
            else:
                self._early[rid] = {**self._early.get(rid, {}), **values}
        for rid in orders.stopping:
            if rid in watches and not watches[rid].row.is_stopping:
                watches[rid].begin_to_stop()
        for rid in orders.released:
            if rid in watches and not watches[rid].row.is_released:
                await watches[rid].leave_released()
        for row, _ in list(self._broken.values()):
            with suppress(ProvisionError):
                if row.rid in orders.released:
                    await self._end_broken(row.run, "instance-gone")
                elif row.rid in orders.stopping:
                    await self._stop_broken(row.run)

    # -- runs that are taken up

    async def _take(self, rids: Sequence[int]) -> None:
        known = {watch.row.rid for watch in self._watches.values()}
        known |= {row.rid for row, _ in self._broken.values()}
        if new := [rid for rid in rids if rid not in known]:
            rows = await self.store.of_numbers(new)
            await asyncio.gather(*(self._take_up(row) for row in rows))
        await self._hooks.resume()

    async def _take_up(self, row: Row) -> None:
        if row.run in self._opening or row.run in self._watches or row.verdict is not None:
            return  # one that was just accepted may have begun to be watched while its row was read
        self._opening.add(row.run)
        try:
            plan, row.instance = await asyncio.to_thread(_read_again, row, self.rules)
            secrets = values_of(rules_of(plan, row.buckets), self.rules.secrets)[0]
            watch = await Watch.open(row, plan, secrets, self._shared, is_new=False)
            await self._keep(watch)
            watch.give_secrets(self._early.pop(row.rid, {}))
        except (FencedError, SQLAlchemyError):
            raise
        except Exception as error:  # one run is not the end of the others
            log.exception("run_not_taken_up", run=row.run)
            self._broken[row.run] = row, f"{type(error).__name__}: {error}"[:500]
            await self.store.update(row, state="broken")
        finally:
            self._opening.discard(row.run)

    async def _keep(self, watch: Watch) -> None:
        """From now on the run is watched here, unless this process was taken for dead while that began."""
        if watch.row.owner == self.store.leases.me:
            self._watches[watch.row.run] = watch
        else:
            watch.log.feed.is_own = False
            await watch.close()

    async def _drop(self) -> None:
        """The runs are others' now."""
        watches, self._watches = self._watches, {}
        self._broken.clear()
        await asyncio.gather(*(watch.close() for watch in watches.values()), return_exceptions=True)
        for feed in self.feeds.all():
            feed.is_own = False
        await self.instances.drop()
        await self._hooks.close()

    async def _end_broken(self, run: str, verdict: str) -> None:
        if run in self._broken:
            row, why = self._broken.pop(run)
            summary = replace(broken_view_of(row, why).summary(0.0), state=verdict, verdict=verdict)
            ended = {"verdict": verdict, "state": verdict, "summary": summary, "ended_unix": time.time()}
            await self.store.update(row, **ended)
            self.runs_ended[verdict] += 1

    async def _stop_broken(self, run: str) -> None:
        row, _ = self._broken[run]
        await self.store.update(row, is_stopping=True)
        record = await asyncio.to_thread(registry.find, row.joined or row.run)
        workspace = record.workspace if record is not None else None
        request = StopRequest(run=row.joined or row.run, workspace=workspace)
        await ask(row.instance, "stop", request, as_answer(StopAnswer), workspace=workspace)
        await self._end_broken(run, "cancelled")

    # -- new runs

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
            row = row_of(request, accepted)
            known = await asyncio.to_thread(registry.find, row.run)
            if known is not None and known.is_named_here:
                raise ConflictError(
                    f"run `{row.run}` is known here from before", hint="choose another `run_id`"
                )
            self._opening.add(row.run)
            try:
                is_added = await self._begin(row, accepted)
            finally:
                self._opening.discard(row.run)
        if not is_added:  # another server was asked for it in the same moment
            found = await self._same_run(request)
            assert found is not None
            return found, False
        for warning in accepted.warnings:
            if (watch := self._watches.get(row.run)) is not None:
                await watch.warn(warning)
        return row, True

    async def _begin(self, row: Row, accepted: Accepted) -> bool:
        """Write the run down, and watch it, or give it to a server that does; False when its id is taken."""
        if self.rules.watches:
            row.owner = self.store.leases.me
            if not await self.store.add(row):
                return False
            await self._keep(
                await Watch.open(row, accepted.plan, accepted.secrets, self._shared, is_new=True)
            )
            return True
        worker = await self.store.leases.watcher_of(None)
        if worker is None:
            raise BusyError(
                "no server that watches runs is there", hint="start `provision serve` without `--no-watch`"
            )
        row.owner = worker.id
        return await self.store.add(row, sealed=sealed_for(worker.public_key, row.run, accepted.secrets))

    async def _same_run(self, request: RunRequest) -> Row | None:
        """The run that *request* ordered before. Raises ConflictError: its id means another run."""
        found = await self.store.find(request.run_id, with_plan=False) if request.run_id is not None else None
        return None if found is None else the_same(found, request)

    async def _over(self, watch: Watch) -> None:
        self._watches.pop(watch.row.run, None)
        watch.log.feed.is_own = False
        self.feeds.drop(watch.log.feed)
        row, view = watch.row, watch.view
        self.runs_ended[str(row.verdict)] += 1
        billed_s = time.time() - row.created_unix
        facts, outcome = view.run_state.facts, view.outcome or {}
        gpus = facts.get("gpus")
        cards = len(gpus) if isinstance(gpus, list) else 0
        kept = Kept(row.instance, row.run, view.run_state.workspace, row.profile, row.labels, cards)
        await self.instances.run_ended(
            kept,
            is_usable=row.verdict in ("complete", "incomplete"),
            is_wanted=row.is_watched_after and not row.is_released,
        )
        self.figures.count(outcome, facts, profile=row.profile, billed_s=billed_s)
        await self._forget_old()

    async def _forget_now_and_then(self) -> None:
        while True:
            with suppress(SQLAlchemyError, FencedError):
                await self._forget_old()
                await self.store.instances.forget()
            await asyncio.sleep(FORGET_EVERY_S)

    async def _forget_old(self) -> None:
        """Drop what is known of the oldest finished runs; their mirrors are `provision prune`'s matter."""
        await self.store.forget(keep=self.rules.keep, keep_days=self.rules.keep_days)


def _read_again(row: Row, rules: Rules) -> tuple[Plan, Instance]:
    return Plan.from_json(row.plan), rules.with_key_here(row.instance)
