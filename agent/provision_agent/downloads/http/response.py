"""The answer to a request: `http.client` reads the head, the body comes straight from the socket.

The head's parser is the library's; the bytes of a model take the shortest way, into the caller's buffer.
A read waits `TICK_S` at most, so that whoever reads can look up: is it slow, is it over, was it cancelled?
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import struct
import sys
import time
from typing import Optional, Protocol, Tuple
from urllib.parse import urlsplit

from ...contract.failures import Failure
from . import transport
from .inflate import Inflater
from .transport import Origin, Stop

TICK_S = 0.5
MAX_HEAD_BYTES = 1 << 20
"""Of the head of an answer, with all that says "go on" before it."""
CHUNKED_BYTES = 64 * 1024
"""A chunked body is read in small pieces, because a read of it returns only when the piece is full."""

MAX_CHUNK_LINE = 4096
_TICK = struct.pack("ll", int(TICK_S), int(TICK_S % 1 * 1_000_000))


class Headers(Protocol):
    """The fields of an answer; names count in any case."""

    def get(self, name: str, /) -> Optional[str]: ...


class _ReadInto(Protocol):
    """Puts up to *count* bytes into *view*; returns how many, 0 at the end."""

    def __call__(self, count: int, view: memoryview, /) -> int: ...


class _Reader:
    """What `http.client` reads a head from. `rest` is what came after it: the first bytes of the body."""

    def __init__(
        self, opened: socket.socket, kept_open: io.BufferedReader, patience: transport.Patience
    ) -> None:
        self._socket = opened
        self._kept_open = kept_open
        self.patience: Optional[transport.Patience] = patience
        """Of the head only; the body has the socket's own timeout."""
        self.rest = bytearray()
        self._head_bytes = 0

    def readline(self, limit: int = -1) -> bytes:
        while b"\n" not in self.rest and not 0 <= limit <= len(self.rest):
            more = self._receive()
            if not more:
                break
            self.rest += more
        end = self.rest.find(b"\n") + 1 or len(self.rest)
        return self._cut(end if limit < 0 else min(end, limit))

    def _receive(self) -> bytes:
        if self.patience is None:
            return self._socket.recv(16384)
        more = self.patience.until_done(self._socket, lambda: self._socket.recv(16384))
        self._head_bytes += len(more)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise http.client.HTTPException(f"a head of more than {MAX_HEAD_BYTES >> 20} MiB")
        return more

    def read(self, count: int) -> bytes:
        buffer = bytearray(count)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def readinto(self, view: memoryview) -> int:
        """Fill *view*, fewer bytes only at the end."""
        piece = self._cut(len(view))
        got = len(piece)
        view[:got] = piece
        while got < len(view):
            count = self._socket.recv_into(view[got:])
            if count == 0:
                break
            got += count
        return got

    def flush(self) -> None:
        """Part of the interface that `http.client` expects."""

    def close(self) -> None:
        self._kept_open.close()

    def _cut(self, count: int) -> bytes:
        piece = bytes(self.rest[:count])
        del self.rest[:count]
        return piece


class RawResponse(http.client.HTTPResponse):
    def __init__(
        self,
        patience: transport.Patience,
        sock: socket.socket,
        debuglevel: int = 0,
        method: Optional[str] = None,
    ) -> None:
        super().__init__(sock, debuglevel, method=method)
        # the library's own reader stays open: it is what keeps a `Connection: close` socket alive
        self.reader = _Reader(sock, self.fp, patience)
        self.fp = self.reader  # type: ignore[assignment]

    def _read_next_chunk_size(self) -> int:
        """As the library does it, but a size is hexadecimal digits and nothing else. Raises ValueError."""
        line = self.reader.readline(MAX_CHUNK_LINE)
        found = re.match(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;|\r?\n)", line)
        if found is None:
            self._close_conn()  # type: ignore[attr-defined]
            raise ValueError("no size of a chunk")
        return int(found[1], 16)


class Connection:
    """A connection that may carry several requests, one after the other."""

    def __init__(self, origin: Origin, opened: socket.socket) -> None:
        self.origin = origin
        self.socket = opened
        self.client = http.client.HTTPConnection(origin.host, origin.port)
        self.client.default_port = transport.DEFAULT_PORTS[origin.scheme]
        self.client.auto_open = 0
        self.client.sock = opened

    def close(self) -> None:
        """End it. Safe to repeat."""
        self.client.close()
        self.socket.close()


