"""The agent's end of `contract.file_frames`: stdin and stdout of one session."""

from __future__ import annotations

import fcntl
import os
import select
import threading
from typing import Dict, Iterable, Iterator

from ..contract import file_frames as wire
from ..contract.file_frames import FileFrame
from ..contract.frames import Bytes

MAX_REQUEST_BYTES = 1 << 20
READ_BYTES = 64 << 10
PIPE_BYTES = 1 << 20
"""What may wait in a pipe between this process and sshd, so that neither stands still while the other works."""
SET_PIPE_SIZE = 1031
"""`F_SETPIPE_SZ` of Linux, which Python names from 3.10 on."""


class Gone(Exception):
    """The other side is: its stream ended, or it has been silent for too long."""


class Wire:
    """One session. Reading is for one thread, writing for any."""

    def __init__(self, input_fd: int = 0, output_fd: int = 1) -> None:
        self._input = input_fd
        self._output = output_fd
        self._rest = memoryview(b"")
        self._writing = threading.Lock()
        for descriptor in (input_fd, output_fd):
            try:
                fcntl.fcntl(descriptor, SET_PIPE_SIZE, PIPE_BYTES)
            except (OSError, ValueError):
                pass  # no pipe, none at all, or this user has as much as he may

    def line(self) -> bytes:
        """The first line: the request. Raises Gone."""
        line = bytearray()
        while not line.endswith(b"\n") and len(line) < MAX_REQUEST_BYTES:
            line += self._exactly(1)
        return bytes(line)

    def greet(self, nonce: str) -> None:
        """Say that what follows are frames."""
        self._write(wire.magic(nonce))

    def frames(self) -> Iterator[FileFrame]:
        """Every frame, until the other side is gone. Raises ProtocolError."""
        while True:
            try:
                head = wire.read_head(self._exactly(wire.HEAD_BYTES))
                body = self._exactly(head.length)
            except Gone:
                return
            yield wire.frame_of(head, memoryview(body))

    def send(self, kind: bytes, payload: Dict[str, object], number: int = 0) -> None:
        """Write a frame with a JSON payload."""
        self._write(wire.pack(kind, payload, number))

    def send_list(self, kind: bytes, name: str, entries: Iterable[object]) -> None:
        """Write *entries*, dataclasses of `file_messages`, as the list *name* of as many frames as they need."""
        for frame in wire.pack_lists(kind, name, entries):
            self._write(frame)

    def send_data(self, number: int, offset: int, data: Bytes) -> None:
        """Write bytes of a file."""
        head = wire.data_head(number, offset, len(data))
        with self._writing:
            written = os.writev(self._output, [head, data])
            if written < len(head):
                self._write_all(head[written:])
            self._write_all(memoryview(data)[max(0, written - len(head)) :])

    def _write(self, data: bytes) -> None:
        with self._writing:
            self._write_all(data)

    def _write_all(self, data: Bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._output, view) :]

    def _exactly(self, size: int) -> bytearray:
        out = bytearray(size)
        view = memoryview(out)
        at = min(len(self._rest), size)
        view[:at] = self._rest[:at]
        self._rest = self._rest[at:]
        while at < size:
            if not select.select([self._input], [], [], wire.DEAD_MAN_S)[0]:
                raise Gone
            if size - at >= READ_BYTES:
                got = os.readv(self._input, [view[at:]])
            else:
                self._rest = memoryview(os.read(self._input, READ_BYTES))
                got = min(len(self._rest), size - at)
                view[at : at + got] = self._rest[:got]
                self._rest = self._rest[got:]
            if not got:
                raise Gone
            at += got
        return out
