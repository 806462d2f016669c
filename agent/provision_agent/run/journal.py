"""The one writer of a run's core log, error log, events and status.

A record is on its file when `event` returns, so SIGKILL loses nothing that was reported. Every string passes
redaction first. When the disk is full a reserve is given up, so that the last words still fit.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from datetime import datetime, timezone
from typing import Callable, Dict, Mapping, Optional, TypeVar

from ..contract import redaction, version
from ..contract.events import Event, parse_event, read_event
from ..contract.parsing import ParseError
from ..contract.status import RunState
from . import log_lines
from .state import write_atomically
from .workspace import Workspace

RESERVE_BYTES = 1 << 20
MAX_PENDING_BYTES = 1 << 20
STATUS_EVERY_S = 0.5


T = TypeVar("T")


class Journal:
    """Open the run's files, mend a torn last line, and go on with its sequence. Thread-safe."""

    def __init__(self, workspace: Workspace, run_id: str, *, secrets: Mapping[str, str]) -> None:
        self._workspace = workspace
        self._run = run_id
        self._hidden = dict(secrets)
        self._secrets = redaction.Hidden(self._hidden.values())
        self._lock = threading.RLock()
        self._core = _AppendedFile(workspace.run_file(run_id, "core.log"), workspace.reserve)
        self._errors = _AppendedFile(workspace.errors, workspace.reserve)
        self._events = _AppendedFile(workspace.run_file(run_id, "events.jsonl"), workspace.reserve)
        self._output = _AppendedFile(workspace.run_file(run_id, "agent.log"), workspace.reserve)
        self._state = RunState(run_id)
        self._sequence = self._replay(workspace.run_file(run_id, "events.jsonl"))
        self._is_dirty = threading.Event()
        self._closed = threading.Event()
        _make_reserve(workspace.reserve)
        self._ticker = threading.Thread(target=self._keep_status_fresh, daemon=True)
        self._ticker.start()

    def event(self, event: str, **fields: object) -> None:
        """Write one event and the log lines that it leaves."""
        with self._lock:
            now = _now()
            record: Dict[str, object] = {
                "format": version.FORMAT,
                "ts": now,
                "run": self._run,
                "seq": self._sequence + 1,
            }
            record.update(
                (key, value if key in _OUR_WORDS else self._clean(value)) for key, value in fields.items()
            )
            record["event"] = event
            self._write_lines(log_lines.lines_of(record), now)
            if event == "run_finished":
                others = fields.get("sizes")
                own = {"core": self._core.size(), "errors": self._errors.size()}
                record["sizes"] = {**(others if isinstance(others, dict) else {}), **own}
            self._sequence += 1
            self._events.append(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
            self._state.fold(parse_event(record))
            self._is_dirty.set()

    def hide(self, secrets: Mapping[str, str]) -> None:
        """Show none of these values from now on, beside those that were known at first."""
        with self._lock:
            self._hidden.update(secrets)
            self._secrets = redaction.Hidden(self._hidden.values())

    def redact(self, text: str) -> str:
        """*text* as it may be shown: what cuts a text asks before it cuts."""
        with self._lock:
            return self._secrets.redact(text)

    def look(self, question: Callable[[RunState], T]) -> T:
        """What *question* makes of the status, which nobody changes meanwhile."""
        with self._lock:
            return question(self._state)

    def say(self, text: log_lines.Lines) -> None:
        """Write lines that belong to no single event."""
        with self._lock:
            self._write_lines(
                log_lines.Lines(*([self._secrets.redact(line) for line in part] for part in text)),
                _now(),
            )

    def output(self, line: str) -> None:
        """A line of a child program's own output, for `agent.log`."""
        with self._lock:
            self._output.append(self._secrets.redact(line) + "\n")

    def close(self) -> None:
        """Write the last status. Safe to repeat."""
        self._closed.set()
        self._ticker.join(timeout=5)
        self._write_status()

    def _write_lines(self, text: log_lines.Lines, now: str) -> None:
        for line in text.core:
            self._core.append(f"{now} {_one_line(line)}\n")
        for line in text.errors:
            self._errors.append(f"{now} run={self._run} {_one_line(line)}\n")

    def _replay(self, path: str) -> int:
        last = 0
        with open(path, "rb") as file:
            for line in file:
                event = _readable(line)
                if event is not None:
                    last = event.seq
                    self._state.fold(event)
        return last

    def _clean(self, value: object) -> object:
        if isinstance(value, str):
            return self._secrets.redact(value)
        if isinstance(value, dict):
            return {key: self._clean(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._clean(item) for item in value]
        return value

    def _keep_status_fresh(self) -> None:
        while not self._closed.wait(STATUS_EVERY_S):
            if self._is_dirty.is_set():
                self._write_status()

    def _write_status(self) -> None:
        with self._lock:
            self._is_dirty.clear()
            data = json.dumps(self._state.to_json(), ensure_ascii=False).encode()
        try:
            write_atomically(self._workspace.run_file(self._run, "status.json"), data, sync=False)
        except OSError:
            self._is_dirty.set()  # the disk is full: the events say the same


class _AppendedFile:
    """A file that only grows. What the disk refuses is kept, in order, and written when it can be."""

    def __init__(self, path: str, reserve: str) -> None:
        self._reserve = reserve
        self._pending = b""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            self.append("\n")

    def append(self, text: str) -> None:
        self._pending += text.encode("utf-8", "replace")
        try:
            self._flush()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and self._give_up_reserve():
                self.append("")
        if len(self._pending) > MAX_PENDING_BYTES:
            self._pending = self._pending[: MAX_PENDING_BYTES // 2].rpartition(b"\n")[0] + b"\n"

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _flush(self) -> None:
        while self._pending:
            written = os.write(self._descriptor, self._pending)
            self._pending = self._pending[written:]

    def _give_up_reserve(self) -> bool:
        try:
            os.unlink(self._reserve)
        except OSError:
            return False
        return True


def _make_reserve(path: str) -> None:
    try:
        if not os.path.exists(path):
            write_atomically(path, b"\0" * RESERVE_BYTES)
    except OSError:
        pass  # the disk is full already: preflight says so


_OUR_WORDS = ("verdict", "level", "class", "step")
"""Fields whose values are the protocol's own: a secret that happens to be `complete` must not break them."""


def _one_line(text: str) -> str:
    return text.replace("\r", "").replace("\n", " ⏎ ")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_state(workspace: Workspace, run_id: str) -> Optional[RunState]:
    """The state of a run from its events, whoever wrote them; None when it left none."""
    state = RunState(run_id)
    try:
        with open(workspace.run_file(run_id, "events.jsonl"), "rb") as file:
            for line in file:
                event = _readable(line)
                if event is not None:
                    state.fold(event)
    except OSError:
        return None
    return state


def _readable(line: bytes) -> Optional[Event]:
    """The event in *line*; None where a killed agent tore it, or where somebody else wrote what is none."""
    try:
        found = read_event(line)
        return None if found is None else parse_event(found)
    except ParseError:
        return None
