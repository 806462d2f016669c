"""How a run ended, as one object for programs: the `outcome` line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provision_agent.contract import verdicts
from provision_agent.contract.status import ItemState, RunState

from ..errors import ProvisionError


def outcome_of(
    state: RunState,
    *,
    host: str,
    verdict: str,
    exit_code: int,
    labels: Mapping[str, str],
    logs: Mapping[str, str],
    gaps: Sequence[Mapping[str, Any]],
    reconnects: int,
    error: ProvisionError | None = None,
) -> dict[str, Any]:
    """The outcome of the run with *state*; *error* is what kept this side from following it to its end.

    Labels that only the instance knows are its `instance_labels`, beside this side's *labels*.
    """
    missed = [item for item in state.errors.values() if item.level == "optional"]
    errors = [item.to_json() for item in state.errors.values() if item.level != "optional"]
    if error is not None:
        errors.append(_as_item(error))
    marked = {"instance_labels": state.labels} if state.labels and state.labels != labels else {}
    downloads, checks = state.items["downloads"].values(), state.items["checks"].values()
    return {
        "run": state.run,
        "host": host,
        "labels": dict(labels),
        **marked,
        "verdict": verdict,
        "exit_code": exit_code,
        "next": _next(verdict, exit_code, [str(item["class"]) for item in errors]),
        "duration_s": state.duration_s,
        "usable_after_s": state.usable_after_s,
        "bytes_downloaded": state.bytes_downloaded,
        "downloads": {
            "ok": sum(1 for item in downloads if _is_there(item)),
            "failed": sum(1 for item in downloads if item.state == "failed"),
            "skipped": sum(1 for item in downloads if item.state == "skipped" and not _is_there(item)),
        },
        "checks": {
            "passed": sum(1 for check in checks if check.state == "passed"),
            "failed": [check.item for check in checks if check.state == "failed"],
        },
        "warnings": [*state.warnings, *(f"{item.item}: {item.message}" for item in missed)],
        "services": [
            {"name": service.item, "state": service.state, "url": service.facts.get("url")}
            for service in state.items["services"].values()
        ],
        "errors": errors,
        "gaps": [dict(gap) for gap in gaps],
        "reconnects": reconnects,
        "logs": dict(logs),
    }


def _is_there(download: ItemState) -> bool:
    """It was fetched, or was there already; what is said of it last counts."""
    return download.state == "done" or (download.state == "skipped" and download.text("reason") == "verified")


def _as_item(error: ProvisionError) -> dict[str, Any]:
    return {
        "class": error.cause,
        "item": "instance",
        "level": "critical",
        "message": str(error),
        "hint": error.hint,
        "retriable": error.verdict in ("unreachable", "contact-lost", "refused", "local"),
    }


def _next(verdict: str, exit_code: int, classes: list[str]) -> str:
    by_code = {2: "report_bug", 3: "fix_profile", 70: "report_bug", 74: "retry"}
    if verdict in ("usage",):
        return "none"
    return by_code.get(exit_code) or verdicts.next_action(verdict, classes)
