"""What an event looks like in the core log and in the error log.

People grep for these lines, so they are API. Pure: an event in, lines without timestamps out.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, NamedTuple


class Lines(NamedTuple):
    """Lines for the core log, and those for the error log."""

    core: List[str]
    errors: List[str]


def lines_of(event: Mapping[str, Any]) -> Lines:
    """The lines that *event* leaves; most progress leaves none."""
    name = str(event["event"])
    if name in _RENDERERS:
        return Lines([_RENDERERS[name](event)], [])
    kind, _, what = name.partition("_")
    if what == "failed":
        return Lines([_failed_line(kind, event)], [_error_line(kind, event)])
    if what in _VERBS and "item" in event:
        return Lines([_VERBS[what](kind, event)], [])
    return Lines([], [])


def validation_lines(missing: Mapping[str, Any]) -> Lines:
    """The word on the critical checks; *missing* maps the name of each that failed to what was found."""
    if not missing:
        return Lines(["✅ All critical components verified"], [])
    core = f"❌ VALIDATION FAILED: {len(missing)} critical component(s) missing"
    found = ", ".join(f"{name}: {what}" for name, what in missing.items())
    return Lines([core], [f"{core[2:]} ({found})"])


def size_text(size_bytes: float) -> str:
    """As people write sizes of downloads: ``6.9 GB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def _error_line(kind: str, event: Mapping[str, Any]) -> str:
    item = event.get("item") or event.get("step") or kind
    return f"FAILED: {item}{_origin(event)} ({event.get('class')}: {event.get('message')})"


def _origin(event: Mapping[str, Any]) -> str:
    """Where it comes from, unless the item's name says so already."""
    url = event.get("url")
    return "" if not url or str(event.get("item")).endswith(f" from {url}") else f" from {url}"


def _failed_line(kind: str, event: Mapping[str, Any]) -> str:
    item = event.get("item") or event.get("step") or kind
    if kind == "download" and event.get("class") == "timed_out" and event.get("limit_s"):
        return f"⏱️ Timeout ({event['limit_s']:.0f}s): {item}"
    if kind == "check" and event.get("found") == 0 and event.get("min_count"):
        return f"❌ {item}: NONE FOUND (at least {event['min_count']} required)"
    return f"❌ {kind} {item}: {event.get('message')} [{event.get('class')}]"


def _started_run(event: Mapping[str, Any]) -> str:
    verb = "resumed" if event.get("resumed") else "started"
    return f"🚀 Run {event['run']} {verb}: profile {event['name']}, deadline {event['deadline_s']:.0f}s"


def _facts(event: Mapping[str, Any]) -> str:
    facts: Mapping[str, Any] = event.get("facts") or {}
    gpus = ", ".join(str(gpu.get("name")) for gpu in facts.get("gpus") or []) or "no GPU"
    disks = ", ".join(
        f"{size_text(disk['free_bytes'])} free on {disk['path']}" for disk in facts.get("disks") or []
    )
    return f"🔎 Instance {facts.get('hostname', '')}: {gpus}; driver {facts.get('driver') or 'none'}; {disks}"


def _preflight(event: Mapping[str, Any]) -> str:
    return f"🔎 Preflight passed: {size_text(event['bytes_to_fetch'])} to fetch"


def _step_finished(event: Mapping[str, Any]) -> str:
    ok, failed = event["ok"], event["failed"]
    if event["step"] == "downloads":
        return f"📊 Download batch complete: {ok}/{ok + failed} succeeded, {failed} failed"
    return f"▪ {event['step']}: {ok} done, {failed} failed, {event['skipped']} skipped in {event['duration_s']:.1f}s"


def _finished_run(event: Mapping[str, Any]) -> str:
    verdict, seconds = event["verdict"], f"{event['duration_s']:.0f}s"
    texts = {
        "complete": f"✅ PROVISIONING COMPLETE in {seconds}",
        "incomplete": f"⚠️ PROVISIONING INCOMPLETE after {seconds}: usable, but something required is missing",
        "timeout": f"FATAL: the run's deadline passed after {seconds}",
        "cancelled": f"🛑 Run cancelled after {seconds}; partial downloads stay for the next one",
    }
    return texts.get(
        verdict, f"FATAL: provisioning failed after {seconds}; see {event.get('errors_log', 'the error log')}"
    )


def _finished(kind: str, event: Mapping[str, Any]) -> str:
    size = f", {size_text(event['bytes'])}" if event.get("bytes") else ""
    time = f" in {event['duration_s']:.1f}s" if event.get("duration_s") is not None else ""
    return f"✔ {kind} {event['item']}{size}{time}"


_RENDERERS: Dict[str, Callable[[Mapping[str, Any]], str]] = {
    "run_started": _started_run,
    "facts_found": _facts,
    "preflight_passed": _preflight,
    "step_started": lambda event: f"▶ {event['step']}",
    "step_finished": _step_finished,
    "run_usable": lambda event: f"✅ Usable after {event['after_s']:.0f}s: everything critical is there",
    "run_finished": _finished_run,
    "warning": lambda event: f"⚠️ {event['message']}",
    "secrets_needed": lambda event: f"⚠️ secrets that are not set: {', '.join(event['names'])}",
    "deadline_at_risk": lambda event: (
        f"⚠️ Deadline at risk: {event['needed_s']:.0f}s of downloads left at this speed, {event['remaining_s']:.0f}s of time"
    ),
}

_VERBS: Dict[str, Callable[[str, Mapping[str, Any]], str]] = {
    "started": lambda kind, event: f"→ {kind} {event['item']}{_origin(event)}",
    "finished": _finished,
    "written": _finished,
    "passed": lambda kind, event: f"✔ {event['item']}: {event.get('found')}",
    "ready": lambda kind, event: (
        f"✔ {kind} {event['item']} answers at {event['url']}"
        if event.get("url")
        else f"✔ {kind} {event['item']} runs"
    ),
    "skipped": lambda kind, event: f"· {kind} {event['item']} skipped: {event.get('reason')}",
    "stalled": lambda kind, event: (
        f"⚠️ {kind} {event['item']} stalled: {size_text(event['bytes_per_s'])}/s for {event['for_s']:.0f}s"
    ),
    "retried": lambda kind, event: (
        f"↻ {kind} {event['item']}: {event['class']}, attempt {event['attempt']} in {event['wait_s']:.1f}s"
    ),
    "waiting": lambda kind, event: (
        f"⏳ {kind} {event['item']}: "
        + str(event.get("reason") or f"{event['host']} asks to wait {event['wait_s']:.0f}s")
    ),
    "switched": lambda kind, event: (
        f"⇄ {kind} {event['item']}: now {'a substitute, ' if event.get('substitute') else ''}from {event['url']}"
    ),
}
