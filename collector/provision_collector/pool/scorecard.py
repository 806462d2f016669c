"""What is known of a machine from the runs it had: line rate per source host, stalls, reconnects, verdicts.

Providers rent out the same machine again and again, so a pool can avoid those that were slow or broke. One file per
instance under the state directory, keyed by its instance id, else by ``host:port``; a run counts once.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from provision_agent.contract import version
from provision_agent.contract.events import Event

from ..errors import ProvisionError
from ..instance import Instance
from ..run import registry
from ..run.events import EventTail

SAY_NOTHING = frozenset(("usage", "profile", "local", "refused", "cancelled", "host-key", "auth-refused"))
KEPT_RUNS = 50
"""The newest runs of an instance that count."""


def key_of(instance: Instance) -> str:
    """The name of an instance among the scorecards."""
    return instance.instance_id or str(instance)


def record(instance: Instance, events: Path, outcome: Mapping[str, Any]) -> None:
    """Add the finished run of *outcome*, whose agent's events are mirrored in *events*.

    The same run again replaces itself; a run that says nothing about the machine is left out.
    """
    if outcome["verdict"] in SAY_NOTHING:
        return
    key = key_of(instance)
    entry = {
        "run": outcome["run"],
        "ended": _now(),
        "verdict": outcome["verdict"],
        "usable_after_s": outcome["usable_after_s"],
        "reconnects": outcome["reconnects"],
        **_measured(_events_of(events)),
    }
    path = _path(key)
    with _locked(path):
        runs = [run for run in _runs(path) if run["run"] != entry["run"]]
        runs = [*runs, entry][-KEPT_RUNS:]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(
            json.dumps({"format": version.FORMAT, "instance": key, "host": str(instance), "runs": runs})
        )
        temporary.chmod(0o600)
        temporary.replace(path)


def scorecards() -> list[dict[str, Any]]:
    """Every instance with the sum of its runs, the one that ran last first."""
    cards = [card for path in _folder().glob("*.json") if (card := _card(path)) is not None]
    return sorted(cards, key=lambda card: str(card["last"]), reverse=True)


def scorecard(key: str) -> dict[str, Any] | None:
    """The card of one instance."""
    return _card(_path(key))


def forget(key: str) -> bool:
    """Remove the card of an instance; False when there is none."""
    path = _path(key)
    is_there = path.exists()
    path.unlink(missing_ok=True)
    return is_there


def _card(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
        runs = list(data["runs"])
        verdicts: dict[str, int] = {}
        for run in runs:
            verdicts[run["verdict"]] = verdicts.get(run["verdict"], 0) + 1
        usable = [run["usable_after_s"] for run in runs if run["usable_after_s"] is not None]
        return {
            "instance": data["instance"],
            "host": data["host"],
            "runs": len(runs),
            "verdicts": verdicts,
            "usable_after_s": round(statistics.median(usable), 1) if usable else None,
            "sources": _sources(runs),
            "stalls": sum(run["stalls"] for run in runs),
            "reconnects": sum(run["reconnects"] for run in runs),
            "last": runs[-1]["ended"],
        }
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None  # an unreadable card says nothing about the machine


def _sources(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    sums: dict[str, list[float]] = {}
    for run in runs:
        for host, source in run["sources"].items():
            total = sums.setdefault(host, [0, 0.0])
            total[0] += source["bytes"]
            total[1] += source["seconds"]
    return {
        host: {"bytes": int(count), "bytes_per_s": round(count / seconds) if seconds > 0 else None}
        for host, (count, seconds) in sums.items()
    }


def _measured(events: Iterable[Event]) -> dict[str, Any]:
    """Bytes and seconds per source host: the time in which at least one file came from it counts once."""
    begun: dict[str, tuple[float, str]] = {}
    spans: dict[str, list[tuple[float, float]]] = {}
    landed: dict[str, int] = {}
    stalls = 0
    for event in events:
        name, item = event.name, event.key
        if name in ("download_started", "download_switched"):
            since = _unix(event.ts) if name == "download_started" or item not in begun else begun[item][0]
            begun[item] = (since, _host_of(event.data.get("url")))
        elif name == "download_stalled":
            stalls += 1
        elif name == "download_finished" and item in begun:
            since, host = begun.pop(item)
            spans.setdefault(host, []).append((since, _unix(event.ts)))
            landed[host] = landed.get(host, 0) + int(str(event.data.get("bytes") or 0))
    sources = {host: {"bytes": landed[host], "seconds": round(_union_s(spans[host]), 3)} for host in landed}
    return {"sources": sources, "stalls": stalls}


def _events_of(path: Path) -> Iterator[Event]:
    tail = EventTail(path)
    with suppress(ProvisionError):  # what comes before an event that cannot be read still counts
        while events := tail.read_new():
            yield from events


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


def _runs(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text())["runs"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
