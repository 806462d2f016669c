"""A real HTTP(S) file server on loopback that serves honestly until it is told to misbehave.

It counts what it really sent and remembers every request, so a test can say what was fetched twice, how many
connections there were, and where a token went.

    with FileServer() as server:
        server.add("/a.safetensors", Content.safetensors(5 << 20), Fault(reset_after=1 << 20, times=1))
        fetch(server.url("/a.safetensors"))
        assert server.bytes_sent("/a.safetensors") < 7 << 20

As a program it serves the files of a folder, for benchmarks: ``python -m harness.file_server --directory D``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from .content import Content, FileContent

__all__ = ["Content", "Fault", "FileContent", "FileServer", "Request", "make_certificate"]

SLICE = 1 << 18


@dataclass
class Fault:
    """One way to misbehave. A path may have several; each request meets the first that fits and is not used up.

    A fault that needs a body longer than the one asked for (`stall_after` and its kin) leaves the request alone.
    """

    times: int | None = None
    """How many requests it hits; None: all."""
    skip: int = 0
    """How many fitting requests it lets pass first."""
    min_length: int = 0
    """Leaves requests for fewer bytes alone, such as a lookup of a file's size."""
    methods: tuple[str, ...] = ("GET", "HEAD")
    unless_header: tuple[str, str] | None = None
    """Leaves requests that carry exactly this header alone: ``("Authorization", "Bearer x")``."""

    status: int | None = None
    """Answer this, with `body`, instead of the file."""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    """Added to the answer, honest or not."""
    redirect: str | Callable[[], str] | None = None
    content: Content | None = None
    """Send this content instead."""
    etag: str | None = None
    delay_s: float = 0.0
    """Wait before the answer."""
    silent: bool = False
    """Read the request and never answer."""
    stall_after: int | None = None
    """Send so many bytes of the body, then nothing more, and keep the connection open."""
    reset_after: int | None = None
    """Send so many bytes of the body, then a TCP reset."""
    end_after: int | None = None
    """Send so many bytes of the body, then close as if that were all."""
    slow_after: int | None = None
    """Send so many bytes at full speed, the rest at `bytes_per_s`."""
    bytes_per_s: int | None = None
    ignore_range: bool = False
    hide_length: bool = False
    """No Content-Length: the end of the connection is the end of the file."""
    chunked: bool = False

    def _needs(self) -> int:
        cuts = (self.stall_after, self.reset_after, self.end_after, self.slow_after)
        return max([self.min_length] + [cut + 1 for cut in cuts if cut is not None])


