"""What an event looks like in the core log and in the error log.

People grep for these lines, so they are API. Pure: an event in, lines without timestamps out.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, NamedTuple

Fields = Mapping[str, object]
"""An event as it is written."""


class Lines(NamedTuple):
    """Lines for the core log, and those for the error log."""

    core: List[str]
    errors: List[str]


def lines_of(event: Fields) -> Lines:
    """The lines that *event* leaves; most progress leaves none."""
    name = str(event["event"])
    if name in _RENDERERS:
        return Lines([_RENDERERS[name](event)], [])
    kind, _, what = name.partition("_")
    if what == "failed" or name == "secret_found":
        return Lines([_failed_line(kind, event)], [_error_line(kind, event)])
    if what in _VERBS and "item" in event:
        return Lines([_VERBS[what](kind, event)], [])
    return Lines([], [])


def validation_lines(missing: Mapping[str, object]) -> Lines:
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


def rate_text(bytes_per_s: float) -> str:
    """As people write the speed of a line: ``940 Mbit/s``."""
    return f"{bytes_per_s * 8 / 1e6:.4g} Mbit/s"


def _number(fields: Fields, name: str) -> float:
    value = fields[name]
    assert isinstance(value, (int, float))
    return value


def _records(value: object) -> List[Fields]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, (list, tuple)) else []


def _texts(value: object) -> List[str]:
    return [str(each) for each in value] if isinstance(value, (list, tuple)) else []


def _error_line(kind: str, event: Fields) -> str:
    item = event.get("item") or event.get("step") or kind
    return f"FAILED: {item}{_origin(event)} ({event.get('class')}: {event.get('message')})"


def _origin(event: Fields) -> str:
    """Where it comes from, unless the item's name says so already."""
    url = event.get("url")
    return "" if not url or str(event.get("item")).endswith(f" from {url}") else f" from {url}"


def _failed_line(kind: str, event: Fields) -> str:
    item = event.get("item") or event.get("step") or kind
    if kind == "download" and event.get("class") == "timed_out" and event.get("limit_s"):
        return f"⏱️ Timeout ({_number(event, 'limit_s'):.0f}s): {item}"
    if kind == "check" and event.get("found") == 0 and event.get("min_count"):
        return f"❌ {item}: NONE FOUND (at least {event['min_count']} required)"
    return f"❌ {kind} {item}: {event.get('message')} [{event.get('class')}]"


def _started_run(event: Fields) -> str:
    verb = "resumed" if event.get("resumed") else "started"
    return (
        f"🚀 Run {event['run']} {verb}: profile {event['name']}, deadline {_number(event, 'deadline_s'):.0f}s"
    )


def _facts(event: Fields) -> str:
    found = event.get("facts")
    facts: Fields = found if isinstance(found, Mapping) else {}
    gpus = ", ".join(str(gpu.get("name")) for gpu in _records(facts.get("gpus"))) or "no GPU"
    disks = ", ".join(
        f"{size_text(_number(disk, 'free_bytes'))} free on {disk['path']}"
        for disk in _records(facts.get("disks"))
    )
    return f"🔎 Instance {facts.get('hostname', '')}: {gpus}; driver {facts.get('driver') or 'none'}; {disks}"


def _measured(event: Fields) -> str:
    parts = []
    if event.get("line_bytes_per_s") is not None:
        line = rate_text(_number(event, "line_bytes_per_s"))
        parts.append(f"line {line} from {event.get('line_host')}")
    if event.get("disk_write_bytes_per_s") is not None:
        parts.append(f"disk takes {size_text(_number(event, 'disk_write_bytes_per_s'))}/s")
    if event.get("memory_bytes") is not None:
        parts.append(f"memory {size_text(_number(event, 'memory_bytes'))}")
    if event.get("gpu_used_bytes") is not None:
        parts.append(f"{size_text(_number(event, 'gpu_used_bytes'))} of the GPU in use")
    if event.get("gpu_errors") is not None:
        parts.append(f"{len(_texts(event['gpu_errors'])) or 'no'} GPU errors")
    when = "by an earlier run" if event.get("earlier") else f"in {_number(event, 'duration_s'):.1f}s"
    return f"🔎 Measured {when}: {'; '.join(parts) or 'the cards'}"


def _preflight(event: Fields) -> str:
    known, unknown = (
        _number(event, "bytes_to_fetch"),
        int(_number({"unknown_sizes": 0, **event}, "unknown_sizes")),
    )
    parts = [size_text(known)] if known or not unknown else []
    parts += [f"{unknown} file{'' if unknown == 1 else 's'} of unknown size"] if unknown else []
    return f"🔎 Preflight passed: {' and '.join(parts)} to fetch"


