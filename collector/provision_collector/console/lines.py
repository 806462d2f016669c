"""One line for each event that a person wants to know of; none for the rest.

The same lines are the plain view and what the live view prints above itself. All remote text in them is
harmless, and the words alone say what is good and what is bad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from provision_agent.contract.steps import GROUPS, STEPS, THERE

from . import units
from .progress import Progress, cause_text, step_took
from .text import harmless
from .values import Object, children, number, text

Tone = Literal["good", "bad", "warn", "plain"]
LONG_WAIT_S = 60.0
"""Who waits longer is told how not to."""
MARKS: dict[Tone, str] = {"good": "✓", "bad": "✗", "warn": "!", "plain": " "}


class Line(NamedTuple):
    """What happened, to what, with which detail; `hint` is what to type next."""

    what: str
    item: str = ""
    detail: str = ""
    tone: Tone = "plain"
    hint: str = ""

    @property
    def text(self) -> str:
        """All but the hint, in one line."""
        return "  ".join(part for part in (self.what, self.item, self.detail) if part)


def line_of(event: Object, progress: Progress) -> Line | None:
    """The line for *event*, after *progress* has taken it; None if people do not need to know of it."""
    name = str(event.get("event"))
    kind, _, what = name.partition("_")
    if name in _LINES:
        return _LINES[name](event, progress)
    return _OF_ANY_ITEM[what](kind, event) if what in _OF_ANY_ITEM else None


def totals_line(progress: Progress) -> Line:
    """How far all downloads together are."""
    totals = progress.totals()
    parts = [f"{totals.done} of {units.counted(totals.files, 'file')}"]
    parts.append(
        units.size_of(totals.bytes, totals.total_bytes) if totals.is_whole else units.size(totals.bytes)
    )
    parts.append(units.speed(totals.bytes_per_s))
    if totals.left_s is not None:
        parts.append(f"all there {progress.arrival(totals.left_s)}")
    return Line("downloading", "", "  ".join(parts))


def facts_text(facts: object) -> str:
    """The instance in a few words: its cards, its free disk, its python."""
    facts = facts if isinstance(facts, Mapping) else {}
    gpus, disks, pythons = (children(facts, key) for key in ("gpus", "disks", "pythons"))
    words = []
    if gpus:
        many = f"{len(gpus)} × " if len(gpus) > 1 else ""
        memory = number(gpus[0], "memory_bytes") / 2**30
        words.append(f"{many}{text(gpus[0], 'name')}{f' {memory:.0f} GiB' if memory else ''}")
        if facts.get("driver"):
            words.append(f"driver {text(facts, 'driver')}")
    else:
        words.append("no GPU")
    if disks:
        words.append(f"{units.size(number(disks[0], 'free_bytes'))} free")
    if pythons:
        words.append(f"python {text(pythons[0], 'version')}")
    return ", ".join(words)


def host_of(url: object) -> str:
    """The host that *url* names, or all of it where it names none."""
    try:
        return harmless(urlsplit(str(url)).netloc or url)
    except ValueError:
        return harmless(url)


def _failed(kind: str, event: Object) -> Line:
    because = f"{text(event, 'message')} ({text(event, 'class')})".removeprefix(f"`{_item(event)}` ")
    tone: Tone = "warn" if event.get("level") == "optional" else "bad"
    return Line(f"{kind} failed", _item(event), because, tone, text(event, "hint"))


def _skipped(kind: str, event: Object) -> Line:
    if text(event, "reason") in THERE:
        return Line(f"{kind} there already", _item(event), text(event, "reason"), "good")
    return Line(f"{kind} skipped", _item(event), text(event, "reason"))


def _retried(kind: str, event: Object) -> Line:
    wait = f"attempt {text(event, 'attempt')} in {units.waiting(number(event, 'wait_s'))}"
    return Line(f"{kind} retried", _item(event), f"{text(event, 'class')}, {wait}", "warn")


def _finished(kind: str, event: Object) -> Line:
    took = f"in {units.duration(number(event, 'duration_s'))}"
    commit = f"{text(event, 'commit')[:10]} " if event.get("commit") else ""
    return Line(f"{kind} finished", _item(event), f"{commit}{took}", "good")


def _going_on(kind: str, event: Object) -> Line:
    return Line(f"{kind} going on", _item(event), text(event, "message"))


_OF_ANY_ITEM: dict[str, Callable[[str, Object], Line]] = {
    "failed": _failed,
    "skipped": _skipped,
    "retried": _retried,
    "finished": _finished,
    "progress": _going_on,
}
"""The second word of an event's name: how an item of any kind is told, where `_LINES` has nothing better."""


def _connecting(event: Object, progress: Progress) -> Line | None:
    if not event.get("cause"):
        return None
    is_long = number(event, "gives_up_after_s") >= LONG_WAIT_S
    hint = "`--boot-grace 0` gives up at once, `--boot-grace 10m` later" if is_long else ""
    return Line(progress.connection, hint=hint)


