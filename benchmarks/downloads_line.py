"""A line of so many bytes per second, so many milliseconds long: a TCP relay in one process, for benchmarks.

What goes to the client waits for its turn on the line, shared by all connections, and then for its way: half of the
round trip, and so do requests. A connection begins one round trip after it was accepted. A router's queue is
modelled by its length in seconds: what does not fit is not read from the server, so the server's own buffers fill.
No loss, no slow start: it is kinder than a real line, and equally kind to all.

    python benchmarks/downloads_line.py --to PORT --bytes-per-s N --rtt-s S        says {"port": N} first, ends with stdin
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import selectors
import socket
import time
from collections import deque
from typing import Any

CHUNK_BYTES = 64 * 1024
QUEUE_S = 0.05
"""How much may wait for the line; a router's buffer."""


class Side:
    """One direction of one connection: bytes on their way, and when each may arrive."""

    def __init__(self, source: socket.socket, sink: socket.socket, is_shaped: bool) -> None:
        self.source, self.sink, self.is_shaped = source, sink, is_shaped
        self.waiting: deque[tuple[float, memoryview]] = deque()
        self.waiting_bytes = 0
        self.is_over = False
        """The source has no more to say."""


class Line:
    """Relays every connection to *target*."""

    def __init__(self, target: tuple[str, int], bytes_per_s: float, rtt_s: float) -> None:
        self._target, self._bytes_per_s, self._rtt_s = target, bytes_per_s, rtt_s
        self._free_at = 0.0
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Any]] = []
        self._order = itertools.count()
        self._window = max(CHUNK_BYTES, int(bytes_per_s * (rtt_s + QUEUE_S)))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def serve(self) -> None:
        """Relay until standard input ends."""
        self._selector.register(0, selectors.EVENT_READ, None)
        while True:
            now = time.monotonic()
            wait_s = max(0.0, self._due[0][0] - now) if self._due else None
            for key, _ in self._selector.select(wait_s):
                if key.data is None:
                    if not os.read(0, 4096):
                        return
                    continue
                key.data()
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()

    def _later(self, at: float, what: Any) -> None:
        heapq.heappush(self._due, (at, next(self._order), what))

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._later(time.monotonic() + self._rtt_s, lambda: self._begin(near))

    def _begin(self, near: socket.socket) -> None:
        far = socket.create_connection(self._target, timeout=10)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        for each in (near, far):
            each.setblocking(False)
        down, up = Side(far, near, True), Side(near, far, False)
        self._listen(far, down)
        self._listen(near, up)

    def _listen(self, source: socket.socket, side: Side) -> None:
        try:
            self._selector.register(source, selectors.EVENT_READ, lambda: self._read(side))
        except (KeyError, ValueError):
            pass  # it was closed meanwhile

    def _pause(self, source: socket.socket) -> None:
        try:
            self._selector.unregister(source)
        except (KeyError, ValueError):
            pass

    def _read(self, side: Side) -> None:
        now = time.monotonic()
        if side.is_shaped and self._free_at - now > QUEUE_S:
            # the queue is full: the source waits for its turn
            self._pause(side.source)
            self._later(self._free_at - QUEUE_S / 2, lambda: self._listen(side.source, side))
            return
        try:
            data = side.source.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        at = now + self._rtt_s / 2
        if side.is_shaped and data:
            self._free_at = max(now, self._free_at) + len(data) / self._bytes_per_s
            at = self._free_at + self._rtt_s / 2
        if not data:
            side.is_over = True
            self._pause(side.source)
            at = max(at, side.waiting[-1][0]) if side.waiting else at
        side.waiting.append((at, memoryview(data)))
        side.waiting_bytes += len(data)
        if side.waiting_bytes > self._window:
            self._pause(side.source)  # its receiver is slower than the line
        self._later(at, lambda: self._deliver(side))

    def _deliver(self, side: Side) -> None:
        now = time.monotonic()
        while side.waiting and side.waiting[0][0] <= now:
            at, data = side.waiting[0]
            if not data:
                return self._end(side)
            try:
                count = side.sink.send(data)
            except BlockingIOError:
                self._later(now + 0.002, lambda: self._deliver(side))
                return None
            except OSError:
                return self._end(side)
            side.waiting_bytes -= count
            if count < len(data):
                side.waiting[0] = (at, data[count:])
                self._later(now + 0.002, lambda: self._deliver(side))
                return None
            side.waiting.popleft()
        if side.waiting_bytes <= self._window and not side.is_over:
            self._listen(side.source, side)
        return None

    def _end(self, side: Side) -> None:
        for each in (side.source, side.sink):
            self._pause(each)
            each.close()
        side.waiting.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=int, required=True, help="port of the server")
    parser.add_argument("--bytes-per-s", type=float, required=True)
    parser.add_argument("--rtt-s", type=float, default=0.0)
    options = parser.parse_args()
    line = Line(("127.0.0.1", options.to), options.bytes_per_s, options.rtt_s)
    print(json.dumps({"port": line.port}), flush=True)
    line.serve()


if __name__ == "__main__":
    main()
