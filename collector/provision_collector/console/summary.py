"""The last words of a run: what came of it, what is wrong, and what to do now.

Taken from the outcome alone, so that every view and every command says the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rich.cells import cell_len

from . import units
from .lines import Tone
from .text import harmless, wrapped

WIDTH = 80
SHOWN_WARNINGS = 10

_MARKS: dict[str, tuple[str, Tone]] = {"optional": ("⚠", "warn"), "other": ("❌", "bad")}

_VERDICTS: dict[str, tuple[str, Tone, str]] = {
    "complete": ("✅", "good", "everything needed is there and checked"),
    "incomplete": ("⚠", "warn", "usable, but something required is missing"),
    "failed": ("❌", "bad", "the instance is not usable"),
    "refused": ("❌", "bad", "another plan's run is going on this instance"),
    "unreachable": ("❌", "bad", "there is no way in"),
    "host-key": ("❌", "bad", "this is not the host key that was expected"),
    "contact-lost": ("⚠", "warn", "there is no way back in; the run may go on without us"),
    "auth-refused": ("❌", "bad", "the instance does not take this key"),
    "agent-lost": ("❌", "bad", "the agent died and could not be started again"),
    "instance-gone": ("❌", "bad", "the instance does not exist any more"),
    "timeout": ("❌", "bad", "the deadline passed"),
    "cancelled": ("⚠", "warn", "it was stopped before its end"),
}

_NEXT = {
    "retry": "run the same `provision up` again: what has landed is kept",
    "replace_instance": "destroy this instance and take another one: this one cannot be mended from here",
    "fix_profile": "correct the profile as said above, then run the same `provision up` again",
    "fix_credentials": "correct the key or the token as said above, then run the same `provision up` again",
    "report_bug": "please report this, with the logs above",
}


class Words(NamedTuple):
    """A line of the summary: `first` stands in its first *indent* columns, and what is wrapped stays under `text`."""

    text: str
    tone: Tone = "plain"
    first: str = ""
    indent: int = 0


def summary(outcome: Mapping[str, Any]) -> Iterator[Words]:
    """The lines of the summary, from top to bottom; wrap each with `fitted`."""
    yield Words("")
    yield from _head(outcome)
    yield from _facts(outcome)
    for error in outcome.get("errors") or []:
        yield from _error(error)
    yield from _warnings(outcome.get("warnings") or [])
    yield from _next(outcome)


def fitted(words: Words, width: int = WIDTH) -> list[str]:
    """The lines that *words* take at *width* columns."""
    first = words.first + " " * (words.indent - cell_len(words.first))
    lines = list(wrapped(words.text, max(width - words.indent, 20)))
    return [(" " * words.indent if at else first) + line for at, line in enumerate(lines)]


def _head(outcome: Mapping[str, Any]) -> Iterator[Words]:
    verdict = str(outcome.get("verdict"))
    mark, tone, meaning = _VERDICTS.get(verdict, ("❌", "bad", "see the errors below"))
    if verdict == "cancelled" and outcome.get("duration_s") is None:
        meaning = "left before its end"
    took = (
        f" in {units.duration(units.number(outcome['duration_s']))}"
        if outcome.get("duration_s") is not None
        else ""
    )
    yield Words(f"{harmless(verdict)}{took}: {meaning}", tone, mark, 3)


def _facts(outcome: Mapping[str, Any]) -> Iterator[Words]:
    if outcome.get("run"):
        yield _fact("run", f"{harmless(outcome['run'])} on {harmless(outcome.get('host') or '?')}")
    if outcome.get("usable_after_s") is not None:
        yield _fact("usable", f"after {units.duration(units.number(outcome['usable_after_s']))}")
    downloads = outcome.get("downloads") or {}
    if any(downloads.values()):
        counts = ", ".join(
            f"{downloads[key]} {key}" for key in ("ok", "failed", "skipped") if downloads.get(key)
        )
        fetched = f"{units.size(units.number(outcome.get('bytes_downloaded')))} fetched"
        yield _fact("downloads", f"{counts}; {fetched}", "bad" if downloads.get("failed") else "plain")
    checks = outcome.get("checks") or {}
    if checks.get("passed") or checks.get("failed"):
        failed = checks.get("failed") or []
        text = f"{checks.get('passed') or 0} passed" + (f", {len(failed)} failed" if failed else "")
        yield _fact("checks", text, "bad" if failed else "plain")
    for service in outcome.get("services") or []:
        parts = [harmless(service[key]) for key in ("name", "state", "url") if service.get(key)]
        yield _fact("service", "  ".join(parts), "bad" if service.get("state") == "failed" else "plain")
    yield from _connection(outcome)
    yield from _logs(outcome.get("logs") or {})


def _logs(logs: Mapping[str, str]) -> Iterator[Words]:
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


def _connection(outcome: Mapping[str, Any]) -> Iterator[Words]:
    reconnects, gaps = int(outcome.get("reconnects") or 0), outcome.get("gaps") or []
    if not reconnects and not gaps:
        return
    text = units.counted(reconnects, "reconnect")
    text += f", {units.counted(len(gaps), 'gap')} in the mirrors" if gaps else ", nothing lost"
    yield _fact("connection", text, "warn" if gaps else "plain")


def _error(error: Mapping[str, Any]) -> Iterator[Words]:
    mark, tone = _MARKS["optional" if error.get("level") == "optional" else "other"]
    kind = ", ".join(harmless(error[key]) for key in ("level", "class") if error.get(key))
    yield Words("")
    yield Words(f"{harmless(error.get('item') or 'error')} ({kind})", tone, mark, 3)
    for line in str(error.get("message") or "").splitlines():
        yield Words(harmless(line), indent=3)
    if error.get("hint"):
        yield Words(f"next: {harmless(error['hint'])}", indent=3)


def _warnings(warnings: list[object]) -> Iterator[Words]:
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


def _next(outcome: Mapping[str, Any]) -> Iterator[Words]:
    text = _NEXT.get(str(outcome.get("next")), "")
    if outcome.get("verdict") == "contact-lost":
        text = f"`provision attach {shlex.quote(harmless(outcome.get('run') or ''))}` goes on following it"
    if text:
        yield Words("")
        yield Words(text, first="next:", indent=6)
