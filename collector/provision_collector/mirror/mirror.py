"""One local file that equals one remote file, byte for byte.

Bytes are appended in order and written when `append` returns. One process writes a mirror at a time (flock); the
next one goes on at its end, so nothing is lost and nothing comes twice, whatever killed the first.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from pathlib import Path

from provision_agent.protocol import PROOF_BYTES

from ..errors import LocalMachineError, UsageError
from .state import MirrorState


class MirrorBusyError(UsageError):
    """Another process on this machine writes the mirror."""


class Mirror:
    """A mirror that this process writes. Raises `MirrorBusyError` when another one does."""

    def __init__(self, path: Path, state: MirrorState, name: str) -> None:
        self.path = path
        self.name = name
        self._state = state
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalMachineError(
                f"cannot write `{path}`: {error.strerror}", hint="choose another `--logs-dir`"
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise MirrorBusyError(f"another process writes `{path}`") from None
        self.length = os.fstat(self._descriptor).st_size
        self.generation, self._base = state.generation(name)
        if self._base > self.length:
            raise self._edited()

    @property
    def offset(self) -> int:
        """The remote offset of the next byte that is wanted, in the current generation."""
        return self.length - self._base

    def proof(self) -> str:
        """sha256 of the last bytes of this generation, by which the other side knows that both mean one file."""
        start = max(self._base, self.length - PROOF_BYTES)
        return hashlib.sha256(os.pread(self._descriptor, self.length - start, start)).hexdigest()

    def append(self, generation: int, offset: int, data: bytes) -> int:
        """Write *data*, which stands at *offset* of the remote *generation*; returns how much of it was new.

        Raises:
            ValueError: bytes between the mirror's end and *offset* are missing, or it is another generation.
            LocalMachineError: the disk is full or gone; what was written stays right.
        """
        overlap = self.offset - offset
        if generation != self.generation or overlap < 0:
            raise ValueError(
                f"{self.name}: byte {offset} of generation {generation} does not follow {self.offset}"
            )
        new = memoryview(data)[overlap:]
        if os.fstat(self._descriptor).st_size != self.length:
            raise self._edited()
        while new:
            try:
                written = os.write(self._descriptor, new)
            except OSError as error:
                raise self._disk_error(error) from None
            self.length += written
            new = new[written:]
        return max(len(data) - overlap, 0)

    def begin_generation(self, generation: int) -> None:
        """The remote file began anew: what comes next is its byte 0."""
        os.fsync(self._descriptor)
        self._state.begin_generation(self.name, generation, self.length)
        self.generation, self._base = generation, self.length

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Give the mirror to whoever wants it next. Safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _edited(self) -> UsageError:
        return UsageError(
            f"the mirror `{self.path}` was edited or cut by hand, so it cannot be continued exactly",
            hint="move it away (with its `.state.json`) and run the same command again: it is fetched anew",
        )

    def _disk_error(self, error: OSError) -> LocalMachineError:
        why = "this disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror)
        return LocalMachineError(
            f"cannot write `{self.path}`: {why}",
            hint="make room, then `provision attach`: the run goes on and the mirror continues where it stopped",
        )
