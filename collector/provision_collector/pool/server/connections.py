"""The server's connections: how many there may be, and how long one may keep a request or an answer waiting.

A client that sends half a request, or takes no answer, loses its connection and nothing else happens. When there are as
many connections as there may be, the one that has been without a whole request for longest makes room for the next one.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from ipaddress import ip_address

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_WITHIN_S = 10.0
"""From the first byte of a request, or from the connection, to the end of its header."""
TAKEN_WITHIN_S = 120.0
"""A client that takes nothing of an answer for so long is let go."""
MAX_HEAD_BYTES = 32 << 10
MOST_OF_ONE_ADDRESS = 256
"""Loopback is one address for everybody behind a proxy, so it has no bound of its own."""


class Connections:
    """All connections of one server, the ones that wait for a request in the order in which they began to wait."""

    def __init__(self, most: int, most_of_one_address: int = MOST_OF_ONE_ADDRESS) -> None:
        self._most = most
        self._most_of_one_address = most_of_one_address
        self._all: set[GuardedProtocol] = set()
        self._idle: dict[GuardedProtocol, None] = {}
        """In the order in which they began to wait for a request."""

    def admit(self, new: GuardedProtocol) -> bool:
        """Take *new*, if need be for one that waits; False when every other one has a request going."""
        others = [each for each in self._idle if each.address == new.address] if new.address else []
        is_one_too_many = new.address is not None and (
            sum(each.address == new.address for each in self._all) >= self._most_of_one_address
        )
        if is_one_too_many or len(self._all) >= self._most:
            longest = next(iter(others if is_one_too_many else self._idle), None)
            if longest is None:
                return False
            longest.drop()
        self._all.add(new)
        self._idle[new] = None
        return True

    def drop_waiting(self) -> None:
        """There are no descriptors left: whoever waits for a request makes room."""
        for connection in list(self._idle):
            connection.drop()

    def waits(self, connection: GuardedProtocol) -> None:
        """*connection* has no request now."""
        self._idle.pop(connection, None)
        if connection in self._all:
            self._idle[connection] = None

    def works(self, connection: GuardedProtocol) -> None:
        """*connection* has a whole header of a request."""
        self._idle.pop(connection, None)

    def remove(self, connection: GuardedProtocol) -> None:
        """*connection* is over."""
        self._all.discard(connection)
        self._idle.pop(connection, None)


class GuardedProtocol(H11Protocol):
    """HTTP of one connection, with deadlines for what the client sends and takes."""

    all: Connections
    address: str | None = None
    """The peer's, when it is not loopback."""
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _is_head_begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, or say why not."""
        super().connection_made(transport)
        name = self.client[0] if self.client else ""
        with suppress(ValueError):
            self.address = None if ip_address(name).is_loopback else name
        if not self.all.admit(self):
            self._refuse(
                503, "busy", "this server has as many connections as it takes", "ask again in a moment"
            )
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over, whoever ended it."""
        self.all.remove(self)
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self.transport.is_closing():
            return
        if not self._is_working and self._head_timer is None:
            self._await_head()
        self._is_head_begun = True
        super().data_received(data)
        self._note_progress()

    def on_response_complete(self) -> None:
        """The next request may come; uvicorn waits for its first byte."""
        super().on_response_complete()
        self._is_head_begun = False
        if not self._is_working:
            self.all.waits(self)

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(TAKEN_WITHIN_S, self.drop)

    def resume_writing(self) -> None:
        """It takes it again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(400, "malformed", "this is no HTTP request", "`/openapi.json` says what can be asked")

    def drop(self) -> None:
        """End it at once, and free its descriptor."""
        self._cancel_timers()
        self.all.remove(self)
        self.transport.abort()

    @property
    def _is_working(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_WITHIN_S, self._head_is_late)

    def _note_progress(self) -> None:
        if self._is_working:
            self.all.works(self)
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_working:
            return
        if not self._is_head_begun:
            self.drop()
            return
        self._refuse(
            408,
            "too_slow",
            f"the header did not arrive within {HEAD_WITHIN_S:.0f} s",
            "send the request in one piece",
        )

    def _refuse(self, status: int, kind: str, message: str, hint: str) -> None:
        """Answer without the application, and hang up."""
        self._cancel_timers()
        body = json.dumps({"error": {"class": kind, "message": message, "hint": hint}}).encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _cancel_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None


_REASONS = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}


def protocol_for(connections: Connections) -> type[GuardedProtocol]:
    """The protocol of a server whose connections are *connections*."""
    return type("Guarded", (GuardedProtocol,), {"all": connections})
