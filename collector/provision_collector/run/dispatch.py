"""Get an order carried out by the instance: start the run or join it, start its agent again, stop it.

A link that breaks between the order and its answer is no answer: the same order again joins what it began.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from provision_agent.contract import version
from provision_agent.contract.plan import Plan, PlanFormatError

from ..errors import AgentLostError, HostUnreachableError, ProvisionError, RefusedError, UsageError
from ..instance import Deployment, Instance, Link, build_bundle, call, first_contact
from ..profile.secrets import values_of
from . import registry
from .spec import LONGEST_UNKNOWN_RUN_S, Known, Order, agent_folders

START_TIMEOUT_S = 90.0
"""Longer than a lock that is watched for a dead machine, and than a replaced run needs to stop."""
STOP_TIMEOUT_S = 75.0
SECRETS_WITHIN_S = 600.0
"""How long an agent that needs a start waits for secrets that only somebody else can give."""
JOINED = ("attached", "resumed")
"""What an instance answers when it has a run of this plan already, perhaps under another id."""
LATEST_UNIX = 1 << 40
ATTEMPTS = 8
"""How often a link may break between the order and its answer."""


class Dispatch:
    """Carries *order* to *instance* over *link*. *emit* is told when secrets are needed."""

    def __init__(
        self,
        order: Order,
        instance: Instance,
        link: Link,
        emit: Callable[..., None],
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
        self._secrets_given = asyncio.Event()
        self._answer: dict[str, Any] = {}
        self._deployment: Deployment | None = None
        self.known: Known | None = Known.of(order.plan) if order.plan is not None else order.known
        """What this side knows of the run; None when it knows nothing."""
        self.labels: dict[str, str] = dict(order.labels)
        """Those of the order, or of this side's record of a run that is joined; never the instance's."""
        self.is_named_here = order.plan is not None
        """The run's id is the one that this order, or an earlier one from here, gave it."""
        self._has_said_what_it_keeps = False

    @property
    def run(self) -> str:
        """The run's id, as far as it is known."""
        return str(self._answer.get("run") or self._run)

    @property
    def workspace(self) -> str:
        """The folder on the instance."""
        return str(self._answer["workspace"])

    @property
    def started_unix(self) -> int:
        """When the run was accepted, by the clock of whoever started it."""
        return self._accepted_unix if self.is_new else int(self._answer["started_unix"])

    @property
    def limit_s(self) -> float:
        """How long the run may take from now on: what this side knows, or less if the instance says less."""
        limit_s = self.known.limit_s if self.known is not None else LONGEST_UNKNOWN_RUN_S
        left_s = self._answer.get("remaining_s")
        if isinstance(left_s, bool) or not isinstance(left_s, int | float) or not 0 <= left_s <= limit_s:
            return limit_s
        return limit_s if self._answer.get("verdict") is not None else float(left_s)

    @property
    def is_new(self) -> bool:
        """This order began the run."""
        return self._answer.get("state") == "started"

    @property
    def remote_files(self) -> Mapping[str, str]:
        """The run's files on the instance, by ``core``, ``errors`` and ``events``."""
        return dict(self._answer["files"])

    def agent_command(self, *arguments: str) -> str:
        """The shell command that runs the agent on the instance."""
        assert self._deployment is not None
        return self._deployment.command(*arguments)

    def give_secrets(self, values: Mapping[str, str]) -> None:
        """Take *values* for whenever an agent must be started."""
        self.order = replace(self.order, secrets={**self.order.secrets, **values})
        self._secrets_given.set()

    async def place(self) -> None:
        """Start or join the run.

        Raises:
            RefusedError: another plan's run goes on there. UsageError: there is no such run, or it is finished.
            ProvisionError: the instance cannot do it. AgentLostError: it speaks of another run than it was asked for.
            HostUnreachableError: as `Link` and `call` say.
        """
        plan = self.order.plan
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await (self._join() if plan is None or self.order.resume else self._start(plan))
                return
            except HostUnreachableError as lost:
                if lost.cause != "reset" or attempt == ATTEMPTS:
                    raise
                self._link.lose(str(lost), heard_at=None)

    async def again(self) -> None:
        """Start the agent of this run again, as `place`. Raises AgentLostError when the run is not there any more."""
        found = await self._look()
        await self._start(self.order.plan or plan_of(found), is_again=True)

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
                build_bundle(),
                folders=[f"{self.workspace}/.provision/agent"],
                arguments=["stop"],
                request={"workspace": self.workspace, "run": self.run},
                timeout_s=STOP_TIMEOUT_S,
            )
        finally:
            if not is_borrowed:
                connection.abort()

    async def _start(self, plan: Plan, *, is_again: bool = False) -> None:
        run = self.run
        await self._ask_for_owed_secrets()
        self.is_sent = True
        answer = await self._call(
            ["start"],
            {
                "run": run,
                "plan": plan.to_json(),
                "secrets": self._secrets_for(plan),
                "labels": dict(self.order.labels),
                "started_unix": self._accepted_unix,
                "replace": self.order.replace,
                "kill_holders": self.order.kill_holders,
            },
            plan,
        )
        _refuse(answer)
        _check(answer, asked=None if answer["state"] in JOINED else run)
        if is_again and answer["run"] != run:
            raise AgentLostError(f"run `{run}` is gone: `{answer['run']}` runs there now")
        self.is_named_here = self.is_named_here and answer["run"] == run
        self._answer = answer

    def _secrets_for(self, plan: Plan) -> dict[str, str]:
        """The values that may leave with *plan*: of names that this side knows, whatever the instance names."""
        local = self.order.plan
        if local is not None:
            values = values_of(local.secrets, self.order.secrets)[0]
        else:
            rules = self.known.secrets if self.known is not None else ()
            values = {**values_of(rules, self.order.environment)[0], **self.order.secrets}
        wanted = [rule.name for rule in plan.secrets]
        known = {rule.name for rule in self.known.secrets} if self.known is not None else set()
        self._say_what_is_kept([name for name in wanted if name not in values and name not in known])
        return {name: values[name] for name in wanted if name in values}

    def _say_what_is_kept(self, names: Sequence[str]) -> None:
        if names and not self._has_said_what_it_keeps:
            self._has_said_what_it_keeps = True
            self._emit("warning", message=kept_back(self.run, names))

    def _take_what_is_recorded(self) -> None:
        """Of a run that is there, this side knows what it wrote down when it started it."""
        record = registry.find(self._run, self._instance)
        if record is None:
            return
        self.is_named_here = record.is_named_here
        if self.order.plan is None:
            self.labels = self.labels or dict(record.labels)
            self.known = self.known or record.what_is_known()

    async def _join(self) -> None:
        """Find the run on the instance; one whose agent and keeper are dead is started again."""
        plan = self.order.plan
        root = plan.workspace if plan is not None and not plan.workspace_fallback else None
        runs = await self._runs({"run": self.order.run_id, "workspace": self.order.workspace or root})
        if not runs and self.order.plan is not None:
            await self._start(self.order.plan)
            return
        if not runs:
            wanted = f"no run `{self.order.run_id}`" if self.order.run_id else "no run"
            raise UsageError(
                f"there is {wanted} on {self._instance}", hint="`provision status --host …` lists its runs"
            )
        found = max(runs, key=lambda run: (bool(run.get("is_alive")), str(run.get("started") or "")))
        self._run = str(found["run"])
        self._take_what_is_recorded()
        if found.get("verdict") is None and not found.get("is_alive") and found.get("is_current"):
            await self._start(plan_of(found), is_again=self.order.plan is None)
        else:
            self._answer = found

    async def _look(self) -> dict[str, Any]:
        """The run as the instance has it."""
        runs = await self._runs({"run": self.run, "workspace": self.workspace})
        if not runs:
            raise AgentLostError(
                f"the folder of run `{self.run}` was deleted on {self._instance}: its verdict cannot be known",
                hint="the same `provision up` again goes on with what is there; files are verified, not trusted",
            )
        return runs[0]

    async def _runs(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        answer = await self._call(["status"], {**request, "with_plan": True}, None)
        return runs_of(answer, asked=request.get("run"))

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
        self, arguments: list[str], request: Mapping[str, Any], plan: Plan | None
    ) -> dict[str, Any]:
        workspace = self._answer.get("workspace") or self.order.workspace
        self._deployment, answer = await call(
            await self._link.connected(),
            build_bundle(),
            folders=agent_folders(plan, workspace),
            arguments=arguments,
            request=request,
            timeout_s=START_TIMEOUT_S,
        )
        return answer


