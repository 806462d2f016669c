"""Model hosts on loopback addresses: large files generated as they are read, at the speed and with the faults that a test or the demo asks for.

A file's bytes depend on its seed and size only; any range of it can be asked for, and nothing is stored.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

CHUNK_BYTES = 64 * 1024
_PERIOD_BYTES = 1_048_583
"""Prime, so that a range written to the wrong place never looks right by chance."""
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


class Model:
    """A ``.safetensors`` file with one tensor of noise.

    Args:
        size_bytes: All of the file, its header included.
        seed: Other seeds give other noise.
    """

    def __init__(self, size_bytes: int, *, seed: int) -> None:
        self.size_bytes = size_bytes
        self._head = _safetensors_head(size_bytes)
        noise = random.Random(seed).randbytes(_PERIOD_BYTES)  # noqa: S311 -- noise, no secret
        self._noise = memoryview(noise + noise)

    def read(self, first: int, end: int) -> Iterator[bytes | memoryview]:
        """The bytes from *first* up to *end*, in chunks."""
        while first < end:
            last = min(first + CHUNK_BYTES, end)
            if first < len(self._head):
                chunk: bytes | memoryview = self._head[first:last]
            else:
                at = (first - len(self._head)) % _PERIOD_BYTES
                chunk = self._noise[at : at + last - first]
            yield chunk
            first += len(chunk)

    @cached_property
    def sha256(self) -> str:
        """The hash of the whole file, as hex."""
        digest = hashlib.sha256()
        for chunk in self.read(0, self.size_bytes):
            digest.update(chunk)
        return digest.hexdigest()


class FileHost:
    """One host; a context manager, serving inside of it.

    Args:
        models: What it serves, by path (``/vae.safetensors``).
        address: The loopback address that it listens on; clients take another address for another host.
        bytes_per_s: What all its connections share; None: no bound.
        connection_bytes_per_s: What each connection gets at most; None: no bound.
        faults: By path, the statuses of its answers, one after the other, and the last for good; None: the file.
        retry_after_s: What a 503 tells the client to wait; 0: nothing.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        *,
        address: str = "127.0.0.1",
        bytes_per_s: float | None = None,
        connection_bytes_per_s: float | None = None,
        faults: Mapping[str, Iterable[int | None]] | None = None,
        retry_after_s: int = 0,
    ) -> None:
        self.models = dict(models)
        self.retry_after_s = retry_after_s
        self.connection_bytes_per_s = connection_bytes_per_s
        self.requests: list[str] = []
        """Every request so far, as ``GET /path bytes=0-99 -> 206``."""
        self._line = Pace(bytes_per_s)
        self._faults = {path: list(statuses) for path, statuses in (faults or {}).items()}
        self._lock = threading.Lock()
        self._server = _Server((address, 0), _Handler)
        self._server.host = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """Where it listens, as ``127.0.0.1:40123``."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def url(self, path: str) -> str:
        """The address of *path* on this host."""
        return f"http://{self.address}{path}"

    def fault(self, path: str) -> int | None:
        """The status to fail the next request of *path* with; None to answer it."""
        with self._lock:
            statuses = self._faults.get(path, [])
            return statuses.pop(0) if len(statuses) > 1 else statuses[0] if statuses else None

    def take_turn(self, count: int) -> None:
        """Wait until the host's line has carried *count* more bytes."""
        self._line.wait_for(count)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class Pace:
    """Hold several threads together to a number of bytes per second."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait_for(self, count: int) -> None:
        """Return when *count* more bytes may have passed."""
        if self._bytes_per_s is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._bytes_per_s
            wait_s = self._free_at - now
        time.sleep(wait_s)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that keeps its connection open does not keep the demo
    request_queue_size = 128
    host: FileHost

    def handle_error(self, request: object, client_address: object) -> None:
        return  # a client that went away in mid-file is no error of this side


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60.0
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        return

    def _answer(self, *, with_body: bool) -> None:
        host, path = self.server.host, self.path.partition("?")[0]
        status = host.fault(path)
        model = host.models.get(path)
        if status is None and model is None:
            status = HTTPStatus.NOT_FOUND
        if status is not None or model is None:
            wait = {"Retry-After": str(host.retry_after_s)} if status == 503 and host.retry_after_s else {}
            self._say(int(status or HTTPStatus.NOT_FOUND), {"Content-Length": "0", **wait})
            return
        first, end = 0, model.size_bytes
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "ETag": f'"{model.sha256}"',
        }
        wanted = self._range(model)
        if wanted is not None:
            first, end = wanted
            if first >= end:
                self._say(416, {"Content-Length": "0", "Content-Range": f"bytes */{model.size_bytes}"})
                return
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{model.size_bytes}"
        self._say(206 if wanted else 200, dict(headers, **{"Content-Length": str(end - first)}))
        if with_body:
            self._send(model, first, end)

    def _range(self, model: Model) -> tuple[int, int] | None:
        """The half-open range that is asked for; None for the whole file. Source: RFC 9110 §14.1.2, §13.1.5."""
        match = _RANGE.match(self.headers.get("Range", ""))
        if (
            match is None
            or match[0] == "bytes=-"
            or self.headers.get("If-Range", "") not in ("", f'"{model.sha256}"')
        ):
            return None
        if not match[1]:
            return max(model.size_bytes - int(match[2]), 0), model.size_bytes
        end = int(match[2]) + 1 if match[2] else model.size_bytes
        return int(match[1]), min(end, model.size_bytes)

    def _say(self, status: int, headers: Mapping[str, str]) -> None:
        asked = self.headers.get("Range", "")
        self.server.host.requests.append(f"{self.command} {self.path} {asked} -> {status}".replace("  ", " "))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, model: Model, first: int, end: int) -> None:
        pace = Pace(self.server.host.connection_bytes_per_s)
        for chunk in model.read(first, end):
            self.server.host.take_turn(len(chunk))
            pace.wait_for(len(chunk))
            self.wfile.write(chunk)


def _safetensors_head(size_bytes: int) -> bytes:
    """The header of a file of *size_bytes*: its length, little-endian, then JSON padded to that length."""
    room = 248
    tensor = {"dtype": "U8", "shape": [size_bytes - room - 8], "data_offsets": [0, size_bytes - room - 8]}
    if size_bytes < room + 8:
        raise ValueError(f"a model has at least {room + 8} bytes, not {size_bytes}")
    return room.to_bytes(8, "little") + json.dumps({"noise": tensor}).encode().ljust(room)
