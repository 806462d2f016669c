"""A TCP relay on loopback that cuts, stalls and refuses on command: the network between here and an instance."""

from __future__ import annotations

import socket
import struct
import threading


class TcpProxy:
    """Relays connections to *target*, from its own threads, until `close`.

    `cut_after`: every connection is reset when so many bytes have come from the target; None lets them live.
    """

    def __init__(self, target: tuple[str, int], *, port: int = 0) -> None:
        self._target = target
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._gate = _open_gate()
        """Those that are open now and those to come go through it."""
        self._muted: list[threading.Event] = []
        self.cut_after: int | None = None
        self.connections = 0
        self.relayed = 0
        """Bytes that have gone through, in both directions."""
        self._listener = self._listen(port)
        self.port: int = self._listener.getsockname()[1]

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for side in pair:
                _reset(side)

    def stall(self) -> None:
        """Let nothing through in either direction, and close nothing: a black hole."""
        self._gate.clear()

    def mute(self) -> None:
        """Let nothing more through the connections that are open now, and close none of them; new ones work."""
        self._gate.clear()
        self._muted.append(self._gate)
        self._gate = _open_gate()

    def flow(self) -> None:
        """Let everything through again that was stalled."""
        self._gate.set()

    def refuse(self) -> None:
        """Take no new connections, and cut those that are open."""
        _close(self._listener)
        self.cut()

    def accept(self) -> None:
        """Take connections again, on the same port."""
        self._listener = self._listen(self.port)

    def close(self) -> None:
        self.refuse()
        for gate in (self._gate, *self._muted):
            gate.set()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        threading.Thread(target=self._accept_loop, args=(listener,), daemon=True).start()
        return listener

    def _accept_loop(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=10)
                far.settimeout(None)
            except OSError:
                _reset(near)
                continue
            with self._lock:
                self._pairs.append((near, far))
                self.connections += 1
            for source, sink, limit in ((near, far, None), (far, near, self.cut_after)):
                threading.Thread(
                    target=self._relay, args=(source, sink, limit, self._gate), daemon=True
                ).start()

    def _relay(
        self, source: socket.socket, sink: socket.socket, limit: int | None, gate: threading.Event
    ) -> None:
        try:
            while True:
                gate.wait()
                data = source.recv(65536)
                gate.wait()
                self.relayed += len(data)
                if limit is not None:
                    data, limit = data[:limit], limit - len(data)
                sink.sendall(data)
                if not data or (limit is not None and limit <= 0):
                    break
        except OSError:
            pass
        if limit is not None and limit <= 0:
            _reset(source)
            _reset(sink)
        else:
            _close(source)
            _close(sink)


def _open_gate() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


def _reset(side: socket.socket) -> None:
    try:
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    _close(side)


def _close(side: socket.socket) -> None:
    try:
        side.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    side.close()
