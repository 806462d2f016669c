"""What a mirror's length cannot say: where its last generation begins, and how to know both files again.

Written by atomic rename *before* the first byte of a new generation, so that whatever moment this process is
killed at, length and position together still say which remote byte comes next. A power cut may take what was not
saved durably: the state then is an older one, and the mirror has to prove itself to the other side.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from provision_agent.contract import version

from ..errors import LocalMachineError

MAX_GAPS = 1000


@dataclass(frozen=True)
class Position:
    """One mirror. Its byte *base* is byte 0 of the remote *generation*, a file with *device* and *inode*.

    `length` and `crc32` seal what was in the mirror when it was last looked at: a mirror that does not begin with
    that was edited. `fresh_from`: bytes from there on were written after the log was first seen. `remote`: the path.
    """

    generation: int = 0
    base: int = 0
    device: int | None = None
    inode: int | None = None
    since: float = 0.0
    length: int = 0
    crc32: int = 0
    fresh_from: int | None = None
    remote: str | None = None


class MirrorState:
    """The sidecar of one or more mirrors, ``….state.json``. Any thread may save it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._positions: dict[str, Position] = {}
        self._saving = threading.Lock()
        self._version = 0
        self._durable_version = -1
        self.gaps: list[dict[str, Any]] = []
        self.load()

    @property
    def is_durable(self) -> bool:
        """What is known survives a power cut."""
        return self._durable_version == self._version

    def position(self, name: str) -> Position | None:
        """What is known of mirror *name*; None when it was never begun, or its record was unreadable."""
        return self._positions.get(name)

    def note(self, name: str, position: Position) -> None:
        """Take *position*, to be saved with the next `save`."""
        self._positions[name] = position
        self._version += 1

    def add_gap(self, gap: dict[str, Any]) -> bool:
        """Record bytes that cannot be had any more; False in a flood of gaps, of which the first `MAX_GAPS` are kept."""
        if len(self.gaps) >= MAX_GAPS:
            return False
        self.gaps.append(gap)
        self._version += 1
        self.save(durably=False)
        return True

    def load(self) -> None:
        """Read what is on the disk now; to be called with the mirror's lock held. An unreadable file is set aside."""
        try:
            data = json.loads(self._path.read_text())
            if data["format"] in version.SUPPORTED_FORMATS:
                self._positions = {str(name): _position(entry) for name, entry in data["files"].items()}
                self.gaps = list(data.get("gaps", []))
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            self._path.replace(self._path.with_name(self._path.name + ".unreadable"))

    def save(self, *, durably: bool) -> None:
        """Write what is known; the file is the old one or the new one whoever is killed, and *durably* after a power cut.

        Raises:
            LocalMachineError: this disk does not take it.
        """
        with self._saving:
            saved = self._version
            data = {
                "format": version.FORMAT,
                "files": {name: asdict(position) for name, position in dict(self._positions).items()},
                "gaps": list(self.gaps),
            }
            try:
                self._replace(json.dumps(data), durably=durably)
            except OSError as error:
                raise LocalMachineError(
                    f"cannot write `{self._path}`: {error.strerror}",
                    hint="make room, then the same command again: the mirror continues where it stopped",
                ) from None
            self._durable_version = saved if durably else self._durable_version

    def _replace(self, text: str, *, durably: bool) -> None:
        temporary = self._path.with_name(self._path.name + ".tmp")
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            if durably:
                os.fsync(file.fileno())
        temporary.replace(self._path)
        if durably:
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _position(entry: dict[str, Any]) -> Position:
    known = {field.name for field in fields(Position)}
    return Position(**{name: value for name, value in entry.items() if name in known})
