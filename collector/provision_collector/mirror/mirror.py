"""One local file that equals one remote file, byte for byte.

Bytes are appended in order and written when `append` returns. One process writes a mirror at a time (flock); the
next one goes on at its end, so nothing is lost and nothing comes twice, whatever killed the first. A mirror that
somebody else changed is refused.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from provision_agent.contract.frames import PROOF_BYTES, FollowedFile
from provision_agent.contract.parsing import bounded

from ..errors import LocalMachineError, UsageError
from ..storage import LockBusyError, in_thread, lock, open_private
from .state import MAX_FILE_NUMBER, MirrorState, Position

READ_BYTES = 1 << 20
SAMPLES, SAMPLE_BYTES = 16, 512
RESERVE_BYTES = 256 << 20
"""Of this disk's free space is left to others: no instance can fill it."""
SHARE_IN_RESERVE = 20
"""Of a small disk no more than the twentieth part is kept back."""
LOOK_FOR_ROOM_EVERY_BYTES = 8 << 20
_NOTHING = Position()


class MirrorBusyError(UsageError):
    """Another process on this machine writes the mirror."""


class MirrorFullError(LocalMachineError):
    """The mirror may not grow: it has the size that the caller allowed, or this disk is nearly full."""

    def __init__(self, message: str, mirror: Mirror) -> None:
        super().__init__(
            message,
            hint="make room, or allow more (`collect --max-mirror-size`); the same command goes on from here",
        )
        self.mirror = mirror


@dataclass(frozen=True)
class FileFacts:
    """What tells one remote file from another: `dev` and `ino`; None: not known. `at`: since when, by its own clock."""

    dev: int | None = bounded(None, low=0, high=MAX_FILE_NUMBER)
    ino: int | None = bounded(None, low=0, high=MAX_FILE_NUMBER)
    at: float | None = bounded(None, low=0, high=1e11)


