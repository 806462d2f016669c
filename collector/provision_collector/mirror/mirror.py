"""One local file that equals one remote file, byte for byte.

Bytes are appended in order and written when `append` returns. One process writes a mirror at a time (flock); the
next one goes on at its end, so nothing is lost and nothing comes twice, whatever killed the first. A mirror that
somebody else changed is refused.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from provision_agent.contract.frames import PROOF_BYTES

from ..errors import LocalMachineError, UsageError
from .state import MirrorState, Position

READ_BYTES = 1 << 20
SAMPLES, SAMPLE_BYTES = 16, 512


class MirrorBusyError(UsageError):
    """Another process on this machine writes the mirror."""


class MirrorFullError(LocalMachineError):
    """The mirror has reached the size that the caller allowed."""


class Mirror:
    """A mirror that this process writes.

    Args:
        path: The local file. state: Its sidecar. name: Its name in there.
        max_bytes: The mirror may not become longer; None lets it.

    Raises:
        MirrorBusyError: another process writes it. UsageError: it was edited. LocalMachineError: it cannot be written.
    """

    def __init__(self, path: Path, state: MirrorState, name: str, *, max_bytes: int | None = None) -> None:
        self.path = path
        self.name = name
        self.remote_bytes: int | None = None
        """The remote file's size when it was last heard of."""
        self._state = state
        self._max_bytes = max_bytes
        self._descriptor = self._locked()
        try:
            self._state.load()
            self.length = os.fstat(self._descriptor).st_size
            self._is_known = self.length == 0 or state.position(name) is not None
            self._position = self._checked(state.position(name))
        except BaseException:
            self.close()
            raise

    @property
    def generation(self) -> int:
        """Which incarnation of the remote file is being mirrored."""
        return self._position.generation

    @property
    def offset(self) -> int:
        """The remote offset of the next byte that is wanted, in the current generation."""
        return self.length - self._position.base

    @property
    def base(self) -> int:
        """Where in the mirror the current generation begins."""
        return self._position.base

    @property
    def fresh_from(self) -> int | None:
        """Where in the mirror that begins which was written after the log was first seen; None before that."""
        return self._position.fresh_from

    def claim(self) -> dict[str, Any]:
        """What is here, for the other side to go on with: up to where, of which file, and the proof of it."""
        position = self._position
        return {
            "offset": self.offset,
            "generation": position.generation,
            "proof": self._sha256(max(self.offset - PROOF_BYTES, 0), min(self.offset, PROOF_BYTES)),
            "dev": position.device,
            "ino": position.inode,
            "since": position.since,
            "samples": self._samples(),
            "known_bytes": self.remote_bytes,
            "must_match": not self._is_known,
        }

    def append(self, generation: int, offset: int, data: bytes) -> int:
        """Write *data*, which stands at *offset* of the remote *generation*; returns how much of it was new.

        Raises:
            ValueError: bytes between the mirror's end and *offset* are missing, or it is another generation.
            UsageError: somebody changed the mirror meanwhile.
            LocalMachineError: the disk is full or gone, or the mirror is as long as it may be; what was written is right.
        """
        overlap = self.offset - offset
        if generation != self.generation or overlap < 0:
            raise ValueError(
                f"{self.name}: byte {offset} of generation {generation} does not follow {self.offset}"
            )
        new = memoryview(data)[overlap:]
        room = len(new) if self._max_bytes is None else max(self._max_bytes - self.length, 0)
        found = os.fstat(self._descriptor)
        if found.st_nlink == 0:
            raise LocalMachineError(
                f"the mirror `{self.path}` was deleted while it was written",
                hint="the run goes on: `provision attach` fetches it anew",
            )
        if found.st_size != self.length:
            raise self._edited()
        self._write(new[:room])
        if room < len(new):
            raise MirrorFullError(
                f"the mirror `{self.path}` has reached {self._max_bytes} bytes",
                hint="the same command with a larger `--max-mirror-size` goes on where it stopped",
            )
        return len(new)

    def begin_generation(self, generation: int, facts: Mapping[str, Any] | None = None) -> None:
        """The remote file began anew: what comes next is byte 0 of the file with *facts* (``dev ino at``)."""
        self._flush()
        self._note(
            generation=generation,
            base=self.length,
            **_identity(facts or {}),
            length=self.length,
            crc32=self._crc32,
        )
        self._state.save(durably=True)  # before its first byte: no power cut may join two generations
        self.remote_bytes = None

    def identify(self, facts: Mapping[str, Any]) -> None:
        """The other side has the file open that this generation is, or was born as."""
        known = (self._position.device, self._position.inode)
        if not self._is_known or (self.offset == 0 and known != (facts.get("dev"), facts.get("ino"))):
            self._is_known = True
            self._record(**_identity(facts))

    def first_seen(self, unread_bytes: int) -> None:
        """The log was seen for the first time, with *unread_bytes* in it that are still to come."""
        if self._position.fresh_from is None:
            self._record(fresh_from=self.length + unread_bytes)

    def belongs_to(self, remote: str) -> None:
        """Bind the mirror to one remote path.

        Raises:
            UsageError: it is the mirror of another one.
        """
        if self._position.remote not in (None, remote):
            raise UsageError(
                f"`{self.path}` is the mirror of `{self._position.remote}`, not of `{remote}`",
                hint="give another `--output`",
            )
        if self._position.remote is None and self._is_known:
            self._record(remote=remote)

    def read(self, start: int, size: int = READ_BYTES) -> bytes:
        """At most *size* bytes of the mirror from *start*."""
        return os.pread(self._descriptor, min(size, max(self.length - start, 0)), start)

    async def seal(self) -> None:
        """Make what was written survive a power cut, and know it again: whoever changes it from now on is found out.

        Off the event loop, where a slow disk would hold up every other mirror; bytes may arrive meanwhile.
        """
        length, crc32 = self.length, self._crc32
        if not self._is_known or (self._position.length == length and self._state.is_durable):
            return
        await asyncio.to_thread(self._flush)
        self._note(length=length, crc32=crc32)
        await asyncio.to_thread(self._state.save, durably=True)

    def close(self) -> None:
        """Give the mirror to whoever wants it next. Safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _locked(self) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalMachineError(
                f"cannot write `{self.path}`: {error.strerror}", hint="choose another folder for it"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise MirrorBusyError(
                f"another process writes `{self.path}`",
                hint="let it, or stop it; two cannot write one mirror",
            ) from None
        return descriptor

    def _checked(self, position: Position | None) -> Position:
        """*position*, if the mirror still begins with what was sealed."""
        self._crc32 = 0
        known = position or Position()
        if self.length < max(known.length, known.base):
            raise self._edited()
        for start in range(0, known.length, READ_BYTES):
            self._crc32 = zlib.crc32(self.read(start, min(READ_BYTES, known.length - start)), self._crc32)
        if self._crc32 != known.crc32:
            raise self._edited()
        for start in range(known.length, self.length, READ_BYTES):
            self._crc32 = zlib.crc32(self.read(start), self._crc32)
        return known

    def _write(self, new: memoryview) -> None:
        while new:
            try:
                written = os.write(self._descriptor, new)
            except OSError as error:
                raise self._disk_error(error) from None
            self._crc32 = zlib.crc32(new[:written], self._crc32)
            self.length += written
            new = new[written:]

    def _flush(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._disk_error(error) from None

    def _note(self, **changes: Any) -> None:
        self._position = replace(self._position, **changes)
        self._state.note(self.name, self._position)

    def _record(self, **changes: Any) -> None:
        """Keep *changes*, without waiting for the disk: what a power cut takes of them is found out anew."""
        self._note(**changes)
        self._state.save(durably=False)

    def _samples(self) -> list[tuple[int, int, str]]:
        """Parts all over this generation: a mirror that was edited still has most of them, another file none."""
        size = min(SAMPLE_BYTES, -(-self.offset // SAMPLES))
        starts = [self.offset * number // SAMPLES for number in range(SAMPLES)] if self.offset else []
        return [(start, size, self._sha256(start, size)) for start in starts]

    def _sha256(self, offset: int, size: int) -> str:
        return hashlib.sha256(self.read(self.base + offset, size)).hexdigest()

    def _edited(self) -> UsageError:
        return UsageError(
            f"the mirror `{self.path}` was edited or cut by hand, so it cannot be continued exactly",
            hint="move it away (with its `.state.json`) and run the same command again: it is fetched anew",
        )

    def _disk_error(self, error: OSError) -> LocalMachineError:
        why = "this disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror)
        return LocalMachineError(
            f"cannot write `{self.path}`: {why}",
            hint="make room, then the same command (of a run: `provision attach`) goes on where the mirror stopped",
        )


def whole_number(value: object) -> int | None:
    """A number that the other side sent; None if it sent none. Raises ValueError for what no file has."""
    if value is None or (isinstance(value, int) and 0 <= value < 1 << 64):
        return value
    raise ValueError("a number that no file has")


def _identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "device": whole_number(facts.get("dev")),
        "inode": whole_number(facts.get("ino")),
        "since": float(facts.get("at") or 0.0),
    }
