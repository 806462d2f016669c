"""Get an order carried out by the instance: start the run or join it, start its agent again, stop it.

A link that breaks between the order and its answer is no answer: the same order again joins what it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from provision_agent.plan import Plan

from .errors import (
    AgentLostError,
    HostUnreachableError,
    ProvisionError,
    RefusedError,
    UsageError,
)
from .instance import Deployment, Instance, Link, build_bundle, call, first_contact
from .order import Order, agent_folders
from .profile.secrets import values_of

START_TIMEOUT_S = 90.0
"""Longer than a lock that is watched for a dead machine, and than a replaced run needs to stop."""
STOP_TIMEOUT_S = 75.0
SECRETS_WITHIN_S = 600.0
"""How long an agent that needs a start waits for secrets that only somebody else can give."""
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
        return int(self._answer["started_unix"])

    @property
    def remaining_s(self) -> float | None:
        """Until the run's deadline; None when it has its verdict already."""
        return None if self._answer.get("verdict") is not None else float(self._answer["remaining_s"])

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
            ProvisionError: the instance cannot do it. HostUnreachableError: as `Link` and `call` say.
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
        run, found = self.run, await self._look()
        if self.order.plan is None:
            self.order = replace(self.order, plan=Plan.from_json(found["plan"]))
        assert self.order.plan is not None
        await self._start(self.order.plan)
        if self.run != run:
            raise AgentLostError(f"run `{run}` is gone: `{self.run}` runs there now")

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

    async def _start(self, plan: Plan) -> None:
        await self._ask_for_owed_secrets()
        self.is_sent = True
        answer = await self._call(
            ["start"],
            {
                "run": self.run,
                "plan": plan.to_json(),
                "secrets": values_of(plan.secrets, self.order.secrets)[0],
                "labels": dict(self.order.labels),
                "started_unix": self._accepted_unix,
                "replace": self.order.replace,
                "kill_holders": self.order.kill_holders,
            },
            plan,
        )
        _refuse(answer)
        self._answer = answer

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
        found = max(runs, key=lambda run: (bool(run["is_alive"]), str(run.get("started") or "")))
        if found["verdict"] is None and not found["is_alive"] and found["is_current"]:
            self._run = str(found["run"])
            plan = Plan.from_json(found["plan"])
            self.order = replace(self.order, plan=plan, run_id=self._run)
            await self._start(plan)
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
        return list(answer["runs"])

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
    state, hint = answer["state"], answer.get("hint", "")
    if state == "refused":
        differences = answer.get("differences", [])
        lines = "".join(f"\n  {line}" for line in differences)
        raise RefusedError(answer["message"] + lines, hint=hint, differences=differences)
    if state == "usage":
        raise UsageError(answer["message"], hint=hint)
    if state == "failed":
        raise ProvisionError(answer["message"], hint=hint, cause=answer.get("class", ""))
