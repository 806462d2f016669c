"""A proxy that leads the names of real hosts to servers on loopback: nothing of a test leaves the machine."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Mapping


class Elsewhere(socketserver.ThreadingTCPServer):
    """Tunnels ``CONNECT host:port`` to the loopback port of *ports*, by host; every other host is refused.

    `asked` are the hosts that somebody wanted to reach.
    """

    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, ports: Mapping[str, int]) -> None:
        self.ports = dict(ports)
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Tunnel)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        """Take no more connections."""
        self.shutdown()
        self.server_close()

    def environment(self, certificate: str) -> dict[str, str]:
        """What makes a process of ours go through it, and trust the servers behind it."""
        return {"https_proxy": self.url, "no_proxy": "", "SSL_CERT_FILE": certificate}


class _Tunnel(socketserver.StreamRequestHandler):
    server: Elsewhere

    def handle(self) -> None:
        target = self.rfile.readline().decode().split(" ")[1]
        while self.rfile.readline().strip():
            pass
        host = target.rpartition(":")[0]
        self.server.asked.append(host)
        port = self.server.ports.get(host)
        if port is None:
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as onward:
            threading.Thread(target=_pump, args=(self.request, onward), daemon=True).start()
            _pump(onward, self.request)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
