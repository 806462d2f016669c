"""Get an order carried out by the instance: start the run or join it, start its agent again, stop it.

A link that breaks between the order and its answer is no answer: the same order again joins what it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from provision_agent.contract.buckets import Buckets, SignedAnswer, SignedRequest, SignedSource
from provision_agent.contract.messages import (
    RunFiles,
    RunFound,
    RunPlace,
    SecretsAnswer,
    SecretsRequest,
    StartRequest,
    StatusRequest,
    StopAnswer,
    StopRequest,
    finite_remaining_s,
)
from provision_agent.contract.plan import Plan
from provision_agent.contract.retry import Attempts, Schedule, call_async

from ..errors import (
    AgentLostError,
    HostUnreachableError,
    ProtocolFaultError,
    ProvisionError,
    UsageError,
)
from ..instance import Deployment, Emit, Flag, Instance, Link, as_answer, call, first_contact
from ..profile.secrets import values_of
from . import registry
from .default_secrets import held_back, refused_without
from .signing import Signing
from .spec import LONGEST_UNKNOWN_RUN_S, NO_BUCKETS, Known, Order, agent_folders
from .told import kept_back, plan_of, read_start, refusal_of, runs_of

START_TIMEOUT_S = 90.0
"""Longer than a lock that is watched for a dead machine, and than a replaced run needs to stop."""
STOP_TIMEOUT_S = 75.0
SECRETS_WITHIN_S = 600.0
"""How long an agent that needs a start waits for secrets that only somebody else can give."""
NOT_OURS = ("bucket_keys_unset", "bucket_not_public")
"""Why an address is not signed that can be elsewhere: this side has no keys."""
JOINED = ("attached", "resumed")
"""What an instance answers when it has a run of this plan already, perhaps under another id."""
ATTEMPTS = 8
"""How often a link may break between the order and its answer."""

T = TypeVar("T")


class Dispatch:
    """Carries *order* to *instance* over *link*. *emit* is told when secrets are needed."""

    def __init__(
        self,
        order: Order,
        instance: Instance,
        link: Link,
        emit: Emit,
        *,
        run: str,
        accepted_unix: int,
    ) -> None:
        self.order = order
        self.is_sent = False
        """The order may have arrived, whether its answer did or not."""
        self._instance = instance
        self._link = link
        self._emit = emit
        self._run = run
        self._accepted_unix = accepted_unix
        self._secrets_given = Flag()
        self._place: RunPlace | None = None
        self.is_new = False
        """This order began the run."""
        self._deployment: Deployment | None = None
        self.known: Known | None = (
            Known.of(order.plan, order.buckets, order.uploads) if order.plan is not None else order.known
        )
        """What this side knows of the run; None when it knows nothing."""
        self.labels: dict[str, str] = dict(order.labels)
        """Those of the order, or of this side's record of a run that is joined; never the instance's."""
        self.is_named_here = order.plan is not None
        """The run's id is the one that this order, or an earlier one from here, gave it."""
        self._signing = Signing(
            order.sign, self.known.limit_s if self.known is not None else LONGEST_UNKNOWN_RUN_S
        )
        self._said_unsigned: set[str] = set()
        self._has_said_what_it_keeps = False
        self._asked_for: set[str] = set()
        """Default secrets that somebody refused to do without."""

    @property
    def run(self) -> str:
        """The run's id, as far as it is known."""
        return self._run if self._place is None else self._place.run

    @property
    def place(self) -> RunPlace:
        """Where the run is on the instance; it is there once `take_place` has returned."""
        assert self._place is not None
        return self._place

    @property
    def told(self) -> Known:
        """The run as this side knows it, or, where it knows nothing of it, as the instance says: nothing is sent by that."""
        if self.known is not None:
            return self.known
        told = self._place.plan if isinstance(self._place, RunFound) else None
        return Known() if told is None else Known.of(Plan.from_json(told))

    @property
    def workspace(self) -> str:
        """The folder on the instance."""
        return self.place.workspace

    @property
    def started_unix(self) -> int:
        """When the run was accepted, by the clock of whoever started it."""
        return self._accepted_unix if self.is_new else int(self.place.started_unix)

    @property
    def limit_s(self) -> float:
        """How long the run may take from now on: what this side knows, or less if the instance says less."""
        limit_s = self.known.limit_s if self.known is not None else LONGEST_UNKNOWN_RUN_S
        has_ended = isinstance(self._place, RunFound) and self._place.verdict is not None
        return limit_s if has_ended else finite_remaining_s(self.place.remaining_s, limit_s)

    @property
    def remote_files(self) -> RunFiles:
        """The run's files on the instance."""
        return self.place.files

    def agent_command(self, *arguments: str) -> str:
        """The shell command that runs the agent on the instance."""
        assert self._deployment is not None
        return self._deployment.command(*arguments)

    def give_secrets(self, values: Mapping[str, str]) -> None:
        """Take *values* for whenever an agent must be started."""
        self.order = replace(self.order, secrets={**self.order.secrets, **values})
        self._secrets_given.set()

    async def ask_hosts(self) -> None:
        """Find out from here which default secrets the hosts of the order's plan want."""
        plan = self.order.plan
        if plan is not None and not self.order.resume and not self.order.offline:
            self._asked_for |= await refused_without(plan, self._held())

    async def give_what_is_needed(self, names: Collection[str]) -> None:
        """Hand the run those default secrets that its instance asked for, if this side knows their rules and has them.

        A run that does not wait for them any more goes without.
        """
        rules = self.known.secrets if self.known is not None else ()
        values = self._held()
        given = {name: values[name] for name in held_back(rules, values).intersection(names)}
        if not given or self._place is None:
            return
        self._asked_for.update(given)
        request = SecretsRequest(run=self.run, workspace=self.workspace, secrets=given)
        with suppress(HostUnreachableError, ProvisionError):
            await self._call("secrets", request, as_answer(SecretsAnswer), None)

    async def sign_ahead(self) -> None:
        """Sign what the order's plan wants of buckets. Raises UsageError when that takes what is not installed here."""
        if self.order.plan is not None and not self.order.resume:
            await self._signing.ahead(self._buckets(), self._bucket_values())

    async def sign_again(self, urls: Sequence[str]) -> bool:
        """Hand the run new addresses of *urls*, those of them that this side knows to be its own.

        Returns:
            Whether it has them now.
        """
        try:
            signed = await self._signing.some_of(self._buckets(), self._bucket_values(), urls)
        except ProvisionError as error:
            self._emit("warning", message=f"no new address can be signed: {error}; {error.hint}")
            return True  # it would be no different the next time
        if missing := next((source for source in signed if source.case in NOT_OURS), None):
            self._say_who_must_sign(missing)  # somebody else may have the keys, or bring them
            return False
        if not signed or self._place is None:
            return not signed
        request = SignedRequest(run=self.run, workspace=self.workspace, sources=signed)
        try:
            answer = await self._call("sources_given", request, as_answer(SignedAnswer), None)
        except (HostUnreachableError, ProvisionError):
            return False
        return answer.taken

    def _say_who_must_sign(self, missing: SignedSource) -> None:
        if missing.url not in self._said_unsigned and missing.failure is not None:
            self._said_unsigned.add(missing.url)
            hint = f"{missing.failure.hint}; or `provision attach {self.run}` where the keys are"
            self._emit("warning", message=f"no new address can be signed here: {missing.message}; {hint}")

    async def take_place(self) -> None:
        """Start or join the run.

        Raises:
            RefusedError: another plan's run goes on there. UsageError: there is no such run, or it is finished.
            ProvisionError: the instance cannot do it. ProtocolFaultError: what it says is no answer.
            HostUnreachableError: as `Link` and `call` say.
        """
        plan = self.order.plan
        await call_async(
            lambda: self._join() if plan is None or self.order.resume else self._start(plan),
            Attempts(Schedule(ATTEMPTS, base_s=0.0)),  # the link waits before it is opened again
            errors=HostUnreachableError,
            may_help=lambda lost: lost.cause == "reset",
            before_wait=lambda lost, wait_s: self._link.lose(str(lost), heard_at=None),
        )

    async def again(self) -> None:
        """Start the agent of this run again, as `take_place`. Raises AgentLostError when the run is not there any more."""
        found = await self._look()
        plan = self.order.plan
        await self._start(await asyncio.to_thread(plan_of, found) if plan is None else plan, is_again=True)

    async def deploy_again(self) -> None:
        """Put the agent's file back that somebody deleted. Raises AgentLostError when the run's folder went with it."""
        await self._look()

    async def stop(self) -> None:
        """End the run on the instance. Raises HostUnreachableError when it cannot be told so."""
        is_borrowed, connection = self._link.is_up, self._link.connection
        if connection is None or not is_borrowed:
            connection = await first_contact(self._instance, on_wait=lambda *_: None)
        try:
            await call(
                connection,
                folders=[f"{self.workspace}/.provision/agent"],
                arguments=["stop"],
                request=StopRequest(run=self.run, workspace=self.workspace),
                read=as_answer(StopAnswer),
                timeout_s=STOP_TIMEOUT_S,
            )
        finally:
            if not is_borrowed:
                connection.abort()

    async def _start(self, plan: Plan, *, is_again: bool = False) -> None:
        run = self.run
        await self._ask_for_owed_secrets()
        self.is_sent = True
        values, offered = self._secrets_for(plan)
        signed = await self._signing.all_of(self._buckets(), self._bucket_values())
        request = StartRequest(
            run=run,
            plan=await asyncio.to_thread(plan.to_json),
            secrets=values,
            offered=offered,
            signed=signed,
            labels=dict(self.order.labels),
            started_unix=self._accepted_unix,
            replace=self.order.replace,
            kill_holders=self.order.kill_holders,
            offline=self.order.offline,
        )
        answer, place = await self._call("start", request, read_start, plan)
        if place is None:
            raise await asyncio.to_thread(refusal_of, answer, self._instance)
        if answer.state not in JOINED and place.run != run:
            raise ProtocolFaultError(f"it was asked for run `{run}` and speaks of `{place.run}`")
        if is_again and place.run != run:
            raise AgentLostError(f"run `{run}` is gone: `{place.run}` runs there now")
        self.is_named_here = self.is_named_here and place.run == run
        self.is_new = answer.state == "started"
        self._place = place

    def _buckets(self) -> Buckets:
        return self.known.buckets if self.known is not None else NO_BUCKETS

    def _bucket_values(self) -> dict[str, str]:
        return {**self.order.environment, **self.order.secrets}

    def _held(self) -> dict[str, str]:
        """The values of the secrets that this side knows to belong to the run."""
        local = self.order.plan
        if local is not None:
            return values_of(local.secrets, self.order.secrets)[0]
        rules = self.known.secrets if self.known is not None else ()
        return {**values_of(rules, self.order.environment)[0], **self.order.secrets}

    def _secrets_for(self, plan: Plan) -> tuple[dict[str, str], tuple[str, ...]]:
        """What may leave with *plan*, of names that this side knows, whatever the instance names.

        Returns:
            The values, and the names of the default secrets that stay here until they are needed.
        """
        values = self._held()
        rules = self.known.secrets if self.known is not None else ()
        wanted = [rule.name for rule in plan.secrets]
        known = {rule.name for rule in rules}
        self._say_what_is_kept([name for name in wanted if name not in values and name not in known])
        held = held_back(rules, values) - self._asked_for
        kept = self.known.kept_secrets if self.known is not None else frozenset()
        mine = [name for name in wanted if name in values and name not in kept]
        return {name: values[name] for name in mine if name not in held}, tuple(held.intersection(mine))

    def _say_what_is_kept(self, names: Sequence[str]) -> None:
        if names and not self._has_said_what_it_keeps:
            self._has_said_what_it_keeps = True
            self._emit("warning", message=kept_back(self.run, names))

    async def _take_what_is_recorded(self) -> None:
        """Of a run that is there, this side knows what it wrote down when it started it."""
        record = await asyncio.to_thread(registry.find, self._run, self._instance)
        if record is None:
            return
        self.is_named_here = record.is_named_here
        if self.order.plan is None:
            self.labels = self.labels or dict(record.labels)
            self.known = self.known or record.what_is_known()
        elif self.known is not None and not self.known.buckets.places:
            recorded = record.what_is_known()
            self.known = replace(self.known, buckets=recorded.buckets) if recorded else self.known

    async def _join(self) -> None:
        """Find the run on the instance; one whose agent and keeper are dead is started again."""
        plan = self.order.plan
        root = plan.workspace if plan is not None and not plan.workspace_fallback else None
        runs = await self._runs(self.order.run_id, self.order.workspace or root)
        if not runs and self.order.plan is not None:
            await self._start(self.order.plan)
            return
        if not runs:
            wanted = f"no run `{self.order.run_id}`" if self.order.run_id else "no run"
            raise UsageError(
                f"there is {wanted} on {self._instance}",
                hint=f"`provision status {self._instance.options}` lists its runs",
            )
        found = max(runs, key=lambda run: (run.is_alive, run.started or ""))
        self._run = found.run
        await self._take_what_is_recorded()
        has_died = found.verdict is None and not found.is_alive and found.is_current
        if has_died and not self.order.only_looks:
            plan = await asyncio.to_thread(plan_of, found)
            await self._start(plan, is_again=self.order.plan is None)
        else:
            self._place, self.is_new = found, False

    async def _look(self) -> RunFound:
        """The run as the instance has it."""
        runs = await self._runs(self.run, self.workspace)
        if not runs:
            raise AgentLostError(
                f"the folder of run `{self.run}` was deleted on {self._instance}: its verdict cannot be known",
                cause="folder-gone",
            )
        return runs[0]

    async def _runs(self, run: str | None, workspace: str | None) -> list[RunFound]:
        request = StatusRequest(run=run, workspace=workspace, with_plan=True)
        return await self._call("status", request, lambda data: runs_of(data, asked=run), None)

    async def _ask_for_owed_secrets(self) -> None:
        missing = sorted(self.order.owed_secrets - set(self.order.secrets))
        if not missing:
            return
        self._emit("secrets_needed", names=missing)
        with suppress(TimeoutError):
            async with asyncio.timeout(SECRETS_WITHIN_S):
                await self._secrets_given.wait()
        self.order = replace(
            self.order, owed_secrets=frozenset()
        )  # without them, the agent says what it lacks

    async def _call(
        self, subcommand: str, request: object, read: Callable[[Mapping[str, object]], T], plan: Plan | None
    ) -> T:
        workspace = self.order.workspace if self._place is None else self._place.workspace
        self._deployment, answer = await call(
            await self._link.connected(),
            folders=agent_folders(plan, workspace),
            arguments=[subcommand],
            request=request,
            read=read,
            timeout_s=START_TIMEOUT_S,
        )
        return answer
