"""How a run ended, as one object for programs: the `outcome` line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, NotRequired

from provision_agent.contract import verdicts
from provision_agent.contract.failures import Kind
from provision_agent.contract.status import RunState
from provision_agent.contract.status_parts import ItemError, ItemState
from provision_agent.contract.steps import THERE
from pydantic import Field
from typing_extensions import TypedDict

from .. import mirror
from ..errors import ProvisionError

Problem = TypedDict(
    "Problem",
    {
        "class": str,
        "item": str | None,
        "level": str | None,
        "message": str | None,
        "hint": str | None,
        "retriable": bool | None,
    },
)
"""What went wrong with one item, and what to do."""


class Gap(TypedDict):
    """Bytes of a log that were gone before anyone read them."""

    file: str
    bytes: int | None


class Service(TypedDict):
    """A service on the instance."""

    name: str
    state: str
    url: str | None
    reachable: bool | None
    """Whether its `public` address answered from here; None: it has none, or was not asked."""


class Job(TypedDict):
    """A long program on the instance, and how it ended; without an exit status nobody knows it."""

    name: str
    state: str
    exit_status: int | None
    duration_s: float | None


class Skipped(TypedDict):
    """An item that was not wanted on this instance, and why."""

    group: str
    item: str
    level: str | None
    reason: str


class Counts(TypedDict):
    """How many items."""

    ok: int
    failed: int
    skipped: int


class OutputsHome(TypedDict):
    """What came home, and what did not."""

    files: int
    bytes: int
    missing_files: int
    missing: dict[str, str]
    """Why, by the path there; of many the first 100."""


class Checks(TypedDict):
    """How the checks went; the failed ones by name."""

    passed: int
    failed: list[str]


class Outcome(TypedDict):
    """How a run ended, and what to do next: the fields of docs/SCRIPTING.md."""

    run: str
    host: str
    labels: dict[str, str]
    verdict: Annotated[str, Field(json_schema_extra={"enum": list(verdicts.VERDICTS)})]
    exit_code: int
    next: Annotated[str, Field(json_schema_extra={"enum": list(verdicts.NEXT)})]
    duration_s: float | None
    usable_after_s: float | None
    bytes_downloaded: int | None
    downloads: Counts
    uploads: Counts
    checks: Checks
    skipped: list[Skipped]
    warnings: list[str]
    services: list[Service]
    jobs: list[Job]
    errors: list[Problem]
    gaps: list[Gap]
    reconnects: int
    logs: dict[str, str]
    outputs: NotRequired[OutputsHome]
    """Of a run whose outputs come home."""
    instance_labels: NotRequired[dict[str, str]]
    """Of a run: labels that only the instance knows."""
    line: NotRequired[str | None]
    """Of `collect`: the marker's line."""


def outcome_of(
    state: RunState,
    *,
    host: str,
    verdict: str,
    exit_code: int,
    labels: Mapping[str, str],
    logs: Mapping[str, str],
    gaps: Sequence[mirror.Gap],
    reconnects: int,
    error: ProvisionError | None = None,
    warnings: Sequence[str] = (),
    outputs: OutputsHome | None = None,
) -> Outcome:
    """How the run with *state* ended. Labels that only the instance knows are its `instance_labels`.

    Args:
        state: The agent's events, folded.
        host: The instance, as people address it.
        verdict: How it ended; where this side could not follow it, what kept it from that.
        exit_code: That of the command.
        labels: Those that this side gave the run.
        logs: The paths of the mirrors here, by ``core``, ``errors``, ``events`` and ``job-NAME``.
        gaps: Bytes that no mirror has.
        reconnects: How often the connection was lost.
        error: What kept this side from following the run. warnings: What it warned of. outputs: What came home.
    """
    missed, needed = _by_need(state)
    errors = [_told(item) for item in needed]
    kinds: list[Kind] = [(item.class_, item.case) for item in needed]
    if error is not None:
        errors.append(_as_item(error))
        kinds.append(error.cause)
    outcome: Outcome = {
        "run": state.run,
        "host": host,
        "labels": dict(labels),
        "verdict": verdict,
        "exit_code": exit_code,
        "next": _next(verdict, exit_code, kinds),
        "duration_s": state.duration_s,
        "usable_after_s": state.usable_after_s,
        "bytes_downloaded": state.bytes_downloaded,
        "downloads": _counts(state.items["downloads"].values()),
        "uploads": _counts(state.items["uploads"].values()),
        "checks": _checks(state.items["checks"].values()),
        "skipped": _skipped(state),
        "warnings": [*state.warnings, *(f"{item.item}: {item.message}" for item in missed), *warnings],
        "services": [_service(item) for item in state.items["services"].values()],
        "jobs": [_job(item) for item in state.items["jobs"].values()],
        "errors": errors,
        "gaps": [{"file": gap.file, "bytes": gap.bytes} for gap in gaps],
        "reconnects": reconnects,
        "logs": dict(logs),
    }
    if outputs is not None:
        outcome["outputs"] = outputs
    if state.labels and state.labels != labels:
        outcome["instance_labels"] = state.labels
    return outcome


