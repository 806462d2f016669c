"""A client that means no good: half requests, bodies that never end, answers that nobody takes."""

from __future__ import annotations

import socket
from collections.abc import Sequence


class HostileClient:
    """Many connections to one port of this machine; none of them is closed before `close`."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._address = (address, port)
        self._open: list[socket.socket] = []

    def send(self, data: bytes, *, count: int = 1) -> Sequence[socket.socket]:
        """Open *count* connections, each with *data* on it; those that the server ends are no error."""
        opened = []
        for _ in range(count):
            connection = socket.create_connection(self._address, timeout=30)
            self._open.append(connection)
            opened.append(connection)
            try:
                connection.sendall(data)
            except OSError:
                pass  # it was ended at once
        return opened

    def close(self) -> None:
        """Close what is still open."""
        for connection in self._open:
            connection.close()


def said_on(connection: socket.socket, timeout_s: float = 30) -> bytes:
    """Everything that comes until the other side ends the connection.

    Raises:
        TimeoutError: it does not end within *timeout_s*.
    """
    connection.settimeout(timeout_s)
    said = b""
    try:
        while chunk := connection.recv(65536):
            said += chunk
    except ConnectionResetError:
        pass
    return said
