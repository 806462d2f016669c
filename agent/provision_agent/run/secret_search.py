"""After a run: does a secret's value stand in a file that it left? What is found is told by the file's name, never by the value.

Searched are the tool's own logs and state, and small text files of the workspace that changed since the run began; not
what was downloaded, and no environment. Bounded in time and bytes; where a bound is met, a warning says so.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, FrozenSet, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ..contract.failures import Failure
from ..contract.redaction import forms_of
from .journal import Journal
from .workspace import Workspace

WITHIN_S = 4.0
"""The search comes before the verdict: a run that is stopped has its keeper's grace for this and all else."""
MAX_BYTES = 64 << 20
"""Read of the tool's own files, and again of the others."""
SMALL_BYTES = 1 << 20
"""A larger file of the workspace is no small text file."""
MAX_TOLD = 20
CLOCK_SLACK_S = 2.0
"""File systems round their times."""
_BLOCK_BYTES = 1 << 20
_HEAD_BYTES = 8192
"""A NUL in these tells a file that is no text."""
_NO_TEXT = ("site-packages", "__pycache__")


class Leak(NamedTuple):
    """A file with a value in it."""

    path: str
    """Relative to the workspace."""
    names: Tuple[str, ...]
    """Those of the secrets."""


def tell(workspace: Workspace, run_id: str, journal: Journal, secrets: Mapping[str, str]) -> None:
    """Search, and write an event for each file that holds a value of *secrets*."""
    if not forms_of(secrets.values()):
        return
    downloaded = journal.look(
        lambda state: frozenset(item.item for item in state.items["downloads"].values())
    )
    search = Search(workspace, run_id, secrets, downloaded)
    leaks = search.found()
    for leak in leaks[:MAX_TOLD]:
        names = ", ".join(f"`{name}`" for name in leak.names)
        failure = Failure("secret_in_file", f"the value of {names} stands in `{leak.path}`")
        journal.event("secret_found", item=leak.path, level="required", **failure.as_fields())
    if len(leaks) > MAX_TOLD:
        journal.event(
            "warning", message=f"secrets stand in {len(leaks) - MAX_TOLD} more files of the workspace"
        )
    if search.is_cut_short:
        bounds = f"{WITHIN_S:.0f} s and {MAX_BYTES >> 20} MiB"
        journal.event(
            "warning", message=f"within {bounds} not all files that changed were searched for secrets"
        )


class Search:
    """One search. It reads beside its caller, for a network volume may hang."""

    def __init__(
        self, workspace: Workspace, run_id: str, secrets: Mapping[str, str], downloaded: FrozenSet[str]
    ) -> None:
        self._workspace = workspace
        self._since = _began(workspace.run_file(run_id, "plan.json"))
        self._passed_over = {os.path.normpath(os.path.join(workspace.root, path)) for path in downloaded}
        self._forms = [
            (name, [form.encode("utf-8", "replace") for form in forms_of([value])])
            for name, value in secrets.items()
        ]
        self._overlap = max((len(form) for _, forms in self._forms for form in forms), default=1) - 1
        self._ends_at = time.monotonic() + WITHIN_S
        self._lock = threading.Lock()
        self._leaks: Dict[str, Leak] = {}
        self._is_done = False
        reader = threading.Thread(target=self._search, daemon=True, name="secret-search")
        reader.start()
        reader.join(WITHIN_S + 1.0)

    @property
    def is_cut_short(self) -> bool:
        """A bound was met: there is more than was read."""
        return not self._is_done

    def found(self) -> List[Leak]:
        """The files, in the order in which they were read."""
        with self._lock:
            return list(self._leaks.values())

    def _search(self) -> None:
        own = self._read_all(self._own_files(), None, is_text=lambda head: True)
        others = self._read_all(
            _files(self._workspace.root, self._may_hold_text),
            SMALL_BYTES,
            is_text=lambda head: b"\0" not in head,
        )
        self._is_done = own and others

    def _own_files(self) -> Iterator[str]:
        yield self._workspace.errors
        not_ours = (os.path.join(self._workspace.tool, name) for name in ("agent", "cache"))
        skipped = frozenset(not_ours)
        yield from _files(self._workspace.tool, lambda folder: folder not in skipped)

    def _may_hold_text(self, folder: str) -> bool:
        name, above = os.path.basename(folder), os.path.dirname(folder)
        return not (
            folder == self._workspace.tool
            or name in _NO_TEXT
            or (name == "objects" and os.path.basename(above) == ".git")
            or os.path.exists(os.path.join(folder, "pyvenv.cfg"))
            or os.path.isdir(os.path.join(folder, "conda-meta"))
        )

    def _read_all(
        self, paths: Iterator[str], largest_bytes: Optional[int], *, is_text: Callable[[bytes], bool]
    ) -> bool:
        """Search the files at *paths*; False when a bound was met before all were read."""
        left_bytes = MAX_BYTES
        for path in paths:
            if time.monotonic() > self._ends_at:
                return False
            if path in self._passed_over:
                continue
            self._passed_over.add(path)
            try:
                left_bytes -= self._read(path, left_bytes, largest_bytes, is_text)
            except OSError:
                continue  # gone meanwhile, or not ours to read
            if left_bytes <= 0:
                return False
        return True

    def _read(
        self, path: str, left_bytes: int, largest_bytes: Optional[int], is_text: Callable[[bytes], bool]
    ) -> int:
        """Search one file; the number of bytes that were read. Raises OSError."""
        before = os.lstat(path)
        if (
            not stat.S_ISREG(before.st_mode)
            or (largest_bytes is not None and before.st_size > largest_bytes)
            or max(before.st_mtime, before.st_ctime) < self._since
        ):
            return 0
        read_bytes, last = 0, b""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            while read_bytes < left_bytes and time.monotonic() <= self._ends_at:
                block = file.read(_BLOCK_BYTES)
                if not block or (read_bytes == 0 and not is_text(block[:_HEAD_BYTES])):
                    break
                read_bytes += len(block)
                text = last + block
                self._look_into(path, text)
                last = text[max(0, len(text) - self._overlap) :]
        return read_bytes

    def _look_into(self, path: str, text: bytes) -> None:
        names = tuple(name for name, forms in self._forms if any(form in text for form in forms))
        if not names:
            return
        short = os.path.relpath(path, self._workspace.root)
        with self._lock:
            before = self._leaks[short].names if short in self._leaks else ()
            self._leaks[short] = Leak(short, tuple(dict.fromkeys((*before, *names))))


def _began(plan: str) -> float:
    """When the run began, by the clock of the file system, which may not be this machine's."""
    try:
        return os.stat(plan).st_mtime - CLOCK_SLACK_S
    except OSError:
        return 0.0


def _files(root: str, enters: Callable[[str], bool]) -> Iterator[str]:
    """Every file below *root*, the highest first; no link is followed, and no folder that is not entered."""
    folders: Deque[str] = deque([root])
    while folders:
        try:
            with os.scandir(folders.popleft()) as entries:
                found = list(entries)
        except OSError:
            continue
        for entry in found:
            try:
                if not entry.is_dir(follow_symlinks=False):
                    yield entry.path
                elif enters(entry.path):
                    folders.append(entry.path)
            except OSError:
                continue
