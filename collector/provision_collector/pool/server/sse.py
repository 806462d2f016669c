"""Server-sent events from a stream's file: resumable at every id, and a slow client costs no memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .stream import CHUNK_BYTES, StreamReader, StreamWriter

COMMENT_EVERY_S = 15.0
SEND_WITHIN_S = 120.0
"""A client that takes nothing for so long is let go; it comes back with its `Last-Event-ID`."""
RETRY_MS = 1000
NEAR = 100
"""Who has fewer events to catch up with reads what was written a moment ago: no disk keeps it waiting."""
GATHER_S = 0.02
"""What happens within so short a time is sent together: a flood costs a client fifty sends a second, not a thousand."""


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
        reader = await asyncio.to_thread(StreamReader, self._path, after=self._after)
        wake = asyncio.Event()
        ends = [asyncio.create_task(_disconnected(receive)), asyncio.create_task(self._closing.wait())]
        for end in ends:
            end.add_done_callback(lambda _: wake.set())
        if self._writer is not None:
            self._writer.listeners.add(wake)
        self._count(1)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send(send, f"retry: {RETRY_MS}\n\n".encode())
            while not any(end.done() for end in ends):
                wake.clear()
                is_over = self._writer is None or self._writer.is_over  # asked before reading
                is_behind = reader.last_id < self._writer.last_id - NEAR if self._writer is not None else True
                if events := await asyncio.to_thread(reader.read) if is_behind else reader.read():
                    body = b"".join(b"id: %d\ndata: %s\n\n" % event for event in events)
                    await _send(send, body)
                    await asyncio.sleep(GATHER_S if len(body) < CHUNK_BYTES // 2 else 0)
                elif is_over:
                    break
                else:
                    await _woken(wake, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError):
            pass  # the client is gone, or takes nothing: it resumes when it likes
        finally:
            self._count(-1)
            if self._writer is not None:
                self._writer.listeners.discard(wake)
            for end in ends:
                end.cancel()
            reader.close()


async def _woken(wake: asyncio.Event, send: Send) -> None:
    try:
        async with asyncio.timeout(COMMENT_EVERY_S):
            await wake.wait()
    except TimeoutError:
        await _send(send, b": still here\n\n")


async def _send(send: Send, body: bytes) -> None:
    async with asyncio.timeout(SEND_WITHIN_S):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
