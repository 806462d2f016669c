"""One byte channel to a command on the instance, for all who need one: write, on_bytes, abort."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

from ..errors import HostUnreachableError
from .connection import Connection
from .flag import Flag

OPEN_TIMEOUT_S = 15.0
WINDOW_BYTES = 8 << 20
"""Bytes under way: at 200 ms of round trip it still carries 34 MB/s, at 50 ms 70."""


async def any_of(*events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait until one of *events* is set, or so many seconds; None: as long as it takes."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class _Session(asyncssh.SSHClientSession[bytes]):
    def __init__(
        self,
        on_bytes: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        ended: asyncio.Event,
        drained: asyncio.Event,
    ) -> None:
        self._on_bytes = on_bytes
        self._on_stderr = on_stderr
        self._ended = ended
        self._drained = drained
        drained.set()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        (self._on_bytes if datatype is None else self._on_stderr)(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()


class Channel:
    """A running command. `ended` is set when it is over, by its own end or the connection's."""

    def __init__(
        self,
        raw: asyncssh.SSHClientChannel[bytes],
        ended: asyncio.Event,
        drained: asyncio.Event,
        stderr: bytearray,
    ) -> None:
        self._raw = raw
        self._drained = drained
        self._stderr = stderr
        self._is_resuming = False
        self._is_pause_due = False
        self.ended = ended

    @classmethod
    async def open(
        cls, connection: Connection, command: str, *, on_bytes: Callable[[bytes], None]
    ) -> Channel:
        """Start *command* by the user's login shell, without a terminal.

        Raises:
            HostUnreachableError: the connection is gone, or the endpoint starts no commands.
        """
        ended, drained = Flag(), Flag()
        stderr = bytearray()

        def keep_last(data: bytes) -> None:
            stderr.extend(data)
            del stderr[:-4096]

        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                raw, _ = await connection.ssh.create_session(
                    lambda: _Session(on_bytes, keep_last, ended, drained),
                    command,
                    encoding=None,
                    window=WINDOW_BYTES,
                )
        except asyncssh.ChannelOpenError as error:
            if connection.lost.is_set():
                raise HostUnreachableError(
                    f"the connection was lost: {error.reason}", cause="reset"
                ) from None
            raise HostUnreachableError(
                f"this SSH endpoint starts no commands: {error.reason}",
                cause="no-exec",
            ) from None
        except (asyncssh.Error, OSError) as error:
            raise HostUnreachableError(f"the connection was lost: {error}", cause="reset") from None
        return cls(raw, ended, drained, stderr)

    def write(self, data: bytes) -> None:
        """Queue *data* for the command's stdin; nothing happens when it is over."""
        if not self.ended.is_set():
            try:
                self._raw.write(data)
            except OSError:
                pass  # it ended this moment: `ended` says so

    async def drained(self) -> None:
        """Wait until what was written is on its way, but for a little; or until the command is over."""
        if not self._drained.is_set() and not self.ended.is_set():
            await any_of(self._drained, self.ended)

    def end_input(self) -> None:
        """Close the command's stdin."""
        if not self.ended.is_set():
            try:
                self._raw.write_eof()
            except OSError:
                pass

    def pause(self) -> None:
        """Take no more bytes for now; the sender notices when the window is full."""
        if self._is_resuming:
            self._is_pause_due = True
        else:
            self._raw.pause_reading()

    def resume(self) -> None:
        """Take bytes again: at once all that came meanwhile, a window at most, whatever they lead to.

        asyncssh opens the window anew with the first bytes that it hands over, so whoever pauses again before the last
        ones lets the other side send another window each time, and keeps them all in memory.
        """
        self._is_resuming = True
        try:
            self._raw.resume_reading()
        finally:
            self._is_resuming = False
        if self._is_pause_due:
            self._is_pause_due = False
            self._raw.pause_reading()

    def abort(self) -> None:
        """Drop it without waiting for the other side."""
        self._raw.abort()

    @property
    def exit_status(self) -> int | None:
        """The command's exit status; None when the connection ended before it was told."""
        return self._raw.get_exit_status()

    @property
    def stderr(self) -> str:
        """The end of what it wrote to stderr."""
        return self._stderr.decode("utf-8", "replace").strip()