@dataclass(frozen=True)
class Request:
    """What a client asked for. Header names are lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class _Route:
    content: Content
    faults: list[Fault]
    etag: str | None
    content_type: str
    headers: dict[str, str]
    bytes_sent: int = 0
    active: int = 0
    peak: int = 0


class FileServer:
    """Serves what `add` gave it, from its own threads, until `close`. Everything may be changed while it runs.

    Args:
        host: The loopback address (or name) to listen on; ``127.0.0.2`` and ``::1`` make other hosts.
        certificate: A PEM file with key and certificate: serve https.
        bytes_per_s: Cap of every connection.
        line_bytes_per_s: Cap of all connections together.
        latency_s: Wait before every answer.
        connect_s: Wait after every accept.
        max_connections: More requests at once than this are answered 503.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        certificate: str | None = None,
        bytes_per_s: int | None = None,
        line_bytes_per_s: int | None = None,
        latency_s: float = 0.0,
        connect_s: float = 0.0,
        max_connections: int | None = None,
        port: int = 0,
    ) -> None:
        self.host = host
        self.scheme = "https" if certificate else "http"
        self.bytes_per_s = bytes_per_s
        self.line_bytes_per_s = line_bytes_per_s
        self.latency_s = latency_s
        self.connect_s = connect_s
        self.max_connections = max_connections
        self.requests: list[Request] = []
        self.connections_opened = 0
        self.peak_connections = 0
        self.stopping = threading.Event()
        self._active = 0
        self._line_free_at = 0.0
        self._routes: dict[str, _Route] = {}
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None
        if certificate:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        self._server = _Listener((host, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str, *, host: str | None = None) -> str:
        """The URL of *path*; *host* names the same server by another name, such as ``localhost``."""
        host = host or self.host
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}{path}"

    def add(
        self,
        path: str,
        content: Content,
        *faults: Fault,
        etag: str | None = "auto",
        content_type: str = "application/octet-stream",
        headers: dict[str, str] | None = None,
    ) -> str:
        """Serve *content* at *path*, replacing what was there (its counters too). Returns the URL.

        Args:
            path: Without a query; a query in the request is ignored.
            etag: ``auto`` makes one from the content's size and identity; None sends none.
        """
        tag = f'"{content.size:x}-{id(content):x}"' if etag == "auto" else etag
        with self._lock:
            self._routes[path] = _Route(content, list(faults), tag, content_type, headers or {})
        return self.url(path)

    def add_signed(self, path: str, content: Content, *, uses: int, host: str | None = None) -> str:
        """Serve *content* behind a redirect to a URL that answers *uses* requests and then 403.

        Returns:
            The URL that redirects, each time to a fresh signed one on *host*.
        """
        made: list[str] = []

        def sign() -> str:
            signed = f"/signed/{len(made)}{path}"
            made.append(signed)
            self.add(signed, content, Fault(status=403, skip=uses, body=b"expired"), etag='"signed"')
            return self.url(signed, host=host) + "?X-Signature=hush"

        return self.add(path, content, Fault(redirect=sign))

    def add_hub(self, repo: str, files: Mapping[str, Content]) -> None:
        """Serve *files* as the repository *repo* of a model hub, by the protocol of Hugging Face, at one commit."""
        commit = "0123456789abcdef" * 2 + "01234567"
        siblings = [{"rfilename": name} for name in files]
        tree = [
            {"type": "file", "path": name, "size": each.size, "oid": each.sha256[:40]}
            for name, each in files.items()
        ]
        for revision in ("main", commit):
            api = {"revision": {"id": repo, "sha": commit, "siblings": siblings}, "tree": tree}
            for what, answer in api.items():
                self.add(f"/api/models/{repo}/{what}/{revision}", Content.of(json.dumps(answer).encode()))
            for name, content in files.items():
                tag = f'"{content.sha256}"'
                headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(content.size), "X-Linked-Etag": tag}
                self.add(f"/{repo}/resolve/{revision}/{name}", content, etag=tag, headers=headers)

    def set_faults(self, path: str, *faults: Fault) -> None:
        """Replace the faults of *path*; none heals it."""
        with self._lock:
            self._routes[path].faults = list(faults)

    def bytes_sent(self, path: str | None = None) -> int:
        """Body bytes that really went out, of one path or of all."""
        with self._lock:
            return sum(
                route.bytes_sent for name, route in self._routes.items() if path is None or name == path
            )

    def peak(self, path: str) -> int:
        """The most requests for *path* that were being answered at one time."""
        with self._lock:
            return self._routes[path].peak

    def seen(self, path: str, method: str | None = None) -> list[Request]:
        """Every request for *path* so far."""
        with self._lock:
            return [r for r in self.requests if r.path == path and method in (None, r.method)]

    def close(self) -> None:
        """Stop at once: stalled answers end, connections are closed."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._server.shutdown()
            self._server.end_connections()
            self._server.server_close()
            self._thread.join(5)

    def __enter__(self) -> FileServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take(self, request: Request, length_of: Callable[[Content], int]) -> tuple[_Route | None, Fault]:
        """Record the request; its route and the fault that it meets (an empty one if none)."""
        with self._lock:
            self.requests.append(request)
            route = self._routes.get(request.path)
            if route is None:
                return None, Fault(status=404, body=b"no such file")
            for fault in route.faults:
                fits = (
                    fault.times != 0
                    and request.method in fault.methods
                    and length_of(fault.content or route.content) >= fault._needs()
                    and not _has_header(request, fault.unless_header)
                )
                if fits and fault.skip > 0:
                    fault.skip -= 1
                elif fits:
                    if fault.times is not None:
                        fault.times -= 1
                    return route, fault
            return route, Fault()

    @contextmanager
    def _answering(self, route: _Route | None) -> Iterator[bool]:
        """Count an answer in progress; False when it is one too many."""
        with self._lock:
            self._active += 1
            self.peak_connections = max(self.peak_connections, self._active)
            if route is not None:
                route.active += 1
                route.peak = max(route.peak, route.active)
            allowed = self.max_connections is None or self._active <= self.max_connections
        try:
            yield allowed
        finally:
            with self._lock:
                self._active -= 1
                if route is not None:
                    route.active -= 1

    def _turn_on_the_line(self, count: int) -> float:
        """When *count* bytes may leave."""
        if self.line_bytes_per_s is None:
            return 0.0
        with self._lock:
            self._line_free_at = max(time.monotonic(), self._line_free_at) + count / self.line_bytes_per_s
            return self._line_free_at

    def _sent(self, route: _Route, count: int) -> None:
        with self._lock:
            route.bytes_sent += count


def make_certificate(directory: str, *names: str) -> str:
    """Make a self-signed CA certificate for *names* (hosts or addresses) with the openssl program.

    Returns:
        Path of a PEM file with key and certificate: a server's `certificate`, and a client's ``SSL_CERT_FILE``.
    """
    path = os.path.join(directory, "certificate.pem")
    kinds = [f"{'IP' if re.fullmatch(r'[0-9.]+|.*:.*', name) else 'DNS'}:{name}" for name in names]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    argv += ["-addext", f"subjectAltName={','.join(kinds)}", "-keyout", path + ".key", "-out", path + ".crt"]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    with open(path, "wb") as whole:
        for part in (".key", ".crt"):
            with open(path + part, "rb") as piece:
                whole.write(piece.read())
    return path


def issue_certificate(directory: str, *names: str) -> tuple[str, str]:
    """Make an authority, and a certificate of it for *names*, which serves clients as well as servers.

    Returns:
        The authority's certificate, and a PEM file with key and certificate of the other.
    """
    authority, own = os.path.join(directory, "authority"), os.path.join(directory, "own")
    kinds = [f"{'IP' if re.fullmatch(r'[0-9.]+|.*:.*', name) else 'DNS'}:{name}" for name in names]
    with open(f"{own}.ext", "w") as file:
        file.write(f"subjectAltName={','.join(kinds)}\nextendedKeyUsage=serverAuth,clientAuth\n")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    sign = ["openssl", "x509", "-req", "-days", "2", "-CAcreateserial", "-extfile", f"{own}.ext"]
    for argv in (
        [
            *new,
            "-x509",
            "-days",
            "2",
            "-subj",
            "/CN=authority",
            "-keyout",
            f"{authority}.key",
            "-out",
            f"{authority}.crt",
        ],
        [*new, "-subj", "/CN=test", "-keyout", f"{own}.key", "-out", f"{own}.csr"],
        [
            *sign,
            "-CA",
            f"{authority}.crt",
            "-CAkey",
            f"{authority}.key",
            "-in",
            f"{own}.csr",
            "-out",
            f"{own}.crt",
        ],
    ):
        subprocess.run(argv, check=True, capture_output=True, timeout=30)
    with open(f"{own}.pem", "wb") as whole:
        for part in (f"{own}.key", f"{own}.crt"):
            with open(part, "rb") as piece:
                whole.write(piece.read())
    return f"{authority}.crt", f"{own}.pem"


def _has_header(request: Request, header: tuple[str, str] | None) -> bool:
    return header is not None and request.headers.get(header[0].lower()) == header[1]


class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], owner: FileServer) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)

    def end_connections(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def setup(self) -> None:
        owner = self.server.owner
        with owner._lock:
            owner.connections_opened += 1
        owner.stopping.wait(owner.connect_s)
        if owner._tls is not None:
            self.request.settimeout(30)
            self.request = owner._tls.wrap_socket(self.request, server_side=True)
        self._free_at = 0.0
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            pass
        self.request.close()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        owner = self.server.owner
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, url.path, url.query, headers)

        def wanted(content: Content) -> tuple[int, int]:
            return _range(request.range, content.size) or (0, content.size)

        route, fault = owner._take(request, lambda content: wanted(content)[1] - wanted(content)[0])
        with owner._answering(route) as allowed:
            if owner.stopping.wait(owner.latency_s + fault.delay_s) or fault.silent:
                owner.stopping.wait(120)
                self.close_connection = True
            elif not allowed:
                self._say(503, b"too many connections", {})
            elif fault.redirect is not None:
                target = fault.redirect if isinstance(fault.redirect, str) else fault.redirect()
                self._say(302, b"elsewhere", {"Location": target, **fault.headers})
            elif fault.status is not None or route is None:
                self._say(fault.status or 404, fault.body, fault.headers)
            else:
                self._send_file(route, fault, request)

    def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, route: _Route, fault: Fault, request: Request) -> None:
        content = fault.content or route.content
        span = None if fault.ignore_range else _range(request.range, content.size)
        if span is not None and span[0] >= span[1]:
            return self._say(416, b"", {"Content-Range": f"bytes */{content.size}"})
        first, end = span or (0, content.size)
        self.send_response(200 if span is None else 206)
        if span is not None:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{content.size}")
        etag = fault.etag or route.etag
        fields = {"Content-Type": route.content_type, "ETag": etag, **route.headers, **fault.headers}
        for name, value in fields.items():
            if value is not None:
                self.send_header(name, value)
        if fault.hide_length:
            self.close_connection = True
        elif fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(end - first))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(route, fault, content, first, end)
        return None

    def _send_body(self, route: _Route, fault: Fault, content: Content, first: int, end: int) -> None:
        cut = next(
            (c for c in (fault.stall_after, fault.reset_after, fault.end_after) if c is not None), None
        )
        stop = end if cut is None else first + cut
        at = first
        while at < stop and not self.server.owner.stopping.is_set():
            cap = fault.bytes_per_s or self.server.owner.bytes_per_s  # asked anew: a test may lift it
            slow = cap is not None and at - first >= (fault.slow_after or 0)
            at += self._send_slice(route, fault, content, at, stop, cap if slow else None)
        if fault.chunked and at == end:
            self.wfile.write(b"0\r\n\r\n")
        if fault.stall_after is not None:
            self.server.owner.stopping.wait(120)
        if fault.reset_after is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = self.close_connection or cut is not None

    def _send_slice(
        self, route: _Route, fault: Fault, content: Content, at: int, stop: int, cap: int | None
    ) -> int:
        length = min(stop - at, SLICE if cap is None else max(1, min(SLICE, cap // 20)))
        free_at = self.server.owner._turn_on_the_line(length)
        if cap is not None:
            # a throttled connection earns nothing while it idles, unlike a bucket that fills
            self._free_at = max(time.monotonic(), self._free_at) + length / cap
            free_at = max(free_at, self._free_at)
        if free_at:
            self.server.owner.stopping.wait(max(0.0, free_at - time.monotonic()))
        if isinstance(content, FileContent) and self.server.owner._tls is None:
            count = os.sendfile(self.connection.fileno(), content.descriptor, at, length)
        else:
            piece = content.read(at, length)
            count = len(piece)
            if fault.chunked:
                piece = memoryview(b"%x\r\n%s\r\n" % (count, bytes(piece)))
            self.connection.sendall(piece)
        self.server.owner._sent(route, count)
        return count


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """``bytes=a-b`` as (first, end); an empty span for one that begins behind the end; None for no range."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if match is None:
        return None
    first = int(match[1])
    return first, max(first, min(size, int(match[2]) + 1 if match[2] else size)) if first < size else first


