"""The last words of a run: what came of it, what is wrong, and what to do now.

Taken from the outcome alone, so that every view and every command says the same.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from provision_agent.contract.failures import FAILURES
from provision_agent.contract.verdicts import NEXT, VERDICTS
from rich.cells import cell_len

from . import units
from .causes import causes
from .lines import Tone
from .text import harmless, wrapped
from .values import Object, child, children, listed, number, text

WIDTH = 80
SHOWN_SKIPPED = 3
SHOWN_WARNINGS = 10
_LOOPBACK = re.compile(r"https?://(127\.[\d.]+|localhost|\[::1\])(:|/|$)")

_MARKS: dict[str, tuple[str, Tone]] = {"good": ("✅", "good"), "warn": ("⚠", "warn"), "bad": ("❌", "bad")}


class Words(NamedTuple):
    """A line of the summary: `first` stands in its first *indent* columns, and what is wrapped stays under `text`."""

    text: str
    tone: Tone = "plain"
    first: str = ""
    indent: int = 0


def summary(outcome: Object) -> Iterator[Words]:
    """The lines of the summary, from top to bottom; wrap each with `fitted`."""
    yield Words("")
    yield from _head(outcome)
    yield from _facts(outcome)
    yield from told_errors(children(outcome, "errors"))
    yield from told_warnings(listed(outcome, "warnings"))
    yield from told_next(outcome)
    yield from _told_reach(outcome)


def fitted(words: Words, width: int = WIDTH) -> list[str]:
    """The lines that *words* take at *width* columns."""
    first = words.first + " " * (words.indent - cell_len(words.first))
    lines = list(wrapped(words.text, max(width - words.indent, 20)))
    return [(" " * words.indent if at else first) + line for at, line in enumerate(lines)]


def _head(outcome: Object) -> Iterator[Words]:
    verdict = str(outcome.get("verdict"))
    known = VERDICTS.get(verdict)
    mark, tone = _MARKS[known.tone if known is not None else "bad"]
    meaning = known.meaning if known is not None else "see the errors below"
    has_ended = outcome.get("duration_s") is not None
    if verdict == "cancelled" and not has_ended:
        meaning = "left before its end"
    took = f" in {units.duration(number(outcome, 'duration_s'))}" if has_ended else ""
    yield Words(f"{harmless(verdict)}{took}: {meaning}", tone, mark, 3)


def _facts(outcome: Object) -> Iterator[Words]:
    if outcome.get("run"):
        yield _fact("run", f"{text(outcome, 'run')} on {text(outcome, 'host') or '?'}")
    if outcome.get("usable_after_s") is not None:
        yield _fact("usable", f"after {units.duration(number(outcome, 'usable_after_s'))}")
    downloads = child(outcome, "downloads")
    counts = _counts(downloads)
    fetched_bytes = outcome.get("bytes_downloaded")  # only the run's own end tells it
    fetched = "" if fetched_bytes is None else f"{units.size(number(outcome, 'bytes_downloaded'))} fetched"
    if counts or number(outcome, "bytes_downloaded"):
        words = "; ".join(part for part in (counts, fetched) if part)
        yield _fact("downloads", words, "bad" if downloads.get("failed") else "plain")
    uploads = child(outcome, "uploads")
    if any(uploads.values()):
        yield _fact("uploads", _counts(uploads), "bad" if uploads.get("failed") else "plain")
    if "outputs" in outcome:
        outputs = child(outcome, "outputs")
        words = f"{units.counted(int(number(outputs, 'files')), 'file')} home, {units.size(number(outputs, 'bytes'))}"
        missing = int(number(outputs, "missing_files"))
        more = f"; {missing} not home" if missing else ""
        yield _fact("outputs", words + more, "warn" if missing else "plain")
    checks = child(outcome, "checks")
    passed, failed = int(number(checks, "passed")), listed(checks, "failed")
    if passed or failed:
        words = f"{passed} passed" + (f", {len(failed)} failed" if failed else "")
        yield _fact("checks", words, "bad" if failed else "plain")
    skipped = children(outcome, "skipped")
    for each in skipped[:SHOWN_SKIPPED]:
        yield _fact("not wanted", f"{text(each, 'item')}: {text(each, 'reason')}")
    if len(skipped) > SHOWN_SKIPPED:
        yield _fact("", f"and {len(skipped) - SHOWN_SKIPPED} more: `--json` lists all")
    for service in children(outcome, "services"):
        if service.get("state") == "skipped":
            continue
        parts = [text(service, key) for key in ("name", "state", "url") if service.get(key)]
        yield _fact("service", "  ".join(parts), "bad" if service.get("state") == "failed" else "plain")
    for job in children(outcome, "jobs"):
        if job.get("state") != "skipped":
            status = job.get("exit_status")
            how = f"exit status {status}" if status is not None else text(job, "state")
            took = f" after {units.duration(number(job, 'duration_s'))}" if job.get("duration_s") else ""
            tone: Tone = "bad" if job.get("state") == "failed" else "plain"
            yield _fact("job", f"{text(job, 'name')}  {how}{took}", tone)
    yield from _connection(outcome)
    yield from _logs(child(outcome, "logs"))


def _counts(items: Object) -> str:
    return ", ".join(f"{items[key]} {key}" for key in ("ok", "failed", "skipped") if items.get(key))


def _logs(logs: Object) -> Iterator[Words]:
    """The core log's path, and what of the others is not the same."""
    paths = {name: harmless(path) for name, path in logs.items() if path}
    core = paths.pop("core", None)
    if core is not None:
        yield _fact("log", core)
    stem = core.removesuffix(".log") if core else "\0"
    beside = [path.removeprefix(stem) for path in paths.values() if path.startswith(stem)]
    if beside:
        yield _fact("", f"with {' and '.join(beside)} beside it")
    for name, path in paths.items():
        if not path.startswith(stem):
            yield _fact(harmless(name), path)


