"""A TCP relay that makes this machine as far away as an instance: every byte arrives so much later, in a process of its own."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections import deque

PIECE_BYTES = 256 << 10
MOST_BYTES = 64 << 20
"""On their way in one direction, before the sender has to wait."""


class DistantHost:
    """Relays connections to the port *port* of this machine, each direction half of *round_trip_s* late, until `close`."""

    def __init__(self, port: int, round_trip_s: float) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = listener.getsockname()[1]
        self._process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(listener, port, round_trip_s / 2), daemon=True
        )
        self._process.start()
        listener.close()

    def close(self) -> None:
        """End it, with every connection."""
        self._process.terminate()
        self._process.join()


def _serve(listener: socket.socket, port: int, delay_s: float) -> None:
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for one, other in ((near, far), (far, near)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Direction(one, other, delay_s).start()


class _Direction:
    """What goes from *source* to *target*: one thread reads it and notes when, one writes it when it is due."""

    def __init__(self, source: socket.socket, target: socket.socket, delay_s: float) -> None:
        self._source = source
        self._target = target
        self._delay_s = delay_s
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._change = threading.Condition()

    def start(self) -> None:
        for work in (self._read, self._write):
            threading.Thread(target=work, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = self._source.recv(PIECE_BYTES)
            except OSError:
                data = b""
            with self._change:
                while self._held_bytes > MOST_BYTES:
                    self._change.wait()
                self._pieces.append((time.monotonic() + self._delay_s, data))
                self._held_bytes += len(data)
                self._change.notify_all()
            if not data:
                return

    def _write(self) -> None:
        while True:
            with self._change:
                while not self._pieces:
                    self._change.wait()
                due, data = self._pieces.popleft()
                self._held_bytes -= len(data)
                self._change.notify_all()
            time.sleep(max(due - time.monotonic(), 0.0))
            try:
                if not data:
                    self._target.shutdown(socket.SHUT_WR)
                    return
                self._target.sendall(data)
            except OSError:
                return
