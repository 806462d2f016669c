"""What the agent keeps of files that were sent: which ones it has verified, and how far the uploads of a run are."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Tuple

from ..contract.cases import MAX_PARTICULARS
from ..contract.failures import FAILURES
from ..contract.parsing import NotJsonError, ParseError, bounded, parse, read_object, to_json
from ..host.folders import make_private
from ..run.state import write_atomically
from ..run.workspace import Workspace

MAX_LINE_BYTES = 64 << 10
LISTED, PROGRESS, DONE, FAILED, LEFT = "listed", "progress", "done", "failed", "left"


class Verified(NamedTuple):
    """A file as it was when its hash was compared: size and time are the sender's."""

    size_bytes: int
    mtime_ns: int
    sha256: str


class Arrived:
    """The verified files of one item: one line each, appended. A hint: whoever reads it compares it with the disk."""

    def __init__(self, workspace: str, key: str) -> None:
        folder = os.path.join(Workspace(workspace).tool, "uploads")
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self._path = os.path.join(folder, f"{digest}.jsonl")
        self._files: Dict[str, Verified] = {}
        lines = self._load()
        if lines > 1000 + 2 * len(self._files):
            text = "".join(_line(path, file) for path, file in self._files.items())
            write_atomically(self._path, text.encode())

    def get(self, path: str) -> Optional[Verified]:
        """What was verified of the file at *path* in the item; None: nothing."""
        return self._files.get(path)

    def paths(self) -> List[str]:
        """Of all its files that were verified once."""
        return list(self._files)

    def put(self, path: str, file: Verified) -> None:
        """Remember *file*. Raises OSError."""
        if self._files.get(path) != file:
            make_private(os.path.dirname(self._path))
            self._files[path] = file
            _append(self._path, _line(path, file).encode())

    def _load(self) -> int:
        count = 0
        try:
            with open(self._path, "rb") as stored:
                for raw in stored:
                    count += 1
                    try:
                        path, size, mtime_ns, sha256 = json.loads(raw)
                        self._files[str(path)] = Verified(int(size), int(mtime_ns), str(sha256))
                    except (ValueError, TypeError):
                        continue  # torn by a kill
        except FileNotFoundError:
            pass
        return count


def _line(path: str, file: Verified) -> str:
    return json.dumps([path, *file]) + "\n"


@dataclass(frozen=True)
class UploadTold:
    """One line of `UploadLog`: what was learnt of one item. `LEFT` is about none: nobody sends any more."""

    what: str = bounded(one_of=(LISTED, PROGRESS, DONE, FAILED, LEFT))
    item: str = bounded("", max_chars=8192)
    """As `file_messages.FileTold` has it."""
    files: int = bounded(0, low=0)
    bytes: int = bounded(0, low=0)
    total_bytes: int = bounded(0, low=0)
    sent_bytes: int = bounded(0, low=0)
    bytes_per_s: float = bounded(0.0, low=0)
    class_: str = bounded("bug", alias="class", one_of=tuple(FAILURES))
    message: str = bounded("", max_chars=8192)
    case: Optional[str] = bounded(None, max_chars=64)
    about: Dict[str, str] = bounded(factory=dict, max_entries=MAX_PARTICULARS)


class UploadLog:
    """How far the uploads of a run are: whoever receives them appends, the run reads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0

    @classmethod
    def of(cls, workspace: Workspace, run: str) -> UploadLog:
        """That of *run*."""
        return cls(workspace.run_file(run, "uploads.jsonl"))

    @property
    def path(self) -> str:
        """Its file."""
        return self._path

    def tell(self, told: UploadTold) -> None:
        """Append *told*. Raises OSError."""
        values = to_json(told)
        if told.what != FAILED:
            for name in ("class", "message", "case", "about"):
                del values[name]
        _append(self._path, json.dumps(values).encode() + b"\n")

    def touch(self) -> None:
        """Somebody is there, even if nothing comes. Raises OSError."""
        os.utime(self._path)

    def heard(self) -> Optional[int]:
        """A number that changes whenever somebody is there; None: nobody ever was."""
        try:
            return os.stat(self._path).st_mtime_ns
        except OSError:
            return None

    def read(self) -> List[UploadTold]:
        """What is new since the last time."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        whole = data.rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole or data.startswith(b"\n") else 0
        return [told for told in map(_told, whole.split(b"\n")) if told is not None]


def _told(line: bytes) -> Optional[UploadTold]:
    try:
        return parse(UploadTold, read_object(line, max_bytes=MAX_LINE_BYTES, what="a line"), "uploads")
    except (NotJsonError, ParseError):
        return None


class WantedItems:
    """Which uploads a run wants on this instance: it says so once it knows what the instance is."""

    def __init__(self, workspace: Workspace, run: str) -> None:
        self._path = workspace.run_file(run, "uploads.wanted.json")

    def say(self, positions: "Tuple[str, ...]") -> None:
        """Want those at these *positions* in the plan and no other. Raises OSError."""
        write_atomically(self._path, json.dumps({"wanted": list(positions)}).encode())

    def known(self) -> "Optional[Tuple[str, ...]]":
        """Their positions; None as long as the run has not said."""
        try:
            with open(self._path, "rb") as file:
                found = read_object(file.read(), max_bytes=64 << 20).get("wanted")
        except (OSError, ParseError):
            return None
        return tuple(str(each) for each in found) if isinstance(found, list) else None


def _append(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