def _fact(label: str, text: str, tone: Tone = "plain") -> Words:
    return Words(text, tone, f"   {label}", 16)


def _connection(outcome: Object) -> Iterator[Words]:
    reconnects, gaps = int(number(outcome, "reconnects")), listed(outcome, "gaps")
    if not reconnects and not gaps:
        return
    lost = f"{units.counted(len(gaps), 'gap')} in the mirrors" if gaps else "nothing lost"
    yield _fact(
        "connection", f"{units.counted(reconnects, 'reconnect')}, {lost}", "warn" if gaps else "plain"
    )


def told_errors(errors: list[Object]) -> Iterator[Words]:
    """What went wrong, each cause once, with all that it made fail, and what to do."""
    for cause in causes(errors):
        error, count = cause.first, len(cause.errors)
        mark, tone = _MARKS["warn" if error.get("level") == "optional" else "bad"]
        kind = ", ".join(text(error, key) for key in ("level", "class") if error.get(key))
        yield Words("")
        if count == 1:
            yield Words(f"{cause.names()} ({kind})", tone, mark, 3)
        else:
            yield Words(f"{count} items for one reason ({kind}): {cause.names()}", tone, mark, 3)
        for line in str(error.get("message") or "").splitlines():
            yield Words(harmless(line), indent=3)
        if error.get("hint"):
            yield Words(f"next: {text(error, 'hint')}", indent=3)


def told_warnings(warnings: list[object]) -> Iterator[Words]:
    yield from [Words("")] if warnings else []
    for warning in warnings[:SHOWN_WARNINGS]:
        yield Words(harmless(warning), "warn", "⚠", 3)
    if len(warnings) > SHOWN_WARNINGS:
        yield Words(
            f"and {units.counted(len(warnings) - SHOWN_WARNINGS, 'more warning')}: see the log",
            "warn",
            "⚠",
            3,
        )


def _secrets_named(outcome: Object) -> list[str]:
    """The secrets that the errors' advice is about, in its order."""
    hints = [
        text(error, "hint")
        for error in children(outcome, "errors")
        if (known := FAILURES.get(str(error.get("class")))) is not None and known.next == "fix_credentials"
    ]
    return list(
        dict.fromkeys(name for hint in hints for name in re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", hint))
    )


def told_next(outcome: Object) -> Iterator[Words]:
    words = NEXT.get(str(outcome.get("next")), "")
    if outcome.get("next") == "fix_credentials" and (names := _secrets_named(outcome)):
        words = words.replace("the key or the token", " and ".join(f"`{name}`" for name in names))
    if outcome.get("verdict") == "contact-lost":
        words = f"`provision attach {shlex.quote(text(outcome, 'run'))}` goes on following it"
    if words:
        yield Words("")
        yield Words(words, first="next:", indent=6)


def _told_reach(outcome: Object) -> Iterator[Words]:
    """How to reach from here what listens on the instance's own addresses only."""
    known = VERDICTS.get(str(outcome.get("verdict")))
    if known is None or known.tone == "bad" or not outcome.get("run"):
        return
    names = [
        f"`{text(service, 'name')}`"
        for service in children(outcome, "services")
        if service.get("state") == "ready"
        and service.get("reachable") is not True
        and _LOOPBACK.match(text(service, "url"))
    ]
    if names:
        command = f"`provision forward {shlex.quote(text(outcome, 'run'))}`"
        yield Words(f"{command} brings {' and '.join(names)} to this machine", first="next:", indent=6)
