"""Server-sent events of one run: resumable at every id, on any server, and a slow client costs no memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...instance import Flag
from ..store.streams import Place, Streams
from .feed import Feed

COMMENT_EVERY_S = 15.0
SEND_WITHIN_S = 120.0
"""A client that takes nothing for so long is let go; it comes back with its `Last-Event-ID`."""
RETRY_MS = 1000
PAGE = 250
"""So many events are read at once by who has to catch up."""
FULL_BYTES = 1 << 15
GATHER_S = 0.02
"""What happens within so short a time is sent together: a flood costs a client fifty sends a second, not a thousand."""


class EventStream(Response):
    """``text/event-stream`` of one run, from the event after *after* to the outcome."""

    def __init__(
        self,
        feed: Feed,
        streams: Streams,
        *,
        after: int,
        closing: asyncio.Event,
        count: Callable[[int], None],
        on_leave: Callable[[Feed], None],
    ) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )
        del self.headers["content-length"]
        self._feed = feed
        self._streams = streams
        self._at = after
        self._is_near = False
        """All that was there has been read: what follows comes through the feed."""
        self._closing = closing
        self._count = count
        self._on_leave = on_leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wake = Flag()
        ends = [asyncio.create_task(_disconnected(receive)), asyncio.create_task(self._closing.wait())]
        for end in ends:
            end.add_done_callback(lambda _: wake.set())
        self._feed.listeners.add(wake)
        self._count(1)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await _send(send, f"retry: {RETRY_MS}\n\n".encode())
            while not (any(end.done() for end in ends) or self._feed.is_cut):
                wake.clear()
                is_over = self._feed.is_over  # asked before reading
                if events := await self._next():
                    self._at = events[-1][0]
                    body = b"".join(b"id: %d\ndata: %s\n\n" % event for event in events)
                    await _send(send, body)
                    await asyncio.sleep(GATHER_S if len(body) < FULL_BYTES else 0)
                elif is_over:
                    break
                else:
                    await _woken(wake, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError, SQLAlchemyError):
            pass  # the client is gone, or takes nothing, or the database is away: it resumes when it likes
        finally:
            self._count(-1)
            self._feed.listeners.discard(wake)
            self._on_leave(self._feed)
            for end in ends:
                end.cancel()

    async def _next(self) -> list[tuple[int, bytes]]:
        """From memory where it reaches back so far; else from the database, until nothing more is there."""
        near = self._feed.after(self._at)
        if near or (near is not None and self._is_near):
            return near
        found = await self._streams.after(Place(self._feed.day, self._feed.rid, self._at), PAGE)
        self._is_near = not found
        return found


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