class _Fragile(FileServer):
    """Every connection has next to nothing while there are more of them than it stands."""

    def __init__(self, stands: int, bytes_per_s: int | None, **options: Any) -> None:
        self._stands, self._usual = stands, bytes_per_s
        super().__init__(bytes_per_s=bytes_per_s, **options)

    @property
    def bytes_per_s(self) -> int | None:
        return self._usual if self._active <= self._stands else 64 * 1024

    @bytes_per_s.setter
    def bytes_per_s(self, value: int | None) -> None:
        self._usual = value


def main() -> None:
    """Serve a folder until standard input ends; says ``{"port": N}`` first.

    Every line on standard input arms the faults anew, which is answered by an empty line.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", required=True)
    parser.add_argument("--certificate")
    parser.add_argument("--bytes-per-s", type=int)
    parser.add_argument("--line-bytes-per-s", type=int)
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--connect-s", type=float, default=0.0)
    parser.add_argument("--hub", metavar="REPO", help="serve the files as a hub's repository, too")
    parser.add_argument("--bucket", help="serve the files as objects of a bucket, too")
    parser.add_argument("--fault", type=json.loads, help="of every file, as JSON: the fields of `Fault`")
    parser.add_argument("--stands", type=int, help="with more connections than this it breaks down")
    options = parser.parse_args()
    make = FileServer if options.stands is None else functools.partial(_Fragile, options.stands)
    with make(
        certificate=options.certificate,
        bytes_per_s=options.bytes_per_s,
        line_bytes_per_s=options.line_bytes_per_s,
        latency_s=options.latency_s,
        connect_s=options.connect_s,
    ) as server:
        names = sorted(os.listdir(options.directory))
        contents = {name: FileContent(os.path.join(options.directory, name)) for name in names}
        for name, content in contents.items():
            server.add("/" + name, content)
        if options.hub:
            server.add_hub(options.hub, contents)
        if options.bucket:
            server.add(f"/{options.bucket}", Content(1))
            for name, content in contents.items():
                server.add(f"/{options.bucket}/{name}", content)
        print(json.dumps({"port": server.port}), flush=True)
        while os.read(0, 4096):
            for name in names if options.fault else ():
                server.set_faults("/" + name, Fault(**options.fault))
            print(flush=True)


if __name__ == "__main__":
    main()
