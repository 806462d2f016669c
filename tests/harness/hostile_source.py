"""A web server that answers with whatever bytes it was given, HTTP or not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping

__all__ = ["HostileSource", "answer"]


def answer(
    status: object = "200 OK",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    length: bool = True,
) -> bytes:
    """The bytes of one answer; header values may be anything that Latin-1 or UTF-8 can write."""
    fields = dict(headers or {})
    if length:
        fields.setdefault("Content-Length", str(len(body)))
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body


class HostileSource:
    """Answers every request for a path with its bytes in `answers`, and closes; `endless` is then sent for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.endless: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> HostileSource:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()

    def add(self, path: str, said: bytes, *, then_for_ever: bytes = b"") -> str:
        """Answer *path* with *said*; the URL."""
        self.answers[path] = said
        if then_for_ever:
            self.endless[path] = then_for_ever
        return f"http://127.0.0.1:{self.port}{path}"

    def _accept(self) -> None:
        while True:
            try:
                opened, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(opened,), daemon=True).start()

    def _serve(self, opened: socket.socket) -> None:
        with opened:
            opened.settimeout(20.0)
            try:
                got = b""
                while b"\r\n\r\n" not in got:
                    piece = opened.recv(65536)
                    if not piece:
                        return
                    got += piece
                path = got.split(b" ")[1].decode("latin-1")
                self.requests.append(path)
                opened.sendall(self.answers.get(path, answer("404 Not Found")))
                while path in self.endless:
                    opened.sendall(self.endless[path])
                opened.shutdown(socket.SHUT_WR)
                while opened.recv(65536):
                    pass  # else what was sent is lost to a reset
            except OSError:
                pass  # the other side has left