class Mirror:
    """A mirror that this process writes. One task or thread feeds it; `seal` may run beside that.

    Args:
        path: The local file. state: Its sidecar. name: Its name in there.
        max_bytes: The mirror may not become longer; None lets it.
        reserve_bytes: So much of this disk stays free, as far as this mirror is concerned.

    Raises:
        MirrorBusyError: another process writes it. UsageError: it was edited. LocalMachineError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        state: MirrorState,
        name: str,
        *,
        max_bytes: int | None = None,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self.path = path
        self.name = name
        self.remote_bytes: int | None = None
        """The remote file's size when it was last heard of."""
        self._state = state
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._room_until = 0
        """Length up to which there was room when it was last looked for."""
        self.is_full = False
        """It takes no more: it is as long as it may be, or this disk is nearly full."""
        self._descriptor = self._locked()
        try:
            self._state.load()
            self.length = os.fstat(self._descriptor).st_size
            self._is_known = self.length == 0 or state.position(name) is not None
            self._check(self._position)
            self.is_full = self._room() <= 0
        except BaseException:
            self.close()
            raise

    @property
    def _position(self) -> Position:
        return self._state.position(self.name) or _NOTHING

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

    @property
    def sealed_bytes(self) -> int:
        """So much of it is known to be as it was written; what follows may have been added by anyone."""
        return self._position.length

    @property
    def must_match(self) -> bool:
        """Nobody knows which remote file it mirrors: it has to be a beginning of the one that is there."""
        return not self._is_known

    @property
    def identity(self) -> tuple[int | None, int | None]:
        """Device and inode of the remote file that this generation is."""
        return self._position.device, self._position.inode

    def claim(self, path: str, *, has_history: bool = False) -> FollowedFile:
        """What is here, for the other side to go on with: up to where, of which file, and the proof of it. May block.

        Args:
            path: The remote log. has_history: Rotated files that are older than the first sight of it belong to it.
        """
        position = self._position
        return FollowedFile(
            path=path,
            history=has_history,
            offset=self.offset,
            generation=position.generation,
            proof=self._sha256(max(self.offset - PROOF_BYTES, 0), min(self.offset, PROOF_BYTES)),
            dev=position.device,
            ino=position.inode,
            since=position.since,
            samples=tuple(self._samples()),
            known_bytes=self.remote_bytes,
            must_match=self.must_match,
        )

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
        room = min(max(self._room(), 0), len(new))
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
            self.is_full = True
            is_long = self._max_bytes is not None and self.length >= self._max_bytes
            why = (
                f"has reached {self._max_bytes} bytes" if is_long else "stops here: this disk is nearly full"
            )
            raise MirrorFullError(f"the mirror `{self.path}` {why}", self)
        return len(new)

    def _room(self) -> int:
        """How many bytes it may still take; of the disk only now and then, and not to the byte."""
        room = (self._max_bytes or sys.maxsize) - self.length
        if self.length >= self._room_until:
            disk = os.fstatvfs(self._descriptor)
            reserve_bytes = min(self._reserve_bytes, disk.f_blocks * disk.f_frsize // SHARE_IN_RESERVE)
            if disk.f_bavail * disk.f_frsize < reserve_bytes:
                return 0
            self._room_until = self.length + LOOK_FOR_ROOM_EVERY_BYTES
        return room

    def begin_generation(self, generation: int, facts: FileFacts | None = None) -> None:
        """The remote file began anew: what comes next is its byte 0. Waits for the disk.

        Args:
            generation: Its number, as the sender counts the files that the name has stood for.
            facts: What is known of the new file; None: nothing.
        """
        self._flush()
        self._note(
            generation=generation,
            base=self.length,
            **_identity(facts or FileFacts()),
            length=self.length,
            crc32=self._crc32,
        )
        self._state.save(durably=True)  # before its first byte: no power cut may join two generations
        self.remote_bytes = None

    def is_news(self, facts: FileFacts) -> bool:
        """Whether `identify` would learn anything from *facts*."""
        return not self._is_known or (self.offset == 0 and self.identity != (facts.dev, facts.ino))

    def identify(self, facts: FileFacts) -> None:
        """The other side has the file open that this generation is, or was born as. May block."""
        if self.is_news(facts):
            self._is_known = True
            self._record(**_identity(facts))

    def first_seen(self, unread_bytes: int) -> None:
        """The log was seen for the first time, with *unread_bytes* in it that are still to come. May block."""
        if self._position.fresh_from is None:
            self._record(fresh_from=self.length + unread_bytes)

    def belongs_to(self, remote: str) -> None:
        """Bind the mirror to one remote path. May block.

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
        """Bytes of the mirror.

        Args:
            start: The first one, from 0.
            size: At most so many bytes; fewer at the end.
        """
        return os.pread(self._descriptor, min(size, max(self.length - start, 0)), start)

    async def seal(self) -> None:
        """Make what was written survive a power cut, and know it again: whoever changes it from now on is found out.

        Off the event loop, where a slow disk would hold up every other mirror; bytes may arrive meanwhile.
        """
        await seal_together([self])

    @property
    def _is_sealed(self) -> bool:
        return not self._is_known or (self._position.length == self.length and self._state.is_durable)

    def _seal(self, length: int, crc32: int) -> None:
        self._flush()

        def sealed(known: Position) -> Position:
            return replace(known, length=length, crc32=crc32) if length > known.length else known

        self._state.change(self.name, sealed)

    def close(self) -> None:
        """Give the mirror to whoever wants it next. Safe to repeat."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _locked(self) -> int:
        try:
            descriptor = open_private(self.path, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            raise LocalMachineError(
                f"cannot write `{self.path}`: {error.strerror}", hint="choose another folder for it"
            ) from None
        try:
            lock(descriptor, self.path, wait_s=0)
        except LockBusyError:
            os.close(descriptor)
            raise MirrorBusyError(
                f"another process writes `{self.path}`",
                hint="let it, or stop it; two cannot write one mirror",
            ) from None
        return descriptor

    def _check(self, known: Position) -> None:
        """Refuse a mirror that does not begin with what was sealed."""
        self._crc32 = 0
        if self.length < max(known.length, known.base):
            raise self._edited()
        for start in range(0, known.length, READ_BYTES):
            self._crc32 = zlib.crc32(self.read(start, min(READ_BYTES, known.length - start)), self._crc32)
        if self._crc32 != known.crc32:
            raise self._edited()
        for start in range(known.length, self.length, READ_BYTES):
            self._crc32 = zlib.crc32(self.read(start), self._crc32)

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

    def _note(self, **changes: int | float | str | None) -> None:
        self._state.change(self.name, lambda known: replace(known, **changes))  # type: ignore[arg-type]

    def _record(self, **changes: int | float | str | None) -> None:
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


async def seal_together(mirrors: Sequence[Mirror]) -> None:
    """As `Mirror.seal` for each of *mirrors*; what they share of their states is written once."""
    due = [(mirror, mirror.length, mirror._crc32) for mirror in mirrors if not mirror._is_sealed]
    if due:
        await in_thread(_seal_all, due)


def _seal_all(due: Sequence[tuple[Mirror, int, int]]) -> None:
    for mirror, length, crc32 in due:
        mirror._seal(length, crc32)
    for state in {id(mirror._state): mirror._state for mirror, _, _ in due}.values():
        state.save(durably=True)


def _identity(facts: FileFacts) -> dict[str, int | float | None]:
    return {"device": facts.dev, "inode": facts.ino, "since": facts.at or 0.0}
