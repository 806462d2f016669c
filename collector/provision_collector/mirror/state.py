"""What a mirror's length cannot say: where its last generation begins, and how to know both files again.

Written by atomic rename *before* the first byte of a new generation, so that whatever moment this process is
killed at, length and position together still say which remote byte comes next. A power cut may take what was not
saved durably: the state then is an older one, and the mirror has to prove itself to the other side.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from provision_agent.contract import version
from provision_agent.contract.parsing import ParseError, bounded, parse, read_object

from ..errors import LocalMachineError
from ..storage import write_atomically

MAX_GAPS = 1000
MAX_STATE_BYTES = 4 << 20
MAX_FILE_NUMBER = (1 << 64) - 1
"""Of a device or an inode."""


@dataclass(frozen=True)
class Position:
    """One mirror. Its byte *base* is byte 0 of the remote *generation*, a file with *device* and *inode*.

    `length` and `crc32` seal what was in the mirror when it was last looked at: a mirror that does not begin with
    that was edited. `fresh_from`: bytes from there on were written after the log was first seen. `remote`: the path.
    """

    generation: int = 0
    base: int = 0
    device: int | None = bounded(None, low=0, high=MAX_FILE_NUMBER)
    inode: int | None = bounded(None, low=0, high=MAX_FILE_NUMBER)
    since: float = 0.0
    length: int = 0
    crc32: int = 0
    fresh_from: int | None = None
    remote: str | None = None


@dataclass(frozen=True)
class Gap:
    """So many bytes of a log could not be had; None: nobody knows how many."""

    file: str
    bytes: int | None = None


@dataclass(frozen=True)
class _Record:
    """What the sidecar holds."""

    format: int
    files: dict[str, Position]
    gaps: list[Gap] = field(default_factory=list)


class MirrorState:
    """The sidecar of one or more mirrors, ``….state.json``. Any thread may change and save it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._positions: dict[str, Position] = {}
        self._changing = threading.Lock()
        """Held for a moment, for what is known."""
        self._saving = threading.Lock()
        """Held as long as the disk takes."""
        self._version = 0
        self._durable_version = -1
        self._gaps: list[Gap] = []
        self.load()

    @property
    def is_durable(self) -> bool:
        """What is known survives a power cut."""
        with self._changing:
            return self._durable_version == self._version

    @property
    def gaps(self) -> list[Gap]:
        """The bytes that could not be had, as they were found."""
        with self._changing:
            return list(self._gaps)

    def position(self, name: str) -> Position | None:
        """What is known of mirror *name*; None when it was never begun, or its record was unreadable."""
        with self._changing:
            return self._positions.get(name)

    def change(self, name: str, change: Callable[[Position], Position]) -> Position:
        """Let *change* make the position of mirror *name* from the one before, to be saved with the next `save`."""
        with self._changing:
            changed = self._positions[name] = change(self._positions.get(name) or Position())
            self._version += 1
            return changed

    def add_gap(self, gap: Gap) -> bool:
        """Record bytes that cannot be had any more; False in a flood of gaps, of which the first `MAX_GAPS` are kept."""
        with self._changing:
            if len(self._gaps) >= MAX_GAPS:
                return False
            self._gaps.append(gap)
            self._version += 1
        self.save(durably=False)
        return True

    def load(self) -> None:
        """Read what is on the disk now; to be called with the mirror's lock held. An unreadable file is set aside."""
        try:
            data = read_object(
                self._path.read_bytes(), max_bytes=MAX_STATE_BYTES, what="the state of a mirror"
            )
            record = parse(_Record, data)
            if record.format in version.SUPPORTED_FORMATS:
                with self._changing:
                    self._positions, self._gaps = dict(record.files), list(record.gaps)
        except FileNotFoundError:
            pass
        except ParseError:
            self._path.replace(self._path.with_name(self._path.name + ".unreadable"))

    def save(self, *, durably: bool) -> None:
        """Write what is known; the file is the old one or the new one whoever is killed, and *durably* after a power cut.

        Raises:
            LocalMachineError: this disk does not take it.
        """
        with self._saving:
            with self._changing:
                saved = self._version
                record = _Record(version.FORMAT, dict(self._positions), list(self._gaps))
            try:
                write_atomically(self._path, json.dumps(asdict(record)), durable=durably)
            except OSError as error:
                raise LocalMachineError(
                    f"cannot write `{self._path}`: {error.strerror}",
                    hint="make room, then the same command again: the mirror continues where it stopped",
                ) from None
            if durably:
                with self._changing:
                    self._durable_version = saved
