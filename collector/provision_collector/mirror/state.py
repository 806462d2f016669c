"""What a mirror's length cannot say: where its last generation begins, and how to know both files again.

Written by atomic rename *before* the first byte of a new generation, so that whatever moment this process is
killed at, length and position together still say which remote byte comes next.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from provision_agent import protocol

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
    """The sidecar of one or more mirrors, ``….state.json``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._positions: dict[str, Position] = {}
        self.gaps: list[dict[str, Any]] = []
        self.load()

    def position(self, name: str) -> Position | None:
        """What is known of mirror *name*; None when it was never begun, or its record was unreadable."""
        return self._positions.get(name)

    def record(self, name: str, position: Position) -> None:
        """Keep *position*; it is on the disk when this returns."""
        self._positions[name] = position
        self._save()

    def add_gap(self, gap: dict[str, Any]) -> None:
        """Record bytes that cannot be had any more; of a flood of gaps only the first `MAX_GAPS`."""
        if len(self.gaps) < MAX_GAPS:
            self.gaps.append(gap)
            self._save()

    def load(self) -> None:
        """Read what is on the disk now; to be called with the mirror's lock held. An unreadable file is set aside."""
        try:
            data = json.loads(self._path.read_text())
            if data["format"] in protocol.SUPPORTED_FORMATS:
                self._positions = {str(name): _position(entry) for name, entry in data["files"].items()}
                self.gaps = list(data.get("gaps", []))
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            self._path.replace(self._path.with_name(self._path.name + ".unreadable"))

    def _save(self) -> None:
        data = {
            "format": protocol.FORMAT,
            "files": {name: asdict(position) for name, position in self._positions.items()},
            "gaps": self.gaps,
        }
        temporary = self._path.with_name(self._path.name + ".tmp")
        try:
            with temporary.open("w") as file:
                json.dump(data, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            raise LocalMachineError(
                f"cannot write `{self._path}`: {error.strerror}",
                hint="make room, then the same command again: the mirror continues where it stopped",
            ) from None


def _position(entry: dict[str, Any]) -> Position:
    known = {field.name for field in fields(Position)}
    return Position(**{name: value for name, value in entry.items() if name in known})
