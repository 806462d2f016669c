"""What is known of a machine from the runs it had: line rate per source host, stalls, reconnects, verdicts.

Providers rent out the same machine again and again, so a pool can avoid those that were slow or broke. One file per
instance under the state directory, keyed by its instance id, else by ``host:port``; a run counts once.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from provision_agent.contract import version
from provision_agent.contract.events import Event
from pydantic import Field, TypeAdapter, ValidationError

from ..errors import ProvisionError
from ..instance import Instance
from ..run import registry
from ..run.events import events_of
from ..run.registry import RunFiles
from ..storage import FileLock, LockBusyError, write_atomically

TELLING = (
    "download_started",
    "download_switched",
    "download_stalled",
    "download_finished",
    "instance_measured",
)
"""The events that say something about the machine; of a long run they are a small part."""
SAY_NOTHING = frozenset(("usage", "profile", "local", "refused", "cancelled", "host-key", "auth-refused"))
KEPT_RUNS = 50
"""The newest runs of an instance that count."""

log = structlog.get_logger()


def key_of(instance: Instance) -> str:
    """The name of an instance among the scorecards."""
    return instance.instance_id or str(instance)


Figure = float | str | list[str]
"""What was measured of an instance before a run: a rate, a size, the name of a source, errors of its cards."""
_FIGURES = (
    "line_bytes_per_s",
    "line_host",
    "disk_write_bytes_per_s",
    "memory_bytes",
    "gpu_used_bytes",
    "gpu_errors",
)


@dataclass(frozen=True)
class _Line:
    """What came from one host in one run."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class _Measured:
    """What the events of one run say about the machine."""

    sources: dict[str, _Line]
    stalls: int
    figures: dict[str, Figure] = field(default_factory=dict)
    """What `require` of its profile had measured."""


@dataclass(frozen=True, kw_only=True)
class _ScoredRun(_Measured):
    """One run of an instance, as it is kept."""

    run: str
    ended: str
    verdict: str
    usable_after_s: float | None
    reconnects: int


@dataclass(frozen=True)
class _File:
    """The file of one instance."""

    instance: str
    host: str
    runs: list[_ScoredRun]
    format: int = version.FORMAT


_FILE = TypeAdapter(_File)
_RUN = TypeAdapter(_ScoredRun)


@dataclass(frozen=True)
class Source:
    """What came from one host."""

    bytes: int
    bytes_per_s: int | None


@dataclass(frozen=True)
class Scorecard:
    """What the runs of one instance say about the machine."""

    instance: str
    host: str
    runs: int
    verdicts: dict[str, int]
    usable_after_s: Annotated[float | None, Field(description="the median")]
    sources: dict[str, Source]
    stalls: int
    reconnects: int
    measured: Annotated[dict[str, Figure], Field(description="for `require`; of each the newest")]
    last: str


def record(instance: Instance, files: RunFiles, outcome: Mapping[str, object]) -> None:
    """Add a finished run to the card of its instance; the same run again replaces itself.

    A run that says nothing about the machine is left out. What cannot be written is logged: the verdict stands whether it
    can be remembered or not.

    Args:
        instance: Where it ran.
        files: Its mirrors here: its agent's events tell bytes, seconds and stalls.
        outcome: How it ended.
    """
    if outcome["verdict"] in SAY_NOTHING:
        return
    try:
        _record(instance, files, outcome)
    except (OSError, LockBusyError) as error:
        log.warning("scorecard_not_written", run=outcome["run"], why=str(error))


@dataclass(frozen=True)
class Entry:
    """What one run says about its machine, for servers that keep it in their database."""

    instance: str
    host: str
    run: str
    ended: str
    text: str


def entry_of(instance: Instance, events: Iterable[Event], outcome: Mapping[str, object]) -> Entry | None:
    """What a finished run says about the machine; None when that is nothing.

    Args:
        instance: Where it ran.
        events: Its agent's.
        outcome: How it ended.
    """
    if outcome["verdict"] in SAY_NOTHING:
        return None
    scored = _scored(events, outcome)
    return Entry(key_of(instance), str(instance), scored.run, scored.ended, json.dumps(asdict(scored)))


def card_of(entries: Iterable[Entry]) -> Scorecard | None:
    """The card of one instance from what its runs said, the oldest first; None when nothing of it can be read."""
    runs: list[_ScoredRun] = []
    last = None
    for last in entries:
        with suppress(ValidationError):
            runs.append(_RUN.validate_json(last.text))
    return _card_of(_File(last.instance, last.host, runs[-KEPT_RUNS:])) if last is not None and runs else None


def cards_of(entries: Iterable[Entry]) -> list[Scorecard]:
    """The cards of all instances, the one that ran last first; *entries* are sorted by instance and age."""
    groups = groupby(entries, key=lambda entry: entry.instance)
    cards = [card for _, mine in groups if (card := card_of(mine)) is not None]
    return sorted(cards, key=lambda card: card.last, reverse=True)