class Response:
    """An answer whose head has been read; close it in every case."""

    def __init__(self, url: str, connection: Connection, raw: RawResponse) -> None:
        self.url = url
        self.connection = connection
        self.status = raw.status
        self.reason = raw.reason
        self.headers: Headers = raw.headers
        self.remaining: Optional[int] = None if raw.chunked else raw.length
        """Body bytes still to come; None when the server does not say."""
        self._is_over = self.remaining == 0
        self._inflater: Optional[Inflater] = None
        self._raw = raw
        self._is_released = False
        self._is_plain = not raw.chunked and not isinstance(connection.socket, ssl.SSLSocket)

    @property
    def set_cookies(self) -> Tuple[str, ...]:
        """The cookies that it sets, as they are written."""
        return tuple(self._raw.headers.get_all("Set-Cookie") or ())

    @property
    def at_end(self) -> bool:
        """All of the body has been read."""
        return self._is_over if self._inflater is None else self._inflater.at_end

    @property
    def is_inflated(self) -> bool:
        """What is read of it is not what comes over the line: see `inflate`."""
        return self._inflater is not None

    def inflate(self, coding: str) -> None:
        """Undo *coding*, which `inflate.is_readable`, while the body is read. Before its first byte."""
        self._inflater = Inflater(coding, self._host)

    def prepare(self, silence_s: float) -> None:
        """Get ready to read a large body; a chunked one fails after *silence_s* without a byte."""
        opened = self.connection.socket
        self._raw.reader.patience = None
        if self._is_plain:
            # a blocking socket with a receive timeout fills the whole buffer in one call (MSG_WAITALL)
            opened.settimeout(None)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TICK)
        else:
            opened.settimeout(silence_s if self._raw.chunked else TICK_S)

    def fill(self, view: memoryview) -> int:
        """Put the next bytes of the body into *view*, as many as fit, after `prepare`.

        Returns:
            How many; fewer than fit when they take longer than `TICK_S`, 0 when none came (or `at_end`).

        Raises:
            Failure: `truncated`, `stalled` or `unreachable`; where it is inflated also `size`.
        """
        if self._inflater is not None:
            return self._inflater.fill(view, self._fill_counted, lambda: self._is_over)
        return self._fill_counted(view)

    def _fill_counted(self, view: memoryview) -> int:
        want = len(view) if self.remaining is None else min(len(view), self.remaining)
        try:
            count = self._fill(view[:want])
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, socket.timeout):
                raise Failure("stalled", f"{self._host} fell silent") from None
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Failure("truncated", f"{self._host} broke off: {reason}") from None
        if self.remaining is not None:
            self.remaining -= count
            self._is_over = self.remaining == 0
        return count

    @property
    def backlog(self) -> int:
        """How many bytes have arrived and wait in the kernel to be read."""
        import fcntl  # here: sources are also asked from machines that have no such module
        import termios

        answer = fcntl.ioctl(self.connection.socket.fileno(), termios.FIONREAD, bytes(4))
        return int.from_bytes(answer, sys.byteorder)

    def read(self, count: int, within_s: float, stop: Stop = lambda: False) -> bytes:
        """Up to *count* bytes of the body, as many as come *within_s*: for small answers and error pages."""
        self.prepare(min(within_s, 5.0))
        buffer = bytearray(count)
        view, got, end = memoryview(buffer), 0, time.monotonic() + within_s
        while got < count and not self.at_end and time.monotonic() < end and not stop():
            try:
                got += self.fill(view[got:])
            except Failure:
                break
        return bytes(buffer[:got])

    def close(self) -> None:
        """End it, and its connection. Safe to repeat, and after `release`."""
        self._raw.close()
        if not self._is_released:
            self.connection.close()

    def release(self) -> Optional[Connection]:
        """The connection, free for another request; None when this answer has used it up."""
        self._raw.close()
        if not self.at_end or self._raw.will_close:
            return None
        self._is_released = True
        return self.connection

    @property
    def _host(self) -> str:
        return urlsplit(self.url).hostname or self.url

    def _fill(self, view: memoryview) -> int:
        rest = self._raw.reader.rest
        if self._raw.chunked:
            count = self._raw.readinto(view[:CHUNKED_BYTES])
            self._is_over = count == 0
            return count
        if rest:
            count = min(len(rest), len(view))
            view[:count] = rest[:count]
            del rest[:count]
            return count
        return self._fill_plain(view) if self._is_plain else self._fill_tls(view)

    def _fill_plain(self, view: memoryview) -> int:
        try:
            count = self.connection.socket.recv_into(view, len(view), socket.MSG_WAITALL)
        except BlockingIOError:
            return 0
        if count == 0:
            self._end()
        return count

    def _fill_tls(self, view: memoryview) -> int:
        """TLS hands out 16 KiB at most: gather more before the disk is bothered, but not for longer than a tick."""
        opened, got, length = self.connection.socket, 0, len(view)
        assert isinstance(opened, ssl.SSLSocket)
        # `recv_into` with less between: this is done 65 000 times for 1 GB; with a buffer it returns a count
        receive: _ReadInto = opened.read  # type: ignore[assignment]
        end = time.monotonic() + TICK_S
        try:
            while got < length:
                count = receive(length - got, view[got:])
                if count == 0:
                    if got == 0:
                        self._end()
                    break
                got += count
                if time.monotonic() > end:
                    break
        except socket.timeout:
            pass
        return got

    def _end(self) -> None:
        if self.remaining:
            raise ValueError(f"closed with {self.remaining} bytes to come")
        self._is_over = True
