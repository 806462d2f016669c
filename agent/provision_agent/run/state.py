"""What is done, per item, in `.provision/state.json`.

Written by atomic rename after every change; a file that cannot be read is set aside and rebuilt from the disk.
A record is a hint that makes verifying cheap, never a proof: every run checks it against the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from typing import Callable, Dict, List, Optional

from ..contract import version
from ..host.beneath import Folder

Record = Dict[str, object]
"""What is remembered of one item, as JSON values: read from the disk, so looked at before it is believed."""


class StateFile:
    """The records of one workspace. Thread-safe; one process writes it, the one that holds the workspace's lock."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.set_aside: Optional[str] = None
        """Where an unreadable file went, to be reported; None when all was well."""
        self._records: Dict[str, Record] = self._load()

    is_lasting = True
    """What is remembered outlives the run: then what it is about has to, too."""

    def get(self, kind: str, item: str) -> Optional[Record]:
        """The record of *item* (``download``, ``repo``, …), a copy; None when there is none."""
        with self._lock:
            record = self._records.get(f"{kind}:{item}")
            return None if record is None else dict(record)

    def find(self, kind: str, fits: Callable[[Record], bool]) -> Optional[Record]:
        """The first record of *kind* that *fits*, a copy; None when there is none."""
        with self._lock:
            records = [record for name, record in self._records.items() if name.startswith(f"{kind}:")]
        return next((dict(record) for record in records if fits(record)), None)

    def all(self, kind: str) -> List[Record]:
        """Every record of *kind*, copies."""
        with self._lock:
            return [dict(record) for name, record in self._records.items() if name.startswith(f"{kind}:")]

    def beside(self, kind: str, item: str) -> str:
        """Where what is too long for a record of *item* is kept: a file beside the state, which may not be there."""
        digest = hashlib.sha256(item.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return os.path.join(os.path.dirname(self._path), kind, f"{digest}.jsonl")

    def all_beside(self, kind: str) -> List[str]:
        """Every file of *kind* that is kept beside the state."""
        folder = os.path.join(os.path.dirname(self._path), kind)
        names = sorted(os.listdir(folder)) if self._path and os.path.isdir(folder) else []
        return [os.path.join(folder, name) for name in names if name.endswith(".jsonl")]

    def put(self, kind: str, item: str, record: Record, *, sync: bool = True) -> None:
        """Remember *record* for *item*; on the disk when this returns.

        Args:
            sync: It outlives a power cut. To have that waits for all that was written just before, by whomever.
        """
        with self._lock:
            if self._records.get(f"{kind}:{item}") == record:
                return
            self._records[f"{kind}:{item}"] = dict(record)
            self._save(sync=sync)

    def forget(self, kind: str, item: str) -> None:
        """Drop the record of *item*, if there is one."""
        with self._lock:
            if self._records.pop(f"{kind}:{item}", None) is not None:
                self._save()

    def _load(self) -> Dict[str, Record]:
        try:
            with open(self._path, encoding="utf-8") as file:
                data = json.load(file)
            if data["format"] not in version.SUPPORTED_FORMATS:
                raise ValueError("another format")
            return {str(key): dict(value) for key, value in data["items"].items()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError):
            self.set_aside = f"{self._path}.unreadable"
            os.replace(self._path, self.set_aside)
            return {}

    def _save(self, *, sync: bool = True) -> None:
        data = json.dumps({"format": version.FORMAT, "items": self._records}, indent=1).encode()
        write_atomically(self._path, data, sync=sync)


def write_atomically(path: str, data: bytes, *, mode: int = 0o600, sync: bool = True) -> None:
    """Replace *path* by *data* as one step: a reader sees the old or the new content, never a part.

    Args:
        mode: The file's permissions.
        sync: Have it on the disk on return, so that it outlives a power cut.

    Raises:
        OSError: it cannot be written; the old content stays.
    """
    folder, name = os.path.split(os.path.abspath(path))
    with Folder(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), folder) as opened:
        write_in(opened, name, data, mode=mode, sync=sync)


def write_in(folder: Folder, name: str, data: bytes, *, mode: int = 0o600, sync: bool = True) -> None:
    """As `write_atomically`, for the file *name* in a folder that is held open."""
    temporary = f"{name}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        folder.unlink(temporary)  # of a process of this number that was killed
    except OSError:
        pass
    descriptor = folder.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        folder.replace(temporary, name)
    except BaseException:
        try:
            folder.unlink(temporary)
        except OSError:
            pass
        raise