def _scored(events: Iterable[Event], outcome: Mapping[str, object]) -> _ScoredRun:
    told = {name: outcome[name] for name in ("run", "verdict", "usable_after_s", "reconnects")}
    return _RUN.validate_python({**told, **vars(_measured(events)), "ended": _now()})


def _record(instance: Instance, files: RunFiles, outcome: Mapping[str, object]) -> None:
    entry = _scored(_events_of(files.events), outcome)
    key = key_of(instance)
    path = _path(key)
    with FileLock(path.parent / "lock"):
        known = _read(path)
        runs = [run for run in known.runs if run.run != entry.run] if known is not None else []
        file = _File(key, str(instance), [*runs, entry][-KEPT_RUNS:])
        write_atomically(path, json.dumps(asdict(file)))


def scorecards() -> list[Scorecard]:
    """Every instance with the sum of its runs, the one that ran last first."""
    cards = [card for path in _folder().glob("*.json") if (card := _card(path)) is not None]
    return sorted(cards, key=lambda card: card.last, reverse=True)


def scorecard(key: str) -> dict[str, object] | None:
    """The card of one instance, as JSON values."""
    card = _card(_path(key))
    return asdict(card) if card is not None else None


def forget(key: str) -> bool:
    """Remove the card of an instance; False when there is none."""
    path = _path(key)
    is_there = path.exists()
    path.unlink(missing_ok=True)
    return is_there


def _card(path: Path) -> Scorecard | None:
    known = _read(path)
    return _card_of(known) if known is not None and known.runs else None


def _card_of(known: _File) -> Scorecard:
    usable = [run.usable_after_s for run in known.runs if run.usable_after_s is not None]
    return Scorecard(
        instance=known.instance,
        host=known.host,
        runs=len(known.runs),
        verdicts=dict(Counter(run.verdict for run in known.runs)),
        usable_after_s=round(statistics.median(usable), 1) if usable else None,
        sources=_sources(known.runs),
        stalls=sum(run.stalls for run in known.runs),
        reconnects=sum(run.reconnects for run in known.runs),
        measured={name: figure for run in known.runs for name, figure in run.figures.items()},
        last=known.runs[-1].ended,
    )


def _sources(runs: Iterable[_ScoredRun]) -> dict[str, Source]:
    landed: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    for run in runs:
        for host, line in run.sources.items():
            landed[host] += line.bytes
            seconds[host] = seconds.get(host, 0.0) + line.seconds
    return {
        host: Source(count, round(count / seconds[host]) if seconds[host] > 0 else None)
        for host, count in landed.items()
    }


def _measured(events: Iterable[Event]) -> _Measured:
    """Bytes and seconds per source host: the time in which at least one file came from it counts once."""
    begun: dict[str, tuple[float, str]] = {}
    spans: dict[str, list[tuple[float, float]]] = {}
    landed: dict[str, int] = {}
    figures: dict[str, Figure] = {}
    stalls = 0
    for event in events:
        name, item = event.name, event.key
        if name in ("download_started", "download_switched"):
            since = _unix(event.ts) if name == "download_started" or item not in begun else begun[item][0]
            begun[item] = (since, _host_of(event.data.get("url")))
        elif name == "instance_measured":
            figures = {key: figure for key in _FIGURES if (figure := getattr(event.body, key)) is not None}
        elif name == "download_stalled":
            stalls += 1
        elif name == "download_finished" and item in begun:
            since, host = begun.pop(item)
            spans.setdefault(host, []).append((since, _unix(event.ts)))
            landed[host] = landed.get(host, 0) + int(str(event.data.get("bytes") or 0))
    sources = {host: _Line(count, round(_union_s(spans[host]), 3)) for host, count in landed.items()}
    return _Measured(sources, stalls, figures)


def _events_of(path: Path) -> Iterator[Event]:
    with suppress(ProvisionError):  # what comes before an event that cannot be read still counts
        yield from events_of(path, TELLING)


def _host_of(url: object) -> str:
    try:
        return urlsplit(str(url)).hostname or ""
    except ValueError:
        return ""


def _union_s(spans: list[tuple[float, float]]) -> float:
    total, end = 0.0, 0.0
    for first, last in sorted(spans):
        total += max(last - max(first, end), 0.0)
        end = max(end, last)
    return total


def _unix(timestamp: object) -> float:
    return datetime.fromisoformat(str(timestamp).replace("Z", "+00:00")).timestamp()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _folder() -> Path:
    return registry.state_directory() / "hosts"


def _path(key: str) -> Path:
    return _folder() / (
        re.sub(r"[^A-Za-z0-9._-]", lambda match: f"%{ord(match[0]):02x}", key).lstrip(".") + ".json"
    )


def _read(path: Path) -> _File | None:
    """What is kept of an instance; None where that is nothing, or cannot be read."""
    try:
        return _FILE.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
