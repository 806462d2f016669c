"""The bytes of a run's mirrored logs, as they are or as they come."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from ...run.registry import RunFiles
from ..store.rows import Row
from ..store.streams import Streams

POLL_S = 0.2
CHUNK_BYTES = 1 << 16


class Log:
    """One log of a run, wherever its bytes are."""

    async def size_bytes(self) -> int:
        """How long it is now; 0 when there is none yet."""
        raise NotImplementedError

    def read(self, offset: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from *offset* up to *end*, which it has reached already, in chunks."""
        raise NotImplementedError

    async def follow(self, offset: int, *, is_over: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """The bytes from *offset* on, as they come.

        Args:
            offset: The first byte, from 0; it need not be there yet.
            is_over: Says that nothing more will come: then all that is there is given, and it ends.
        """
        while True:
            is_last = await is_over()  # asked before reading
            end = await self.size_bytes()
            async for chunk in self.read(offset, end):
                yield chunk
            offset = max(offset, end)
            if is_last:
                return
            await asyncio.sleep(POLL_S)


class SharedLog(Log):
    """A log in the database that servers share, as `MirroredLog`."""

    def __init__(self, row: Row, kind: str, streams: Streams) -> None:
        self._row = row
        self._kind = kind
        self._streams = streams

    async def size_bytes(self) -> int:
        return await self._streams.log_size(self._row, self._kind)

    async def read(self, offset: int, end: int) -> AsyncIterator[bytes]:
        while offset < end and (
            chunk := await self._streams.log_bytes(self._row, self._kind, offset, end - offset)
        ):
            offset += len(chunk)
            yield chunk


class MirroredLog(Log):
    """One log of the run in *row*: its ``core`` log, its ``errors``, or ``job-NAME``. Where it lies may become known later."""

    def __init__(self, row: Row, kind: str) -> None:
        self._row = row
        self._kind = kind

    async def size_bytes(self) -> int:
        """How long the mirror is now; 0 when there is none yet."""
        path = self._path()
        try:
            return (await asyncio.to_thread(os.stat, path)).st_size if path is not None else 0
        except FileNotFoundError:
            return 0

    async def read(self, offset: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of the mirror, in chunks.

        Args:
            offset: The first byte, from 0.
            end: The byte after the last one; the mirror has reached it already.
        """
        path = self._path()
        if path is None or offset >= end:
            return
        descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while chunk := await asyncio.to_thread(
                os.pread, descriptor, min(CHUNK_BYTES, end - offset), offset
            ):
                offset += len(chunk)
                yield chunk
        finally:
            os.close(descriptor)

    def _path(self) -> str | None:
        if self._row.stem is None:
            return None
        return str(RunFiles(self._row.stem).log(self._kind))