def _step_finished(event: Fields) -> str:
    ok, failed = int(_number(event, "ok")), int(_number(event, "failed"))
    if event["step"] == "downloads":
        return f"📊 Download batch complete: {ok}/{ok + failed} succeeded, {failed} failed"
    return f"▪ {event['step']}: {ok} done, {failed} failed, {event['skipped']} skipped in {_number(event, 'duration_s'):.1f}s"


def _finished_run(event: Fields) -> str:
    verdict, seconds = str(event["verdict"]), f"{_number(event, 'duration_s'):.0f}s"
    texts = {
        "complete": f"✅ PROVISIONING COMPLETE in {seconds}",
        "incomplete": f"⚠️ PROVISIONING INCOMPLETE after {seconds}: usable, but something required is missing",
        "timeout": f"FATAL: the run's deadline passed after {seconds}",
        "cancelled": f"🛑 Run cancelled after {seconds}; partial downloads stay for the next one",
    }
    return texts.get(
        verdict, f"FATAL: provisioning failed after {seconds}; see {event.get('errors_log', 'the error log')}"
    )


def _finished(kind: str, event: Fields) -> str:
    size = f", {size_text(_number(event, 'bytes'))}" if event.get("bytes") else ""
    time = f" in {_number(event, 'duration_s'):.1f}s" if event.get("duration_s") is not None else ""
    return f"✔ {kind} {event['item']}{size}{time}"


def _prompts(event: Fields) -> str:
    count = event.get("prompts")
    return "" if count is None else f" until {count} prompts are done"


_RENDERERS: Dict[str, Callable[[Fields], str]] = {
    "run_started": _started_run,
    "facts_found": _facts,
    "instance_measured": _measured,
    "preflight_passed": _preflight,
    "step_started": lambda event: f"▶ {event['step']}",
    "step_finished": _step_finished,
    "run_usable": lambda event: (
        f"✅ Usable after {_number(event, 'after_s'):.0f}s: everything critical is there"
    ),
    "run_finished": _finished_run,
    "unchanged": lambda event: f"🔎 {event['message']}",
    "warning": lambda event: f"⚠️ {event['message']}",
    "restart_pending": lambda event: (
        f"⏳ service {event['item']} waits for its start{_prompts(event)}: {event.get('reason')}"
    ),
    "secrets_needed": lambda event: f"⚠️ secrets that are not set: {', '.join(_texts(event['names']))}",
    "sources_needed": lambda event: (
        f"🔑 {len(_texts(event['urls']))} signed addresses do not work any more: new ones are asked for"
    ),
    "sources_given": lambda event: f"🔑 {event['count']} new signed addresses have come",
    "deadline_at_risk": lambda event: (
        f"⚠️ Deadline at risk: {_number(event, 'needed_s'):.0f}s of downloads left at this speed, {_number(event, 'remaining_s'):.0f}s of time"
    ),
}

_VERBS: Dict[str, Callable[[str, Fields], str]] = {
    "started": lambda kind, event: f"→ {kind} {event['item']}{_origin(event)}",
    "finished": _finished,
    "written": _finished,
    "passed": lambda kind, event: f"✔ {kind} {event['item']} passed, found: {event.get('found')}",
    "ready": lambda kind, event: (
        f"✔ {kind} {event['item']} answers at {event['url']}"
        if event.get("url")
        else f"✔ {kind} {event['item']} runs"
    ),
    "restarted": lambda kind, event: f"↻ {kind} {event['item']} started anew: {event.get('reason')}",
    "skipped": lambda kind, event: f"· {kind} {event['item']} skipped: {event.get('reason')}",
    "stalled": lambda kind, event: (
        f"⚠️ {kind} {event['item']} stalled: {size_text(_number(event, 'bytes_per_s'))}/s for {_number(event, 'for_s'):.0f}s"
    ),
    "retried": lambda kind, event: (
        f"↻ {kind} {event['item']}: {event['class']}, attempt {event['attempt']} in {_number(event, 'wait_s'):.1f}s"
    ),
    "waiting": lambda kind, event: (
        f"⏳ {kind} {event['item']}: "
        + str(event.get("reason") or f"{event['host']} asks to wait {_number(event, 'wait_s'):.0f}s")
    ),
    "switched": lambda kind, event: (
        f"⇄ {kind} {event['item']}: now {'a substitute, ' if event.get('substitute') else ''}from {event['url']}"
    ),
}