def _facts_found(event: Object, progress: Progress) -> Line:
    return Line("instance", "", facts_text(event.get("facts")))


def _run_started(event: Object, progress: Progress) -> Line:
    bound = f"ends by itself after {units.duration(number(event, 'deadline_s'))}"
    return Line("run resumed" if event.get("resumed") else "run started", text(event, "name"), bound)


def _step_started(event: Object, progress: Progress) -> Line:
    step = STEPS.get(str(event.get("step")))
    return Line("step started", text(event, "step"), step.text if step is not None else "")


def _step_finished(event: Object, progress: Progress) -> Line:
    counts = [f"{text(event, key)} {key}" for key in ("ok", "failed", "skipped") if event.get(key)]
    took = step_took(progress.state, text(event, "step"), number(event, "duration_s"))
    return Line("step finished", text(event, "step"), f"{', '.join(counts)} {took}".strip())


def _step_failed(event: Object, progress: Progress) -> Line:
    return _failed("step", dict(event, item=event.get("step")))


def _download_started(event: Object, progress: Progress) -> Line:
    return Line("download started", _item(event), f"from {host_of(event.get('url'))}")


def _download_stalled(event: Object, progress: Progress) -> Line:
    rate = f"{units.speed(number(event, 'bytes_per_s'))} over {units.duration(number(event, 'for_s'))}"
    return Line("download stalled", _item(event), rate, "warn")


def _download_waiting(event: Object, progress: Progress) -> Line:
    wait = f"{units.waiting(number(event, 'wait_s'))} ({text(event, 'host')} limit)"
    return Line("download waiting", _item(event), wait)


def _download_switched(event: Object, progress: Progress) -> Line:
    what = "SUBSTITUTED: another file, from" if event.get("substitute") else "now from"
    return Line("download switched", _item(event), f"{what} {host_of(event.get('url'))}", "warn")


def _download_finished(event: Object, progress: Progress) -> Line:
    count, took_s = number(event, "bytes"), number(event, "duration_s")
    rate = f" ({units.speed(count / took_s)})" if took_s > 0 else ""
    return Line(
        "download finished", _item(event), f"{units.size(count)} in {units.duration(took_s)}{rate}", "good"
    )


def _download_progress(event: Object, progress: Progress) -> Line:
    return totals_line(progress)


def _upload_started(event: Object, progress: Progress) -> Line:
    size = units.size(number(event, "total_bytes"))
    return Line(
        "upload started", _item(event), f"{units.counted(int(number(event, 'files')), 'file')}, {size}"
    )


def _upload_progress(event: Object, progress: Progress) -> Line:
    size = units.size_of(number(event, "bytes"), number(event, "total_bytes"))
    return Line("uploading", _item(event), f"{size}  {units.speed(number(event, 'bytes_per_s'))}")


def _upload_finished(event: Object, progress: Progress) -> Line:
    files, took_s = units.counted(int(number(event, "files")), "file"), number(event, "duration_s")
    sent, all_ = number(event, "sent_bytes"), number(event, "bytes")
    size = units.size(all_) if sent >= all_ else f"{units.size(sent)} of {units.size(all_)} sent"
    return Line("upload finished", _item(event), f"{files}, {size} in {units.duration(took_s)}", "good")


def _check_passed(event: Object, progress: Progress) -> Line:
    found = event.get("found")
    return Line("check passed", _item(event), harmless(found) if isinstance(found, str) else "", "good")


def _run_usable(event: Object, progress: Progress) -> Line:
    return Line(
        "usable",
        "",
        f"all that is critical is there, after {units.duration(number(event, 'after_s'))}",
        "good",
    )


def _deadline_at_risk(event: Object, progress: Progress) -> Line:
    left, needed = (units.duration(number(event, key)) for key in ("remaining_s", "needed_s"))
    hint = "start it with a longer `--timeout` next time"
    return Line("deadline at risk", "", f"{left} left, about {needed} needed at this speed", "warn", hint)


def _secrets_needed(event: Object, progress: Progress) -> Line:
    wanted = event.get("names")
    names = ", ".join(harmless(name) for name in wanted) if isinstance(wanted, list) else harmless(wanted)
    return Line(
        "secrets needed", "", names, "warn", f"set {names} in your environment and run the same command again"
    )


def _sources_needed(event: Object, progress: Progress) -> Line:
    urls = event.get("urls")
    count = len(urls) if isinstance(urls, list) else 0
    what = f"{count} signed address{'es do' if count != 1 else ' does'} not work any more"
    return Line("sign again", "", f"{what}; whoever has the keys of the bucket signs anew", "warn")


def _gap(event: Object, progress: Progress) -> Line:
    lost = "an unknown number of bytes" if event.get("bytes") is None else units.size(number(event, "bytes"))
    return Line("gap", text(event, "file"), f"{lost} cannot be recovered; the verdict stays", "warn")


