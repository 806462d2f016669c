"""How a run ended, as one object for programs: the `outcome` line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provision_agent.contract import protocol

from ..errors import ProvisionError


def outcome_of(
    status: Mapping[str, Any],
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
    """The outcome of the run with *status*; *error* is what kept this side from following it to its end.

    Labels that only the instance knows are its `instance_labels`, beside this side's *labels*.
    """
    missed = [item for item in status["errors"] if item.get("level") == "optional"]
    errors = [dict(item) for item in status["errors"] if item.get("level") != "optional"]
    if error is not None:
        errors.append(_as_item(error))
    theirs = status.get("labels")
    marked = {"instance_labels": theirs} if isinstance(theirs, dict) and theirs and theirs != labels else {}
    downloads = list(status["downloads"].values())
    checks = status["checks"]
    return {
        "run": status["run"],
        "host": host,
        "labels": dict(labels),
        **marked,
        "verdict": verdict,
        "exit_code": exit_code,
        "next": _next(verdict, exit_code, [str(item["class"]) for item in errors]),
        "duration_s": status.get("duration_s"),
        "usable_after_s": status["usable_after_s"],
        "bytes_downloaded": status.get("bytes_downloaded"),
        "downloads": {
            "ok": sum(1 for item in downloads if _is_there(item)),
            "failed": sum(1 for item in downloads if item["state"] == "failed"),
            "skipped": sum(1 for item in downloads if item["state"] == "skipped" and not _is_there(item)),
        },
        "checks": {
            "passed": sum(1 for check in checks.values() if check["state"] == "passed"),
            "failed": [name for name, check in checks.items() if check["state"] == "failed"],
        },
        "warnings": [*status["warnings"], *(f"{item['item']}: {item['message']}" for item in missed)],
        "services": [
            {"name": name, "state": service["state"], "url": service.get("url")}
            for name, service in status["services"].items()
        ],
        "errors": errors,
        "gaps": [dict(gap) for gap in gaps],
        "reconnects": reconnects,
        "logs": dict(logs),
    }


def _is_there(download: Mapping[str, Any]) -> bool:
    """It was fetched, or was there already; what is said of it last counts."""
    return download["state"] == "done" or (
        download["state"] == "skipped" and download.get("reason") == "verified"
    )


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
    return by_code.get(exit_code) or protocol.next_action(verdict, classes)
