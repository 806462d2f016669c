"""Stand-ins for public hosts, under their real names: each behaves as its reference says that the real one does.

`PublicHosts` is one HTTPS server that answers for every name it has a certificate for, and is reached as a proxy:
a client that tunnels to ``drive.google.com:443`` speaks with it.

    with PublicHosts(certificate, google_drive({"ID": content})) as hosts:
        monkeypatch.setenv("https_proxy", hosts.proxy)
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable  # noqa: UP035  (Python 3.8 has no other that can be written here)
from urllib.parse import parse_qs, quote, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request."""

    host: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""


@dataclass(frozen=True)
class Reply:
    """One answer. Header values may be bytes, as no library would write them."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str | bytes | list[str]] = field(default_factory=dict)
    has_ranges: bool = False
    cut_after: int | None = None
    """So many bytes of the body, then the end of the connection."""


Answer = Callable[[Asked], Reply]
PAGE = {"Content-Type": "text/html; charset=utf-8"}


class PublicHosts:
    """Answers on loopback, in plain HTTP as well as through its own tunnels, until `close`.

    Args:
        has_heads: HEAD is answered, too; else it is refused, as some hosts do.
    """

    def __init__(self, answer: Answer, certificate: str | None = None, *, has_heads: bool = False) -> None:
        self.asked: list[Asked] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner, self._server.answer, self._server.tls = self, answer, None
        self._server.has_heads = has_heads
        if certificate:
            self._server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._server.tls.load_cert_chain(certificate)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def proxy(self) -> str:
        """What `https_proxy` is set to."""
        return self.url("")

    def url(self, path: str) -> str:
        """The plain URL of *path*."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def __enter__(self) -> PublicHosts:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: PublicHosts
    answer: Answer
    tls: ssl.SSLContext | None
    has_heads: bool

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may go at any moment."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        assert self.server.tls is not None
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        except OSError:
            self.close_connection = True
            return
        self.rfile.close()
        self.wfile.close()
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def finish(self) -> None:
        for each in (self.rfile, self.wfile, self.connection):
            try:
                each.close()
            except OSError:
                pass  # the client has gone

    def do_HEAD(self) -> None:
        if self.server.has_heads:
            self.do_GET()
        else:
            self.send_error(501, "Unsupported method ('HEAD')")

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        asked = Asked(headers.get("host", "").partition(":")[0], parts.path, query, headers)
        self.server.owner.asked.append(asked)
        reply = self.server.answer(asked)
        status, body, extra = reply.status, reply.body, dict(reply.headers)
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if reply.has_ranges and span:
            first, last = int(span[1]), min(int(span[2] or len(body)), len(body) - 1)
            extra["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            status, body = 206, body[first : last + 1]
        lines = [f"HTTP/1.1 {status} x".encode(), b"Content-Length: %d" % len(body)]
        for name, given in extra.items():
            values = given if isinstance(given, list) else [given]
            raw = (value if isinstance(value, bytes) else value.encode() for value in values)
            lines += [name.encode() + b": " + value for value in raw]
        self.wfile.write(
            b"\r\n".join([*lines, b"", b""]) + (b"" if self.command == "HEAD" else body[: reply.cut_after])
        )
        self.close_connection = self.close_connection or len(body) > len(body[: reply.cut_after])


def utf8_redirects(body: bytes, path: str = "/模型 慅é.safetensors") -> Answer:
    """``/get`` redirects to *path* as raw UTF-8, blanks and all; ``/latin`` to raw Latin-1.

    Reference: WHATWG Fetch, "location URL": the value is decoded as UTF-8 and percent-encoded by the URL parser
    (https://fetch.spec.whatwg.org/#concept-response-location-url); curl percent-encodes each byte as it came.
    """
    places = {"/get": path.encode(), "/latin": "/caf\xe9.safetensors".encode("latin-1")}

    def answer(asked: Asked) -> Reply:
        if asked.path in places:
            return Reply(302, headers={"Location": places[asked.path]})
        if asked.path in [quote(place) for place in places.values()]:
            return Reply(body=body, has_ranges=True)
        return Reply(404)

    return answer


def cookie_gate(body: bytes, elsewhere: str = "") -> Answer:
    """``/file`` sets two cookies and redirects to ``/gate``, which gives the file to who brings both back, each time.

    Reference: RFC 6265 §5.3 and §5.4 (cookies are kept from any answer, redirects too); PHP sites and GitHub's and
    SharePoint's "visit this first" redirects do so.

    Args:
        elsewhere: A URL on another origin that ``/away`` redirects to, with a cookie set on the way.
    """

    def answer(asked: Asked) -> Reply:
        cookies = set(asked.headers.get("cookie", "").split("; "))
        if asked.path == "/file":
            cookie = ["session=abc; Path=/; HttpOnly", "old=1", "old=; Max-Age=0", "seen=yes; Secure=false"]
            return Reply(302, headers={"Location": "/gate", "Set-Cookie": cookie})
        if asked.path == "/away":
            return Reply(302, headers={"Location": elsewhere, "Set-Cookie": "session=abc"})
        if asked.path == "/gate" and cookies == {"session=abc", "seen=yes"}:
            return Reply(body=body, has_ranges=True)
        return Reply(403, b"who are you?")

    return answer


def gzip_always(files: Mapping[str, bytes], *, coding: str = "gzip", has_ranges: bool = False) -> Answer:
    """Sends every file compressed, whatever the client accepts.

    Reference: nginx, ngx_http_gzip_static_module: ``gzip_static always`` uses the compressed file "in all cases,
    without checking if the client supports it" (https://nginx.org/en/docs/http/ngx_http_gzip_static_module.html).

    Args:
        files: By path. Of a name in ``.gz`` the bytes go as they are, with the header all the same, as Apache's
            ``AddEncoding x-gzip .gz`` has it.
        has_ranges: Of what is compressed; such a server exists as well.
    """

    def answer(asked: Asked) -> Reply:
        if asked.path not in files:
            return Reply(404)
        body = files[asked.path] if asked.path.endswith(".gz") else gzip.compress(files[asked.path])
        return Reply(body=body, headers={"Content-Encoding": coding, "ETag": '"abc"'}, has_ranges=has_ranges)

    return answer


def made_on_the_fly(start: bytes) -> Answer:
    """No ranges, and no two answers of one length.

    Reference: archives that are made for each request, such as GitHub's of a branch, have no promise about their bytes
    (https://docs.github.com/en/repositories/working-with-files/using-files/downloading-source-code-archives#stability-of-source-code-archives).
    """
    lengths = itertools.count(1)
    return lambda asked: Reply(body=start + b"x" * (1000 * next(lengths)))


def google_drive(files: Mapping[str, bytes], keys: Mapping[str, str] | None = None) -> Answer:
    """Shared files of any size, at the one address that gives them; everything else is a page.

    References: a large file is given only with ``confirm``, else the page about viruses comes (wkentaro/gdown,
    gdown/download.py); files with a resource key (*keys*) only with it
    (https://developers.google.com/workspace/drive/api/guides/resource-keys).
    """

    def answer(asked: Asked) -> Reply:
        number = asked.query.get("id", "")
        is_asked_for = asked.host == "drive.usercontent.google.com" and asked.path in ("/download", "/uc")
        has_key = asked.query.get("resourcekey") == (keys or {}).get(number)
        if is_asked_for and asked.query.get("confirm") == "t" and number in files and has_key:
            name = {"Content-Disposition": 'attachment; filename="m.safetensors"'}
            return Reply(body=files[number], headers=name, has_ranges=True)
        return Reply(body=b"<!DOCTYPE html><html><title>Google Drive</title></html>", headers=PAGE)

    return answer


def dropbox(files: Mapping[str, bytes]) -> Answer:
    """Shared links: a page, but the file with ``dl=1``, by way of a host that serves it.

    Reference: https://help.dropbox.com/share/force-download.
    """

    def answer(asked: Asked) -> Reply:
        if asked.path not in files:
            return Reply(404)
        if asked.host == "dl.dropboxusercontent.com":
            return Reply(body=files[asked.path], has_ranges=True)
        if asked.query.get("dl") == "1":
            key = f"?rlkey={asked.query['rlkey']}" if "rlkey" in asked.query else ""
            return Reply(302, headers={"Location": f"https://dl.dropboxusercontent.com{asked.path}{key}"})
        return Reply(body=b"<!DOCTYPE html><html><title>Dropbox</title></html>", headers=PAGE)

    return answer


def civitai(versions: Mapping[str, bytes], model: str = "497255") -> Answer:
    """One model with these *versions*, the oldest first here, the newest first in the catalogue.

    Reference: https://developer.civitai.com/docs/api/public-rest (GET /api/v1/models/:modelId, and downloads by
    ``/api/download/models/:modelVersionId``, which redirect to a signed address of the storage).
    """
    days = {version: f"2024-01-{day:02}T00:00:00.000Z" for day, version in enumerate(versions, 1)}
    listed = [{"id": int(v), "name": f"v{v}", "publishedAt": days[v], "files": []} for v in versions]
    catalogue = json.dumps({"id": int(model), "modelVersions": [*reversed(listed)]}).encode()

    def answer(asked: Asked) -> Reply:
        version = asked.path.rpartition("/")[2]
        if asked.host == "r2.example.net":
            return Reply(body=versions[version], has_ranges=True)
        if asked.path == f"/api/v1/models/{model}":
            return Reply(body=catalogue, headers={"Content-Type": "application/json"})
        if asked.path == f"/api/download/models/{version}" and version in versions:
            return Reply(
                307, headers={"Location": f"https://r2.example.net/model/{version}?X-Amz-Signature=1"}
            )
        if asked.path.startswith("/models/"):
            return Reply(body=b"<!DOCTYPE html><html><title>Civitai</title></html>", headers=PAGE)
        return Reply(404, b"{}", {"Content-Type": "application/json"})

    return answer
