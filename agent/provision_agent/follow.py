"""Send the new bytes of files as they are written, from any offset, as frames on stdout.

Each byte of a file is sent once per connection, in order; the receiver's own file says where to begin, so a
lost connection costs nothing. Runs alone with `protocol` on instances without an agent. It ends when stdin
ends or stays silent for `DEAD_MAN_S`: nothing of it is left on the instance after the other side is gone.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import select
import struct
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional

from . import protocol

DEAD_MAN_S = 15.0
POLL_S = 0.5
POLL_WITHOUT_INOTIFY_S = 0.025
CHUNK_BYTES = 256 * 1024


def follow_main(argv: List[str]) -> int:
    """``follow``: one JSON request line on stdin, then a byte for each heartbeat that arrived."""
    request = json.loads(_read_line(0))
    stream = _Stream(0, 1)
    stream.write(protocol.magic(request["nonce"]))
    status = _run_status(request["workspace"]) if request.get("workspace") else dict
    return Follower(request, stream, status).follow()


class Follower:
    """One session over one connection."""

    def __init__(
        self, request: Mapping[str, Any], stream: "_Stream", status: Callable[[], Dict[str, Any]]
    ) -> None:
        self._stream = stream
        self._status = status
        self._heartbeat_s = float(request.get("heartbeat_s", 2.0))
        self._files = [_Followed(number, entry) for number, entry in enumerate(request["files"])]
        self._watch = _Inotify([file.path for file in self._files])

    def follow(self) -> int:
        """Send until the other side is gone; the exit status."""
        for file in self._files:
            self._stream.write(protocol.pack(protocol.RESUMED, file.number, file.resume()))
        beat_at, last_status = 0.0, None
        while True:
            moved = [file.send(self._stream) for file in self._files]
            status = self._status()
            now = time.monotonic()
            if status != last_status:
                self._stream.write(protocol.pack(protocol.STATUS, 0, status))
                last_status = status
            if now >= beat_at:
                self._stream.write(
                    protocol.pack(protocol.BEAT, 0, {"sizes": [file.size() for file in self._files]})
                )
                beat_at = now + self._heartbeat_s
            wait_s = 0.0 if any(moved) else self._watch.poll_s
            if not self._stream.is_alive(wait_s, self._watch):
                return 0


class _Followed:
    """One file and how far it has been sent. A file that shrinks or is replaced begins a new generation."""

    def __init__(self, number: int, entry: Mapping[str, Any]) -> None:
        self.number = number
        self.path = str(entry["path"])
        self._offset = int(entry.get("offset", 0))
        self._generation = int(entry.get("generation", 0))
        self._proof = entry.get("proof")
        self._descriptor: Optional[int] = None
        self._identity = (0, 0)
        self._open()

    def resume(self) -> Dict[str, Any]:
        """Whether the file still holds the bytes that the receiver says it has."""
        size = self.size()
        is_ours = size >= self._offset and (
            self._proof is None or self._proof == self._hash_before(self._offset)
        )
        return {"resumed": is_ours, "size": size, "offset": self._offset}

    def size(self) -> int:
        """Bytes in the file now; 0 while it is not there."""
        return os.fstat(self._descriptor).st_size if self._descriptor is not None else 0

    def send(self, stream: "_Stream") -> bool:
        """Send at most one chunk; True when there was something."""
        if self._descriptor is None and not self._open():
            return False
        assert self._descriptor is not None
        chunk = os.pread(self._descriptor, CHUNK_BYTES, self._offset)
        if chunk:
            stream.write(protocol.data_head(self.number, self._generation, self._offset, len(chunk)) + chunk)
            self._offset += len(chunk)
            return True
        if self.size() < self._offset:
            self._begin_generation(stream, "truncated")
            return True
        if self._is_replaced():
            os.close(self._descriptor)
            self._descriptor = None
            self._open()
            self._begin_generation(stream, "replaced")
            return True
        return False

    def _begin_generation(self, stream: "_Stream", why: str) -> None:
        self._generation += 1
        self._offset = 0
        facts = {"generation": self._generation, "why": why}
        stream.write(protocol.pack(protocol.GENERATION, self.number, facts))

    def _open(self) -> bool:
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        stat = os.fstat(self._descriptor)
        self._identity = (stat.st_dev, stat.st_ino)
        return True

    def _is_replaced(self) -> bool:
        try:
            stat = os.stat(self.path)
        except OSError:
            return False
        return (stat.st_dev, stat.st_ino) != self._identity

    def _hash_before(self, offset: int) -> str:
        if self._descriptor is None:
            return hashlib.sha256(b"").hexdigest()
        start = max(0, offset - protocol.PROOF_BYTES)
        return hashlib.sha256(os.pread(self._descriptor, offset - start, start)).hexdigest()


class _Stream:
    """stdin and stdout of a session. A write that the other side does not take within `DEAD_MAN_S` ends it."""

    def __init__(self, input_fd: int, output_fd: int) -> None:
        self._input = input_fd
        self._output = output_fd
        self._heard = time.monotonic()
        os.set_blocking(output_fd, False)
        os.set_blocking(input_fd, False)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._output, view) :]
            except BlockingIOError:
                readable, writable, _ = select.select([self._input], [self._output], [], 1.0)
                if (readable and not self._listen()) or (not writable and self._is_silent()):
                    sys.exit(0)

    def is_alive(self, wait_s: float, watch: "_Inotify") -> bool:
        """Wait for a change, a ping or *wait_s*; False when the other side is gone."""
        descriptors = [self._input] + ([watch.descriptor] if watch.descriptor is not None else [])
        readable, _, _ = select.select(descriptors, [], [], wait_s)
        if watch.descriptor in readable:
            watch.drain()
        if self._input in readable and not self._listen():
            return False
        return not self._is_silent()

    def _listen(self) -> bool:
        try:
            heard = os.read(self._input, 4096)
        except BlockingIOError:
            return True
        self._heard = time.monotonic()
        return bool(heard)

    def _is_silent(self) -> bool:
        return time.monotonic() - self._heard > DEAD_MAN_S


class _Inotify:
    """Wakes the follower when a file or its folder changes; without inotify it polls often instead."""

    _MODIFY, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x80, 0x100, 0x200

    def __init__(self, paths: List[str]) -> None:
        self.descriptor: Optional[int] = None
        self.poll_s = POLL_WITHOUT_INOTIFY_S
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, AttributeError):
            return
        if descriptor < 0:
            return
        folders = {os.path.dirname(path) or "." for path in paths}
        mask = self._MODIFY | self._MOVED_TO | self._CREATE | self._DELETE
        if all(
            self._libc.inotify_add_watch(descriptor, os.fsencode(folder), mask) >= 0 for folder in folders
        ):
            self.descriptor, self.poll_s = descriptor, POLL_S
        else:
            os.close(descriptor)

    def drain(self) -> None:
        """Forget what has been seen: every file is looked at anyway."""
        assert self.descriptor is not None
        try:
            while len(os.read(self.descriptor, 65536)) >= 65536 - struct.calcsize("iIII"):
                pass
        except BlockingIOError:
            pass


def _run_status(workspace_root: str) -> Callable[[], Dict[str, Any]]:
    from .keeper import holder_facts
    from .workspace import Workspace

    workspace = Workspace(workspace_root)
    asked_at, answer = float("-inf"), {}  # type: float, Dict[str, Any]

    def status() -> Dict[str, Any]:
        nonlocal asked_at, answer
        if time.monotonic() - asked_at >= POLL_S:
            asked_at, answer = time.monotonic(), holder_facts(workspace.lock_holder())
        return answer

    return status


def _read_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            raise SystemExit(0)
        line += byte
    return line
