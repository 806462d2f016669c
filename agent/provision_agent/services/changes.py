"""What has changed that a running program loads only when it starts: packages, nodes, small files.

Every change has a number, one higher than the last; a supervisor notes the newest with each start of its program. So
it is known of a service, over the end of a run, an agent that was killed, and a reboot, what it has not loaded yet.
Models are no such change: a ComfyUI finds them by itself.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Dict, Iterable, List, Optional, Tuple

from ..contract.parsing import ParseError, bounded, parse, read_object, to_json
from ..host import detach
from ..run.context import Report
from ..run.state import write_atomically

NODES = "custom_nodes"
_KEPT = 200
_MAX_BYTES = 1 << 20
_CODE = (".py", ".zip", ".tar", ".tar.gz", ".tgz")
_PROBED = "/__init__.py"
"""The item under which a node is imported, which installs nothing."""


@dataclass(frozen=True)
class Change:
    """One of them: `kind` is ``package``, ``node`` or ``file``; when it was, in clock ticks since boot."""

    number: int = bounded(low=0)
    kind: str = bounded(max_chars=16)
    item: str = bounded(max_chars=8192)
    ticks: int = bounded(0, low=0)
    boot_id: str = bounded("", max_chars=64)


@dataclass(frozen=True)
class _Warned:
    """Which items it was warned of that the service, as it was started when *loaded* was the newest, had not loaded."""

    loaded: int = bounded(0, low=0)
    items: Tuple[str, ...] = bounded((), max_chars=8192)


@dataclass(frozen=True)
class _Kept:
    newest: int = bounded(0, low=0)
    changes: Tuple[Change, ...] = ()
    warned: Dict[str, _Warned] = field(default_factory=dict)
    """By the name of the service."""


def path_of(workspace: str) -> str:
    """The file of the changes of *workspace*, beside its services."""
    return os.path.join(workspace, ".provision", "services", "changes.json")


def newest(path: str) -> int:
    """The number of the newest change in the file at *path*; 0 before the first."""
    return _read(path).newest


class Changes:
    """Writes them down as a run reports them. Thread-safe; one process writes, the one that holds the workspace's lock."""

    def __init__(self, workspace: str, report: Report) -> None:
        self._path = path_of(workspace)
        self._told = report
        self._lock = threading.Lock()

    def report(self, event: str, **fields: object) -> None:
        """Write down what *event* changed, then pass it on."""
        found = _change_of(event, fields)
        if found is not None:
            self._add(*found)
        self._told(event, **fields)

    def since(self, number: Optional[int]) -> List[Change]:
        """What changed after the change *number*; nothing when that is not known."""
        return (
            []
            if number is None
            else [change for change in _read(self._path).changes if change.number > number]
        )

    def at(self, process: detach.Identity) -> int:
        """The number of the newest change when *process* started; of one that another boot had, the newest."""
        kept = _read(self._path)
        later = [
            change.number
            for change in kept.changes
            if change.boot_id == process.boot_id and change.ticks > process.start_time
        ]
        return min(later) - 1 if later else kept.newest

    def is_news(self, service: str, loaded: int, items: Iterable[str]) -> bool:
        """Note that *items* are told of as not loaded by *service*, whose start had *loaded*; False when all were before."""
        with self._lock:
            kept = _read(self._path)
            before = kept.warned.get(service, _Warned())
            known = before.items if before.loaded == loaded else ()
            new = [item for item in dict.fromkeys(items) if item not in known]
            if new:
                warned = _Warned(loaded, (*known, *new)[-_KEPT:])
                self._write(replace(kept, warned={**kept.warned, service: warned}))
        return bool(new)

    def _add(self, kind: str, item: str) -> None:
        with self._lock:
            kept = _read(self._path)
            change = Change(kept.newest + 1, kind, item, _ticks(), detach.boot_id())
            self._write(replace(kept, newest=change.number, changes=(*kept.changes, change)[-_KEPT:]))

    def _write(self, kept: _Kept) -> None:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        write_atomically(self._path, json.dumps(to_json(kept)).encode(), sync=False)


def _change_of(event: str, fields: "dict[str, object]") -> Optional[Tuple[str, str]]:
    """Kind and item of the change that *event* tells; None when it tells none."""
    item = str(fields.get("item"))
    if event == "package_finished" and not item.endswith(_PROBED):
        return "package", item
    if event == "repo_finished":
        return "node", item
    if event == "file_written" and fields.get("changed") is not False:
        return "file", item
    if event == "download_finished" and NODES in item.split("/") and item.endswith(_CODE):
        return "node", item
    return None


def _ticks() -> int:
    """Now, as the kernel counts the start times of processes."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _read(path: str) -> _Kept:
    try:
        with open(path, "rb") as file:
            return parse(_Kept, read_object(file.read(), max_bytes=_MAX_BYTES), "changes")
    except (OSError, ParseError):
        return _Kept()
