"""The state of a run as a fold of its events: one truth for `status.json`, the live view and programs.

Pure, shared by both halves. Unknown events and fields are ignored, so that an older reader of a newer
run still tells what it knows.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

from . import protocol

GROUPS = {
    "download": "downloads",
    "repo": "repos",
    "package": "packages",
    "file": "files",
    "command": "commands",
    "check": "checks",
    "service": "services",
}
_STATES = {
    "queued": "queued",
    "started": "running",
    "sized": None,
    "progress": "running",
    "stalled": "stalled",
    "retried": "retrying",
    "waiting": "waiting",
    "switched": "running",
    "finished": "done",
    "written": "done",
    "passed": "passed",
    "ready": "ready",
    "failed": "failed",
    "skipped": "skipped",
}
_KEPT = (
    "item",
    "level",
    "bytes",
    "total_bytes",
    "bytes_per_s",
    "wait_s",
    "host",
    "url",
    "class",
    "message",
    "hint",
    "retriable",
    "found",
    "commit",
    "sha256",
    "duration_s",
    "pid",
    "reason",
    "attempt",
    "resumed_bytes",
)


def new_status(run: str) -> Dict[str, Any]:
    """The status of a run of which nothing is known yet."""
    groups: Dict[str, Any] = {group: {} for group in GROUPS.values()}
    return dict(
        {"format": protocol.FORMAT, "run": run, "state": "accepted", "seq": 0, "started": None, "steps": {}},
        **groups,
        errors=[],
        warnings=[],
        usable_after_s=None,
        verdict=None,
    )


def fold(status: Dict[str, Any], event: Mapping[str, Any]) -> None:
    """Take *event*, the next of this run's agent, into *status*."""
    name = str(event.get("event", ""))
    status["seq"] = event.get("seq", status["seq"])
    status["updated"] = event.get("ts")
    kind, _, what = name.partition("_")
    if kind in GROUPS and what in _STATES:
        _fold_item(status, kind, what, event)
    elif kind == "step":
        _fold_step(status, what, event)
    elif name in _FOLDS:
        _FOLDS[name](status, event)


def _fold_item(status: Dict[str, Any], kind: str, what: str, event: Mapping[str, Any]) -> None:
    item = status[GROUPS[kind]].setdefault(str(identity_of(event)), {"state": "queued"})
    item["state"] = _STATES[what] or item["state"]
    item.update((key, event[key]) for key in _KEPT if key in event and (key != "item" or "key" in event))
    if what == "failed":
        _add_error(status, event)
    elif what in ("finished", "passed", "ready", "written"):
        _forget_errors(status, event)


def identity_of(event: Mapping[str, Any]) -> Any:
    """What stays the same of an item from its first event to its last: its `key`, or its name where it has none."""
    return event.get("key", event.get("item", "?"))


def _fold_step(status: Dict[str, Any], what: str, event: Mapping[str, Any]) -> None:
    step = status["steps"].setdefault(str(event.get("step", "?")), {})
    step["state"] = {"started": "running", "finished": "done", "failed": "failed"}.get(what, what)
    step["started" if what == "started" else "ended"] = event.get("ts")
    step.update((key, event[key]) for key in ("ok", "failed", "skipped", "duration_s") if key in event)
    if what == "failed" and "class" in event:
        _add_error(status, dict(event, item=event.get("step")))


def _add_error(status: Dict[str, Any], event: Mapping[str, Any]) -> None:
    _forget_errors(status, event)
    keys = ("class", "item", "level", "message", "hint", "retriable")
    key = {"key": event["key"]} if "key" in event else {}
    status["errors"].append({**{name: event.get(name) for name in keys}, **key})


def _forget_errors(status: Dict[str, Any], event: Mapping[str, Any]) -> None:
    gone = identity_of(event)
    status["errors"] = [error for error in status["errors"] if identity_of(error) != gone]


def _run_started(status: Dict[str, Any], event: Mapping[str, Any]) -> None:
    status["state"] = "running"
    status["started"] = status["started"] or event.get("ts")
    for key in ("name", "plan_hash", "deadline_s", "labels", "workspace"):
        status[key] = event.get(key, status.get(key))


def _run_usable(status: Dict[str, Any], event: Mapping[str, Any]) -> None:
    status.update(state="usable", usable_after_s=event.get("after_s"))


def _run_finished(status: Dict[str, Any], event: Mapping[str, Any]) -> None:
    status.update(
        state=event.get("verdict"), verdict=event.get("verdict"), duration_s=event.get("duration_s")
    )


def _facts_found(status: Dict[str, Any], event: Mapping[str, Any]) -> None:
    status["facts"] = event.get("facts")


def _preflight_failed(status: Dict[str, Any], event: Mapping[str, Any]) -> None:
    _add_error(status, dict(event, item=event.get("item", "preflight"), level="critical"))


def _warning(status: Dict[str, Any], event: Mapping[str, Any]) -> None:
    status["warnings"].append(event.get("message"))


_FOLDS = {
    "run_started": _run_started,
    "run_usable": _run_usable,
    "run_finished": _run_finished,
    "facts_found": _facts_found,
    "preflight_failed": _preflight_failed,
    "warning": _warning,
}


def transfer_totals(status: Mapping[str, Any]) -> Tuple[float, int, int]:
    """Bytes per second, bytes landed and bytes to come, over all files."""
    items = list(status["downloads"].values())
    speed = sum(float(item.get("bytes_per_s") or 0) for item in items if item["state"] == "running")
    landed = sum(int(item.get("bytes") or 0) for item in items)
    open_items = [item for item in items if item["state"] not in ("done", "failed", "skipped")]
    left = sum(max(int(item.get("total_bytes") or 0) - int(item.get("bytes") or 0), 0) for item in open_items)
    return speed, landed, left