def _refuse(answer: Mapping[str, Any]) -> None:
    """Raise what the answer to `start` says, unless it says yes."""
    state, hint, message = answer.get("state"), str(answer.get("hint", "")), str(answer.get("message", ""))
    if state == "refused":
        told = answer.get("differences")
        differences = [str(line) for line in told] if isinstance(told, list) else []
        lines = "".join(f"\n  {line}" for line in differences)
        raise RefusedError(message + lines, hint=hint, differences=differences)
    if state == "usage":
        raise UsageError(message, hint=hint)
    if state == "failed":
        raise ProvisionError(message, hint=hint, cause=str(answer.get("class", "")))
    if state not in ("started", *JOINED):
        raise _nonsense("it does not say whether it took the run")


def _check(answer: Mapping[str, Any], *, asked: str | None) -> None:
    """Believe an answer about a run only if it is about the one that was *asked* for; its id becomes part of paths here."""
    run, started_unix, files = answer.get("run"), answer.get("started_unix"), answer.get("files")
    if not isinstance(run, str) or not re.fullmatch(version.RUN_ID_PATTERN, run):
        raise _nonsense("what it calls the run is no run id")
    if asked is not None and run != asked:
        raise _nonsense(f"it was asked for run `{asked}` and speaks of `{run}`")
    if not isinstance(started_unix, int | float) or not 0 <= started_unix < LATEST_UNIX:
        raise _nonsense("it does not say when the run began")
    if not isinstance(answer.get("workspace"), str) or not isinstance(files, dict):
        raise _nonsense("it does not say where the run works")
    if not all(isinstance(files.get(name), str) for name in ("core", "errors", "events")):
        raise _nonsense("it does not say where the run's files are")


