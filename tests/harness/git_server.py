"""git repositories made for a test, and a server that serves them over HTTP on loopback.

The smart half is git's own ``http-backend``; the dumb half serves the files as they are. `statuses` refuses, and every
request is remembered.
"""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_WHO = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(folder: str, *arguments: str) -> str:
    """Run git in *folder*; what it wrote."""
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=folder,
        env={**os.environ, **_WHO},
        check=True,
        capture_output=True,
        timeout=20,
    )
    return done.stdout.decode().strip()


class Origin:
    """A repository at *path* to be cloned, with the branch ``main``."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(path)
        git(path, "init", "--quiet", "--initial-branch=main")

    @property
    def url(self) -> str:
        """For a clone without a server."""
        return f"file://{self.path}"

    def commit(self, files: Mapping[str, str]) -> str:
        """Write *files*, commit them; the commit."""
        for name, content in files.items():
            full = os.path.join(self.path, name)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as file:
                file.write(content)
        git(self.path, "add", "--all")
        git(self.path, "commit", "--quiet", "--message=change")
        git(self.path, "update-server-info")
        return git(self.path, "rev-parse", "HEAD")

    def tag(self, name: str) -> None:
        """An annotated tag: it is an object of its own, not the commit."""
        git(self.path, "tag", "--annotate", name, "--message", name)


class GitServer:
    """Serve the repositories below *root* while entered: ``/smart/<name>`` and ``/dumb/<name>``.

    Args:
        certificate: A PEM file with key and certificate: serve https.
        password: What everybody must log in with.
    """

    def __init__(self, root: str, *, certificate: str = "", password: str = "") -> None:
        self.logins: list[str] = []
        self._password = password
        self.requests: list[str] = []
        self.statuses: dict[str, int] = {}
        self._root = root
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self)

            def do_POST(self) -> None:
                server._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "https" if certificate else "http"
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    def __enter__(self) -> GitServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no more connections."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_port)

    def smart(self, name: str) -> str:
        """The URL that git's own backend answers."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/smart/{name}"

    def dumb(self, name: str) -> str:
        """The URL under which the files lie as they are: no shallow fetch, no single commit."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/dumb/{name}"

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        length = int(request.headers.get("Content-Length") or 0)
        body = (
            _chunked(request)
            if request.headers.get("Transfer-Encoding") == "chunked"
            else request.rfile.read(length)
        )
        if self._password and not self._knows(request):
            _reply(request, 401, b"", {"WWW-Authenticate": 'Basic realm="git"'})
            return
        kind, _, rest = request.path.lstrip("/").partition("/")
        refusal = next(
            (code for start, code in self.statuses.items() if request.path.startswith(start)), None
        )
        if refusal is not None:
            _reply(request, refusal, b"")
        elif kind == "smart":
            self._run_backend(request, rest, body)
        else:
            name, _, path = rest.partition("?")[0].partition("/")
            self._send_file(request, os.path.join(self._root, name, ".git", path))

    def _knows(self, request: BaseHTTPRequestHandler) -> bool:
        kind, _, pair = (request.headers.get("Authorization") or "").partition(" ")
        user, _, password = base64.b64decode(pair).decode().partition(":")
        self.logins += [user] if user else []
        return kind == "Basic" and password == self._password

    def _send_file(self, request: BaseHTTPRequestHandler, path: str) -> None:
        if os.path.isfile(path):
            with open(path, "rb") as file:
                _reply(request, 200, file.read())
        else:
            _reply(request, 404, b"")

    def _run_backend(self, request: BaseHTTPRequestHandler, rest: str, body: bytes) -> None:
        path, _, query = rest.partition("?")
        name, _, inside = path.partition("/")
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": self._root,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": f"/{name}/.git/{inside}",
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            timeout=20,
        )
        head, _, payload = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        _reply(request, int(headers.pop("Status", "200").split()[0]), payload, headers)


def _chunked(request: BaseHTTPRequestHandler) -> bytes:
    body = b""
    while True:
        size = int(request.rfile.readline(), 16)
        body += request.rfile.read(size)
        request.rfile.readline()
        if not size:
            return body


def _reply(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
