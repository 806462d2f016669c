"""The wheels of a lock on their way to this disk: by the engine that fetches models, on the same line.

Each has the hash that its index told, is resumed after an interruption, and is named by that hash, so that two files
of one name never meet. What the engine cannot fetch is the installer's to fetch, as if there were no store.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, Sequence, Set
from urllib.parse import unquote, urlsplit

from ...contract.failures import Failure
from ...contract.plan import Download
from ...contract.plan_parts import Limits
from ...contract.pylock import LockedFile
from ...downloads import Downloads, Line, Result, Sources
from ...run.context import Context
from ...run.state import Record, StateFile
from .. import remove_tree
from ..progress import Progress

LOOK_AGAIN_S = 0.05
SPEAK_EVERY_S = 2.0
FIRST_BYTES = 128 << 20
"""About so much comes before the longest ones, where there is much more."""
FOLDER = os.path.join(".provision", "wheels")
"""In the workspace, where the plan names no other place."""
_TOLD = ("download_retried", "download_waiting", "download_source_failed", "download_failed")
"""What is worth a line in the agent's log; the step has its own events."""


@dataclass(frozen=True)
class Fetched:
    """What became of some wheels."""

    paths: Mapping[str, str]
    """Where each is that is there, by its file name."""
    failures: Mapping[str, Failure]
    """Why the others are not."""


class WheelStore:
    """The wheels of one run. Safe to use from several threads; `close` it.

    Args:
        folder: Where they lie, absolute.
        limits: Of the run.
        line: That of the run's other downloads.
        is_kept: They stay after the run, for the next one.
    """

    def __init__(
        self, context: Context, folder: str, *, limits: Limits, line: Line, is_kept: bool = False
    ) -> None:
        self.folder = folder
        self.is_kept = is_kept
        self._stopped = threading.Event()
        self._outer = context
        self._context = replace(
            context,
            workspace=folder,
            report=self._report,
            state=_Unwritten(),
            remaining_s=lambda: 0.0 if self._stopped.is_set() else context.remaining_s(),
        )
        self._limits, self._line = limits, line
        self._lock = threading.Lock()
        self._spoke_at = time.monotonic()
        self._batches: List[Downloads] = []
        self._batch_of: Dict[str, Downloads] = {}
        """By the path of a wheel in the folder, who fetches it."""
        self._remover = ThreadPoolExecutor(1, thread_name_prefix="wheels")
        """Takes away what is installed: with gigabytes of it, the next install need not wait for that."""

    @property
    def access(self) -> Sources:
        """Who asks addresses in this run."""
        return self._line.access

    @property
    def bytes_downloaded(self) -> int:
        """What came over the network for all of them so far."""
        with self._lock:
            return sum(batch.bytes_downloaded for batch in self._batches)

    def begin(self, wheels: Sequence[LockedFile], *, level: str, logins: Mapping[str, str]) -> None:
        """Begin to fetch those of *wheels* that nobody has begun to.

        Args:
            level: Of what they are for: the more urgent ones go first.
            logins: What is shown to each origin of an index (``user:password`` by ``scheme://host:port``), in memory only.
        """
        items = [
            Download(
                url=_with_login(str(wheel.url), logins),
                path=path_of(wheel),
                size_bytes=wheel.size_bytes,
                sha256=wheel.sha256,
                level=level,
            )
            for wheel in wheels
            if is_fetched(wheel)
        ]
        with self._lock:
            new = [item for item in items if item.path not in self._batch_of]
            if not new or self._stopped.is_set():
                return
            os.makedirs(self.folder, mode=0o755, exist_ok=True)
            batch = Downloads(
                new, self._limits, self._context, self._line.access, line=self._line, sooner=_first_of(new)
            )
            self._batches.append(batch)
            self._batch_of.update((item.path, batch) for item in new)
        batch.start()

    def wait(
        self, wheels: Sequence[LockedFile], progress: Progress, *, batch_bytes: float = math.inf
    ) -> Fetched:
        """Wait until each of *wheels* is here, or is known not to come; or until as much is here as is worth a start.

        Args:
            wheels: They have begun. Those of a disk are where they are.
            progress: Told how far they are.
            batch_bytes: What is worth a start; all of them, where nothing is said.

        Raises:
            Failure: the run was ended.
        """
        while not self._context.is_over():
            found = self._settled(wheels)
            if len(found.paths) + len(found.failures) == len(wheels):
                return found
            if sum(map(os.path.getsize, found.paths.values())) >= batch_bytes:
                return found
            if time.monotonic() - self._spoke_at >= SPEAK_EVERY_S:
                self._spoke_at = time.monotonic()
                progress.line(f"{len(wheels)} wheels to come, {self.bytes_downloaded / 1e6:.1f} MB fetched")
            self._context.cancelled.wait(LOOK_AGAIN_S)
        raise Failure("timed_out", "stopped: the run was ended", retriable=True)

    def _settled(self, wheels: Sequence[LockedFile]) -> Fetched:
        with self._lock:
            batch_of = {path: self._batch_of.get(path) for path in map(path_of, filter(is_fetched, wheels))}
        results: Dict[str, Result] = {}
        for batch in set(filter(None, batch_of.values())):
            results.update(batch.results())
        paths: Dict[str, str] = {}
        failures: Dict[str, Failure] = {}
        for wheel in wheels:
            key = path_of(wheel)
            result = results.get(key)
            if not is_fetched(wheel):
                paths[wheel.file_name] = local_path(wheel)
            elif batch_of[key] is None:
                failures[wheel.file_name] = Failure(
                    "not_found", "pip's own settings say how its index is reached"
                )
            elif result is not None and result.state == "failed":
                failures[wheel.file_name] = result.failure or Failure("not_found", "it cannot be had")
            elif result is not None:
                paths[wheel.file_name] = os.path.join(self.folder, key)
        return Fetched(paths, failures)

    def installed(self, wheels: Sequence[LockedFile]) -> None:
        """*wheels* are installed: unless they are kept, their room is wanted for others."""
        for wheel in wheels if not self.is_kept else ():
            path = path_of(wheel)
            with self._lock:
                is_ours = self._batch_of.pop(path, None) is not None
                if is_ours and not self._stopped.is_set():  # else it goes with the folder, at the end
                    self._remover.submit(_take_away, os.path.join(self.folder, path))

    def close(self, *, is_done: bool) -> None:
        """End what still goes on.

        Args:
            is_done: All that was wanted is installed: what is left is not needed any more. Else it waits for the next run.
        """
        with self._lock:
            self._stopped.set()
            batches = list(self._batches)
        for batch in batches:
            batch.stop()
        self._remover.shutdown()
        if is_done and not self.is_kept and os.path.isdir(self.folder):
            left = remove_tree.remove(self.folder, self._outer)
            if left is not None:
                self._outer.report("warning", message=left)

    def _report(self, event: str, **fields: object) -> None:
        if event == "warning":
            self._outer.report(event, **fields)
        elif event in _TOLD:
            said = fields.get("message") or fields.get("reason") or ""
            self._outer.output(self._outer.redact(f"{event} {fields.get('item')}: {said}"))


