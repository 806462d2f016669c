"""Server-sent events from a stream's file: resumable at every id, and a slow client costs no memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .stream import StreamReader, StreamWriter

COMMENT_EVERY_S = 15.0
SEND_WITHIN_S = 120.0
"""A client that takes nothing for so long is let go; it comes back with its `Last-Event-ID`."""
RETRY_MS = 1000


class EventStream(Response):
    """``text/event-stream`` of one run, from the event after *after* to the outcome."""

    def __init__(
        self,
        path: Path,
        writer: StreamWriter | None,
        *,
        after: int,
        closing: asyncio.Event,
        count: Callable[[int], None],
    ) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )
        del self.headers["content-length"]
        self._path = path
        self._writer = writer
        self._after = after
        self._closing = closing
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader = StreamReader(self._path, after=self._after)
        gone = asyncio.create_task(_disconnected(receive))
        self._count(1)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send(send, f"retry: {RETRY_MS}\n\n".encode())
            while not gone.done() and not self._closing.is_set():
                is_over = self._writer is None or self._writer.is_over  # asked before reading, as is `change`
                change = asyncio.Event() if self._writer is None else self._writer.change
                if events := reader.read():
                    await _send(send, b"".join(b"id: %d\ndata: %s\n\n" % event for event in events))
                elif is_over:
                    break
                else:
                    await self._wait(send, change, gone)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError):
            pass  # the client is gone, or takes nothing: it resumes when it likes
        finally:
            self._count(-1)
            gone.cancel()
            reader.close()

    async def _wait(self, send: Send, change: asyncio.Event, gone: asyncio.Task[None]) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (change, self._closing)]
        done, _ = await asyncio.wait(
            (*waits, gone), timeout=COMMENT_EVERY_S, return_when=asyncio.FIRST_COMPLETED
        )
        for wait in waits:
            wait.cancel()
        if not done:
            await _send(send, b": still here\n\n")


async def _send(send: Send, body: bytes) -> None:
    async with asyncio.timeout(SEND_WITHIN_S):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
