"""Questions about an instance that stands: its plan, its checks, and how it differs from a plan."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from provision_agent.contract.buckets import Buckets, SignedSource
from provision_agent.contract.messages import (
    AuditAnswer,
    AuditItem,
    AuditRequest,
    RunFound,
    StatusRequest,
    VerifyAnswer,
    VerifyRequest,
)
from provision_agent.contract.parsing import kind_of, to_json
from provision_agent.contract.plan import Download, Plan

from ..errors import ProtocolFaultError, UsageError
from ..files.buckets import sign
from ..instance import Instance, as_answer
from ..instance.query import ask
from ..profile import values_of
from ..run import registry
from ..run.default_secrets import held_back, refused_without
from ..run.spec import NO_BUCKETS, Known
from ..run.told import kept_back, plan_of, runs_of
from .sources import worst

VERIFY_WITHIN_S = 660.0
AUDIT_WITHIN_S = 1900.0
MENDABLE = frozenset(
    (
        *("missing", "partial", "changed"),
        *("wrong_size", "wrong_hash", "wrong_commit", "wrong_content", "wrong_kind", "wrong_mode"),
    )
)
MENDED = ("repos", "downloads", "files", "python")
"""Steps whose items an audit compares with the disk."""
REPAIR = "repair"
"""The label of a run that mends what an audit found: its plan is a part of another run's."""
FINE = ("ok", "skipped", "substituted")
CLASSES = {
    "wrong_size": "size",
    "wrong_hash": "checksum",
    "wrong_content": "checksum",
    "changed": "conflict",
    "wrong_commit": "conflict",
    "wrong_kind": "conflict",
    "wrong_mode": "conflict",
}
"""The class of failure that a state is; any other is `missing`."""
_KINDS = {"member": "download"}
"""What a kind of item is mended as, where that is another one."""


@dataclass(frozen=True)
class PlanThere:
    """The plan of a run as its instance has it, without secrets other than those that this side knows."""

    run: str
    plan: Plan
    known: Known | None
    """What this side recorded when it started the run; None for a run of somebody else."""
    kept_back: str = ""
    """What to tell the user of secrets that only the instance names; empty when there are none."""

    @property
    def buckets(self) -> Buckets:
        """Its buckets, as far as this side knows them."""
        return self.known.buckets if self.known is not None else NO_BUCKETS

    def signed(self) -> tuple[SignedSource, ...]:
        """Addresses of what it wants of buckets, for as long as it takes to compare. Raises as `sign`."""
        return sign(self.buckets, os.environ, lives_s=AUDIT_WITHIN_S)

    def bucket_values(self) -> dict[str, str]:
        """The values of the secrets that its buckets name, as far as this process's environment has them."""
        return values_of(self.buckets.secrets, os.environ)[0]


async def plan_there(
    instance: Instance, *, run: str | None = None, workspace: str | None = None
) -> PlanThere:
    """The plan of a run on *instance*; None means the newest one that was no repair.

    Raises:
        UsageError: there is no such run. ProtocolFaultError: what the instance says of it cannot be understood.
    """
    request = StatusRequest(run=run, all=run is None, workspace=workspace, with_plan=True)
    runs = await ask(instance, "status", request, lambda data: runs_of(data, asked=run), workspace=workspace)
    wanted = [found for found in runs if run is not None or not _is_repair(found)]
    if not wanted:
        raise UsageError(
            f"there is no run {f'`{run}` ' if run else ''}on {instance} to take the plan from",
            hint="give `--profile`",
        )
    newest = max(wanted, key=lambda found: found.started_unix)
    plan, name = await asyncio.to_thread(plan_of, newest), newest.run
    record = await asyncio.to_thread(registry.find, name, instance)
    known = record.what_is_known() if record is not None else None
    recorded = known.secrets if known is not None else ()
    names = {rule.name for rule in recorded}
    unknown = [rule.name for rule in plan.secrets if rule.name not in names and not rule.is_default]
    rules = tuple(rule for rule in recorded if not rule.is_default)  # the items are the instance's word
    return PlanThere(name, replace(plan, secrets=rules), known, kept_back(name, unknown) if unknown else "")


