"""One profile on many instances: bounded in number, a canary first, and no fourth failure of one kind.

What came of each instance is kept under the state directory, so the same call again takes up what is unfinished,
leaves what is complete, tries the rest once more, and tells the hooks what they have not been told.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from provision_agent.contract.buckets import Buckets
from provision_agent.contract.plan import Plan
from provision_agent.contract.verdicts import exit_code, worst

from ...errors import ProvisionError, UsageError
from ...files import UploadSource
from ...files.shared import SharedSigning
from ...run.run import Run
from ...run.spec import NO_BUCKETS, Order, OutputsHere, new_run_id
from ..gone import leave_when_gone
from ..hooks import Hook, HookQueue, Kind
from ..scorecard import key_of, record
from ..source_turns import SourceTurns, Turn
from .fleet_state import FleetState, Member
from .targets import Target
from .verdicts import GOOD, errors_of, fingerprint

log = structlog.get_logger()

Teller = Callable[[Member, Mapping[str, object]], None]


@dataclass(frozen=True)
class Rules:
    """How a fleet is brought up."""

    parallel: int = 50
    canary: int = 0
    """So many instances come first, and must become usable before the others begin."""
    stop_after: int | None = None
    """So many equal failures end the rest: what waits is held, what is not yet usable is stopped."""
    per_source_host: int | None = None
    """So many runs fetch from one source host at once; None: as many as there are."""
    replace: bool = False
    gone_check: tuple[str, ...] | None = None
    """The words of a command that says whether an instance is gone."""
    hooks: tuple[Hook, ...] = ()
    uploads: tuple[UploadSource, ...] = ()
    """The files of this machine that every instance gets."""
    outputs: OutputsHere | None = None
    """Where outputs go; each instance has a folder of its own there."""


class Fleet:
    """A fleet on its way up. One process works on a fleet at a time."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        targets: Sequence[Target],
        *,
        secrets: Mapping[str, str],
        logs_dir: Path,
        rules: Rules,
        tell: Teller,
        buckets: Buckets = NO_BUCKETS,
    ) -> None:
        self.name = name
        self.held_because: str | None = None
        self._plan = plan
        self._secrets = dict(secrets)
        self._buckets = buckets
        self._sign = SharedSigning()
        self._logs_dir = logs_dir
        self._rules = rules
        self._tell = tell
        self._targets = {key_of(target.instance): target for target in targets}
        if len(self._targets) != len(targets):
            raise UsageError(
                "an instance is named twice", hint="give each one once, or its own `instance_id`"
            )
        self._state = FleetState(name, plan.hash, targets)
        self._hooks = HookQueue(rules.hooks, self._state)
        self._source_turns = SourceTurns(rules.per_source_host)
        self._failures: Counter[str] = Counter()
        self._runs: dict[str, Run] = {}
        self._stops: set[asyncio.Task[None]] = set()

    @property
    def members(self) -> list[Member]:
        """Every instance, in the order in which they were named."""
        return list(self._state.members.values())

    async def up(self) -> int:
        """Bring every instance up that is not complete yet; returns the exit code of the worst.

        Raises:
            UsageError: another process works on this fleet.
        """
        async with self._state.locked():
            try:
                await self._hooks.resume()
                await self._bring_all_up()
                await asyncio.gather(self._hooks.finish(), *self._stops)
            finally:
                await self._hooks.close()
                for task in self._stops:
                    task.cancel()
        return worst(member.exit_code for member in self.members if member.exit_code is not None)

    async def _bring_all_up(self) -> None:
        waiting = [member for member in self.members if member.exit_code != 0]
        waiting.sort(key=lambda member: member.state != "going")  # what goes already is taken up first
        canaries, others = waiting[: self._rules.canary], waiting[self._rules.canary :]
        await self._bring_up(canaries)
        bad = [member for member in canaries if member.exit_code not in GOOD]
        if bad and self.held_because is None:
            self.held_because = f"the canary {bad[0].host} ended as {bad[0].state}"
        await self._bring_up(others)

    async def _bring_up(self, members: Sequence[Member]) -> None:
        turns = asyncio.Semaphore(self._rules.parallel)

        async def one(member: Member) -> None:
            async with turns:
                if self.held_because is not None:
                    await self._note(member, state="held", message=self.held_because)
                    return
                try:
                    await self._follow(member)
                except Exception as bug:  # one instance is not the end of the others
                    log.exception("member_failed", instance=member.host)
                    await self._note(
                        member,
                        state="bug",
                        exit_code=exit_code("bug"),
                        message=f"{type(bug).__name__}: {bug}",
                    )

        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(one(member))

    async def _follow(self, member: Member) -> None:
        """One instance, from the order to its verdict."""
        is_resumed = member.state in ("going", "usable") and member.run is not None
        turn = self._source_turns.turn(self._plan)
        if is_resumed:
            turn.take()
        else:
            if turn.waits_for:
                await self._note(member, message=f"waits for a turn at {', '.join(turn.waits_for)}")
            await turn.wait()
        try:
            await self._follow_in_turn(member, turn, is_resumed=is_resumed)
        finally:
            turn.end()

    async def _follow_in_turn(self, member: Member, turn: Turn, *, is_resumed: bool) -> None:
        if self.held_because is not None and not is_resumed:
            await self._note(member, state="held", message=self.held_because)
            return
        target = self._targets[member.key]
        run_id = member.run if is_resumed else new_run_id()
        await self._note(member, run=run_id, state="going", exit_code=None, fingerprint=None, message="")
        order = Order(
            plan=self._plan,
            run_id=run_id,
            secrets=self._secrets,
            labels=self._labels(target),
            replace=self._rules.replace,
            logs_dir=self._logs_dir,
            profile=self._plan.name,
            uploads=self._rules.uploads,
            outputs=outputs_of(self._rules.outputs, target),
            resume=is_resumed,
            buckets=self._buckets,
            sign=self._sign,
        )
        async with Run(target.instance, order, on_end=record) as run:
            self._runs[member.key] = run
            gone = self._gone_check(run)
            try:
                async for event in run.events():
                    turn.note(event)
                    await self._take(member, run, event)
            finally:
                self._runs.pop(member.key, None)
                if gone is not None:
                    gone.cancel()
        await self._settle(member, await run.outcome())

    def _gone_check(self, run: Run) -> asyncio.Task[None] | None:
        command = self._rules.gone_check
        if command is None:
            return None
        return asyncio.create_task(leave_when_gone(run, command))

    async def _take(self, member: Member, run: Run, event: Mapping[str, object]) -> None:
        name = event["event"]
        if name == "run_started" and run.id != member.run:
            await self._note(member, run=run.id)  # its plan was going there already, under another id
        elif name == "run_usable":
            await self._tell_hooks("usable", member, {"usable_after_s": event["after_s"]})
            await self._note(member, state="usable", usable_after_s=event["after_s"])
        self._tell(member, {**event, "labels": self._labels(self._targets[member.key])})

    def _labels(self, target: Target) -> dict[str, str]:
        return {"fleet": self.name, **target.labels}

    async def _settle(self, member: Member, outcome: Mapping[str, object]) -> None:
        """Hooks first, then the verdict: whoever takes the fleet up after a crash in between owes them still."""
        facts = {"outcome": outcome, "verdict": outcome["verdict"], "next": outcome["next"]}
        await self._tell_hooks("finished", member, facts)
        errors = errors_of(outcome)
        await self._note(
            member,
            state=outcome["verdict"],
            exit_code=outcome["exit_code"],
            next=outcome["next"],
            fingerprint=None if outcome["exit_code"] in GOOD else fingerprint(outcome),
            message=str(errors[0]["message"]) if errors else "",
            usable_after_s=outcome["usable_after_s"],
            duration_s=outcome["duration_s"],
        )
        if member.fingerprint is not None and member.state != "cancelled":
            self._count_failure(member.fingerprint)

    def _count_failure(self, kind: str) -> None:
        self._failures[kind] += 1
        limit = self._rules.stop_after
        if limit is not None and self._failures[kind] >= limit and self.held_because is None:
            self.held_because = f"{limit} instances failed alike: {kind}"
            unusable = [run for key, run in self._runs.items() if self._state.members[key].state != "usable"]
            self._stops.update(asyncio.create_task(_stop(run)) for run in unusable)

    async def _tell_hooks(self, kind: Kind, member: Member, facts: Mapping[str, object]) -> None:
        assert member.run is not None
        target = self._targets[member.key]
        about = {
            "host": member.host,
            "instance_id": target.instance.instance_id,
            "labels": dict(target.labels),
            "fleet": self.name,
        }
        await self._hooks.tell(kind, member.run, {**about, **facts})

    async def _note(self, member: Member, **changes: object) -> None:
        for name, value in changes.items():
            setattr(member, name, value)
        await self._state.save()


def outputs_of(here: OutputsHere | None, target: Target) -> OutputsHere | None:
    """The folder of one instance."""
    instance = target.instance
    name = instance.instance_id or f"{instance.host}_{instance.port or 22}"
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "instance"
    return None if here is None else replace(here, folder=here.folder / safe)


async def _stop(run: Run) -> None:
    with suppress(ProvisionError, TimeoutError):  # its own watcher says what becomes of it
        await run.stop()