def _first_of(items: Sequence[Download]) -> Set[str]:
    """The keys of some that are soon here, so that the installer has work at once: then the longest begin."""
    first: Set[str] = set()
    room = FIRST_BYTES
    for item in sorted(items, key=lambda item: -(item.size_bytes or 0)):
        size = item.size_bytes or 0
        if FIRST_BYTES // 16 <= size <= min(room, FIRST_BYTES // 2):
            first.add(item.key)
            room -= size
    return first


def _take_away(path: str) -> None:
    """Remove the file at *path* and its folder, as far as that can be done: it goes with all of them, at the end."""
    try:
        os.unlink(path)
        os.rmdir(os.path.dirname(path))
    except OSError:
        pass


def is_fetched(wheel: LockedFile) -> bool:
    """Is it somewhere on a network? Else it is on a disk of this instance."""
    return urlsplit(wheel.url or "").scheme in ("http", "https")


def local_path(wheel: LockedFile) -> str:
    """Where a wheel is that is on a disk of this instance."""
    return wheel.path or unquote(urlsplit(wheel.url or "").path)


def path_of(wheel: LockedFile) -> str:
    """Where *wheel* lies in a store: below its hash (else its address's), under its own name, which says what it fits."""
    place = wheel.sha256 or hashlib.sha256(str(wheel.url).encode()).hexdigest()
    return os.path.join(place[:32], wheel.file_name)


def _with_login(url: str, logins: Mapping[str, str]) -> str:
    """*url* with the login of its origin, unless it has one."""
    parts = urlsplit(url)
    login = logins.get(origin_of(url))
    if login is None or parts.username is not None:
        return url
    return parts._replace(netloc=f"{login}@{parts.netloc}").geturl()


def origin_of(url: str) -> str:
    """Scheme, host and port of *url*, to whom a login is shown."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


class _Unwritten(StateFile):
    """Records of files whose hash is known anyway: kept in memory, so that 200 wheels do not write a file 200 times."""

    is_lasting = False

    def __init__(self) -> None:
        super().__init__("")

    def _load(self) -> Dict[str, Record]:
        return {}

    def _save(self, *, sync: bool = True) -> None:
        return None