def _by_need(state: RunState) -> tuple[list[ItemError], list[ItemError]]:
    """The errors of what is optional, and the others."""
    errors = state.errors.values()
    return (
        [item for item in errors if item.level == "optional"],
        [item for item in errors if item.level != "optional"],
    )


def _service(item: ItemState) -> Service:
    told = item.facts.get("reachable")
    reachable = told if isinstance(told, bool) else None
    return {"name": item.item, "state": item.state, "url": item.text("url") or None, "reachable": reachable}


def _job(item: ItemState) -> Job:
    took = item.facts.get("duration_s")
    return {
        "name": item.item,
        "state": item.state,
        "exit_status": _exit_status(item),
        "duration_s": float(took) if isinstance(took, (int, float)) else None,
    }


def _exit_status(item: ItemState) -> int | None:
    found = item.facts.get("exit_status")
    return found if isinstance(found, int) else None


def _skipped(state: RunState) -> list[Skipped]:
    """What was not wanted on this instance, and why."""
    return [
        {
            "group": group,
            "item": item.item,
            "level": item.text("level") or None,
            "reason": item.text("reason") or "",
        }
        for group, items in state.items.items()
        for item in items.values()
        if item.state == "skipped" and not _is_there(item)
    ]


def _counts(items: Collection[ItemState]) -> Counts:
    return {
        "ok": sum(1 for item in items if _is_there(item)),
        "failed": sum(1 for item in items if item.state == "failed"),
        "skipped": sum(1 for item in items if item.state == "skipped" and not _is_there(item)),
    }


def _checks(items: Collection[ItemState]) -> Checks:
    return {
        "passed": sum(1 for check in items if check.state == "passed"),
        "failed": [check.item for check in items if check.state == "failed"],
    }


def _is_there(item: ItemState) -> bool:
    """It was transferred, or was there already; what is said of it last counts."""
    return item.state == "done" or (item.state == "skipped" and item.text("reason") in THERE)


def _told(error: ItemError) -> Problem:
    return {
        "class": error.class_,
        "item": error.item,
        "level": error.level,
        "message": error.message,
        "hint": error.hint,
        "retriable": error.retriable,
    }


def _as_item(error: ProvisionError) -> Problem:
    return {
        "class": error.cause,
        "item": "instance",
        "level": "critical",
        "message": str(error),
        "hint": error.hint,
        "retriable": error.verdict in ("unreachable", "contact-lost", "refused", "local"),
    }


def _next(verdict: str, exit_code: int, kinds: list[Kind]) -> str:
    by_code = {2: "report_bug", 3: "fix_profile", 70: "report_bug", 74: "retry"}
    if verdict in ("usage",):
        return "none"
    return by_code.get(exit_code) or verdicts.next_action(verdict, kinds)