async def run_checks(instance: Instance, plan: Plan, offered: Iterable[str] = ()) -> VerifyAnswer:
    """The plan's checks, now: the names of those that hold, and the failures of the others.

    Args:
        offered: The names of secrets that are set here.

    Raises:
        ProtocolFaultError: the instance names a check that the plan does not have.
    """
    request = VerifyRequest(plan=plan.to_json(), offered=tuple(offered))
    answer = await ask(instance, "verify", request, as_answer(VerifyAnswer), timeout_s=VERIFY_WITHIN_S)
    names = {check.name for check in plan.checks}
    unheld = (*(check.item for check in answer.failed), *(check.item for check in answer.skipped))
    told = (*answer.passed, *unheld)
    if strange := [name for name in told if name not in names]:
        raise ProtocolFaultError(f"a check that the plan does not have, {kind_of(strange[0])}")
    return answer


async def verify(
    instance: Instance,
    plan: Plan,
    secrets: Mapping[str, str],
    *,
    is_quick: bool = False,
    signed: Sequence[SignedSource] = (),
) -> tuple[VerifyAnswer, Audit]:
    """The plan's checks, and everything that was made held against the disk, side by side. Arguments as `audit`."""
    answer, found = await asyncio.gather(
        run_checks(instance, plan, secrets), audit(instance, plan, secrets, is_quick=is_quick, signed=signed)
    )
    return answer, found


@dataclass(frozen=True)
class Audit:
    """How the disk differs. `extra`: paths that nobody named."""

    workspace: str
    items: tuple[AuditItem, ...]
    extra: tuple[str, ...]

    @property
    def wrong(self) -> list[AuditItem]:
        return [item for item in self.items if item.state not in FINE]

    @property
    def exit_code(self) -> int:
        return worst(item.level for item in self.wrong)

    def to_json(self) -> dict[str, object]:
        items = [
            {name: value for name, value in to_json(item).items() if value is not None} for item in self.items
        ]
        return {
            "workspace": self.workspace,
            "items": items,
            "extra": list(self.extra),
            "exit_code": self.exit_code,
        }


async def audit(
    instance: Instance,
    plan: Plan,
    secrets: Mapping[str, str],
    *,
    is_quick: bool = False,
    distrust: bool = False,
    signed: Sequence[SignedSource] = (),
) -> Audit:
    """Compare *instance* with *plan*.

    Args:
        is_quick: Believe what was verified and not touched since, instead of hashing everything again.
        signed: Addresses in buckets.
        distrust: Let no record vouch for a wrong file any more, so that the next run mends it.
    """
    held = held_back(plan.secrets, secrets) - await refused_without(plan, secrets)
    request = AuditRequest(
        plan=plan.to_json(),
        secrets={name: value for name, value in secrets.items() if name not in held},
        offered=tuple(sorted(held)),
        is_quick=is_quick,
        distrust=distrust,
        signed=tuple(signed),
    )
    answer = await ask(instance, "audit", request, as_answer(AuditAnswer), timeout_s=AUDIT_WITHIN_S)
    return Audit(answer.workspace, answer.items, answer.extra)


def _is_repair(found: RunFound) -> bool:
    return REPAIR in found.labels


def _is_wrong(item: Download, wrong: Collection[tuple[str, str]]) -> bool:
    """Of a whole repository any file; those that are right are not fetched again."""
    return ("download", item.key) in wrong


def _may_meet(item: Download, wrong: Collection[str]) -> bool:
    """Whether its file may lie in one of the folders *wrong*, where a server's name may be the same as its own."""
    return any(item.path.startswith(folder) for folder in wrong)


def mending(plan: Plan, found: Audit) -> Plan | None:
    """The plan that does what is wrong in *found* again, and nothing else.

    Args:
        plan: What should be there.
        found: What an audit of it said.

    Returns:
        None when nothing of it can be mended.
    """
    wrong = {
        (_KINDS.get(item.kind, item.kind), item.of or item.item)
        for item in found.wrong
        if item.state in MENDABLE
    }
    if not wrong:
        return None
    is_python_wrong = any(kind == "package" for kind, _ in wrong)
    folders = {item.path for item in plan.downloads if item.path.endswith("/") and _is_wrong(item, wrong)}
    return Plan(
        name=plan.name,
        workspace=found.workspace,
        strict=plan.strict,
        limits=plan.limits,
        secrets=plan.secrets,
        repair=True,
        steps=tuple(step for step in MENDED if step != "python" or is_python_wrong),
        python=plan.python if is_python_wrong else None,
        repos=tuple(
            repo
            for repo in plan.repos
            if ("repo", repo.path) in wrong or ("package", f"{repo.path}/{repo.requirements}") in wrong
        ),
        downloads=tuple(
            item for item in plan.downloads if _is_wrong(item, wrong) or _may_meet(item, folders)
        ),
        files=tuple(file for file in plan.files if ("file", file.path) in wrong),
    )