def runs_of(answer: Mapping[str, Any], *, asked: str | None) -> list[dict[str, Any]]:
    """The runs in an answer to `status`, each with the fields that are relied on. Raises AgentLostError."""
    runs = answer.get("runs")
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise _nonsense("its list of runs is none")
    for run in runs:
        _check(run, asked=asked)
    return runs


def plan_of(found: Mapping[str, Any]) -> Plan:
    """The plan of a run as its instance has it. Raises AgentLostError when it is none."""
    try:
        return Plan.from_json(found["plan"])
    except (PlanFormatError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _nonsense(f"the plan of the run cannot be read ({error})") from None


def _nonsense(why: str) -> ProvisionError:
    return AgentLostError(
        f"the instance speaks what cannot be understood: {why}",
        hint="the same command again; if it says the same, rent another instance",
        cause="protocol",
    )


def kept_back(run: str, names: Sequence[str]) -> str:
    """What to say of the secrets *names* that only the instance names: none of them was sent."""
    good = [name for name in names if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name)][:5]
    shown = ", ".join(f"`{name}`" for name in good) or "what it names"
    more = f" and {len(names) - len(good)} more" if good and len(names) > len(good) else ""
    return (
        f"the instance wants the secrets {shown}{more} for run `{run}`, which this machine did not start with them: "
        f"they are not sent; to send those of your profile, give it: `--profile NAME|PATH` with `provision attach` or "
        f"`provision audit`, or run `provision up` with it again"
    )