def _service_reached(event: Object, progress: Progress) -> Line:
    name, url = text(event, "item"), text(event, "url")
    if event.get("reachable") is True:
        return Line("service reached", name, f"from here at {url}", "good")
    return Line(
        "not reached", name, f"from here at {url}: {text(event, 'reason')}; it decides nothing", "warn"
    )


def _to_fetch(event: Object) -> str:
    known, unknown = number(event, "bytes_to_fetch"), int(number(event, "unknown_sizes"))
    parts = [units.size(known)] if known else []
    parts += [f"{units.counted(unknown, 'file')} of unknown size"] if unknown else []
    return f"{' and '.join(parts) or 'nothing'} to fetch"


_LINES: dict[str, Callable[[Object, Progress], Line | None]] = {
    "run_accepted": lambda event, progress: Line(
        "run", text(event, "run"), f"for {progress.host}: connecting"
    ),
    "connecting": _connecting,
    "connected": lambda event, progress: Line("connected", progress.host),
    "connection_lost": lambda event, progress: Line(
        progress.connection, "", cause_text(event.get("cause")), "warn"
    ),
    "agent_restarted": lambda event, progress: Line(
        "agent restarted", "", f"{text(event, 'restarts')} so far", "warn"
    ),
    "access_lost": lambda event, progress: Line(
        "access lost",
        "",
        f"{text(event, 'cause')}; the open connection goes on",
        "warn",
        "put the key back on the instance: after the next cut nobody gets in",
    ),
    "service_reached": _service_reached,
    "gap": _gap,
    "run_started": _run_started,
    "facts_found": _facts_found,
    "preflight_passed": lambda event, progress: Line("preflight passed", "", _to_fetch(event), "good"),
    "step_started": _step_started,
    "step_finished": _step_finished,
    "step_failed": _step_failed,
    "download_started": _download_started,
    "download_progress": _download_progress,
    "download_stalled": _download_stalled,
    "download_waiting": _download_waiting,
    "download_switched": _download_switched,
    "download_finished": _download_finished,
    "upload_started": _upload_started,
    "upload_waiting": lambda event, progress: Line(
        "upload waiting", _item(event), text(event, "reason"), "warn"
    ),
    "upload_progress": _upload_progress,
    "upload_finished": _upload_finished,
    "file_written": lambda event, progress: Line("file written", _item(event), "", "good"),
    "command_started": lambda event, progress: Line("command started", _item(event)),
    "check_passed": _check_passed,
    "service_started": lambda event, progress: Line(
        "service runs already" if event.get("adopted") is True else "service started",
        _item(event),
        f"pid {text(event, 'pid')}",
    ),
    "service_ready": lambda event, progress: Line("service ready", _item(event), text(event, "url"), "good"),
    "service_restarted": lambda event, progress: Line(
        "service started anew", _item(event), text(event, "reason")
    ),
    "job_started": lambda event, progress: Line("job started", _item(event), f"pid {text(event, 'pid')}"),
    "job_finished": lambda event, progress: Line(
        "job finished",
        _item(event),
        f"exit status 0 after {units.duration(number(event, 'duration_s'))}",
        "good",
    ),
    "lifetime_ending": lambda event, progress: Line(
        "instance ends",
        "",
        f"in {units.coarse(number(event, 'in_s'))} by its `lifetime` ({text(event, 'reason')}); "
        "`provision keep` extends it",
        "warn",
    ),
    "restart_pending": lambda event, progress: Line(
        "start is due",
        _item(event),
        f"{text(event, 'reason')}; it waits until that has nothing to do",
        "warn",
    ),
    "unchanged": lambda event, progress: Line("unchanged", "", text(event, "message"), "good"),
    "warning": lambda event, progress: Line("warning", "", text(event, "message"), "warn"),
    "deadline_at_risk": _deadline_at_risk,
    "secrets_needed": _secrets_needed,
    "sources_needed": _sources_needed,
    "outputs_progress": lambda event, progress: outputs_line(event),
    "outputs_finished": lambda event, progress: outputs_line(event),
    "run_usable": _run_usable,
    "run_finished": lambda event, progress: Line("run finished", text(event, "verdict")),
}

TICKERS = frozenset(("connecting", "outputs_progress", *(f"{kind}_progress" for kind in GROUPS)))
"""Told often: a view shows at most one line of these every so many seconds."""


def outputs_line(event: Object) -> Line:
    """How far the files are that come home."""
    files, left = int(number(event, "files")), int(number(event, "left"))
    parts = [units.size(number(event, "bytes"))]
    if left:
        parts.append(f"{left} on their way")
    if number(event, "bytes_per_s"):
        parts.append(units.speed(number(event, "bytes_per_s")))
    if event.get("path"):
        parts.append(text(event, "path"))
    is_over = event.get("event") == "outputs_finished"
    tone: Tone = "plain" if not is_over else "warn" if left else "good"
    return Line(f"{units.counted(files, 'output')} home", "", "  ".join(parts), tone)


def _item(event: Object) -> str:
    return text(event, "item")
