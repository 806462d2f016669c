"""A package index on loopback with tiny wheels made to order.

It speaks the "simple" API, can hold several indexes side by side (``/simple/``, ``/whl/cu124/``, …), refuses what it is
told to refuse, and remembers every request. A wheel is a real one: pip and uv install it like any other.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import socket
import ssl
import stat
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_PIECE = 64 << 10
FAKE_TORCH = """
import os, types
__version__ = {version!r}
version = types.SimpleNamespace(cuda={cuda!r})
cuda = types.SimpleNamespace(
    is_available=lambda: bool({cuda!r} and os.environ.get("FAKE_GPU")), get_arch_list=lambda: ["sm_80"]
)

class Tensor:
    def __init__(self, value, shape):
        self.value, self.shape = value, shape
    def __matmul__(self, other):
        return Tensor(self.value * other.value * self.shape[1], (self.shape[0], other.shape[1]))
    def __getitem__(self, index):
        return Tensor(self.value, self.shape[1:]) if len(self.shape) > 1 else self.value

def ones(shape, device="cpu"):
    if device == "cuda" and not cuda.is_available():
        raise RuntimeError("no CUDA device")
    return Tensor(1.0, shape)
"""


def wheel(
    name: str, version: str, files: Mapping[str, str], requires: Sequence[str] = ()
) -> tuple[str, bytes]:
    """The file name and the bytes of a pure wheel that holds *files* by their path in site-packages."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    contents = dict(files)
    contents[f"{stem}.dist-info/METADATA"] = metadata
    contents[f"{stem}.dist-info/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = ""
    for path, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    contents[f"{stem}.dist-info/RECORD"] = record + f"{stem}.dist-info/RECORD,,\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, text in contents.items():
            entry = zipfile.ZipInfo(path)
            mode = 0o755 if ".data/scripts/" in path else 0o644
            entry.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(entry, text)
    return f"{stem}-py3-none-any.whl", out.getvalue()


def _metadata(data: bytes) -> bytes:
    """What the wheel *data* says of itself."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _told_of_metadata(data: bytes) -> str:
    """That they can be had by themselves; nothing of what is no wheel."""
    is_wheel = zipfile.is_zipfile(io.BytesIO(data))
    return f' data-core-metadata="sha256={_sha256(_metadata(data))}"' if is_wheel else ""


class PackageIndex:
    """Serve while entered. `statuses` maps the beginning of a path to the status that it is refused with.

    Args:
        certificate: A PEM file with key and certificate: serve https.
        clients: A PEM file: only clients with a certificate that it vouches for are served.
        login: ``user:password``, without which everything is refused.
        is_modern: As the large indexes are: it tells hashes, serves ranges, and the metadata of wheels by itself.
    """

    def __init__(
        self, *, certificate: str = "", clients: str = "", login: str = "", is_modern: bool = False
    ) -> None:
        self.statuses: dict[str, int] = {}
        self._is_modern = is_modern
        self.wheel_bytes: dict[str, int] = {}
        """How many bytes of each wheel were sent, by its file name."""
        self.hashes_told: dict[str, str] = {}
        """What a modern index says of a wheel's sha256 where that is not the truth, by its file name."""
        self.bytes_per_s = 0
        """So fast one connection brings wheels; 0: as fast as it can."""
        self._certificate, self._clients, self._login = certificate, clients, login
        self.requests: list[str] = []
        self._wheels: dict[str, dict[str, dict[str, bytes]]] = {}
        self._server: ThreadingHTTPServer | None = None
        self._counting = threading.Lock()

    def __enter__(self) -> PackageIndex:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    index._answer(self)
                except OSError:
                    pass  # whoever asked is gone

            def do_HEAD(self) -> None:
                index._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self._certificate:
            self._server.socket = self._tls().wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def _tls(self) -> ssl.SSLContext:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self._certificate)
        if self._clients:
            tls.load_verify_locations(self._clients)
            tls.verify_mode = ssl.CERT_REQUIRED
        return tls

    @property
    def url(self) -> str:
        """Of the usual index."""
        return f"{self.base}/simple"

    @property
    def environment(self) -> dict[str, str]:
        """What makes pip and uv use this index and no other, whatever the machine has configured."""
        return {
            "PIP_INDEX_URL": self.url,
            "PIP_FIND_LINKS": "",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_CONFIG_FILE": "/dev/null",
        }

    @property
    def base(self) -> str:
        """Below it are the indexes by name."""
        assert self._server is not None
        # by name where it is https: the pip that comes with Python 3.13 cannot check an address
        place = "https://localhost" if self._certificate else "http://127.0.0.1"
        return f"{place}:{self._server.server_port}"

    def add(
        self,
        name: str,
        version: str,
        *,
        files: Mapping[str, str] | None = None,
        requires: Sequence[str] = (),
        index: str = "simple",
    ) -> None:
        """Offer a package; without *files* it is one module with the package's name."""
        module = f"{name.replace('-', '_')}/__init__.py"
        contents = {module: f"__version__ = {version!r}\n"} if files is None else files
        file_name, data = wheel(name, version, contents, requires)
        self._wheels.setdefault(index, {}).setdefault(name, {})[file_name] = data

    def offer(self, file_name: str, data: bytes, *, index: str = "simple") -> None:
        """Offer *data* as a wheel, whatever it is."""
        name = file_name.partition("-")[0].replace("_", "-")
        self._wheels.setdefault(index, {}).setdefault(name, {})[file_name] = data

    def offered(self, name: str, version: str, *, index: str = "simple") -> tuple[str, str]:
        """The address and the hash (sha256) of the wheel of a version."""
        files = self._wheels[index][name]
        file = next(file for file in files if file.startswith(f"{name}-{version}-"))
        return f"{self.base}/{index}/{name}/{file}", hashlib.sha256(files[file]).hexdigest()

    def withdraw(self, name: str, *, index: str = "simple") -> None:
        """Offer no version of a package any more."""
        del self._wheels[index][name]

    def add_torch(self, version: str, *, index: str = "simple", requires: Sequence[str] = ()) -> None:
        """Offer a torch whose local version (``+cpu``, ``+cu124``) decides whether it uses the GPU of ``FAKE_GPU``."""
        tag = version.partition("+")[2]
        cuda = f"{tag[2:-1]}.{tag[-1]}" if tag.startswith("cu") else None
        source = FAKE_TORCH.format(version=version, cuda=cuda)
        self.add("torch", version, files={"torch/__init__.py": source}, requires=requires, index=index)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        refusal = next(
            (code for start, code in self.statuses.items() if request.path.startswith(start)), None
        )
        if self._login:
            wanted = "Basic " + base64.b64encode(self._login.encode()).decode()
            refusal = None if request.headers.get("Authorization") == wanted else 401
        # whoever takes it for a proxy names the whole URL
        body = None if refusal is not None else self._body(urlsplit(request.path).path)
        status = refusal or (404 if body is None else 200)
        whole = len(body or b"")
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if status == 200 and body is not None and self._is_modern and span is not None:
            start, end = int(span[1]), min(int(span[2] or whole - 1) + 1, whole)
            status, body = (206, body[start:end]) if start < whole else (416, b"")
        name = unquote(urlsplit(request.path).path.rpartition("/")[2])
        if status in (200, 206) and request.command == "GET" and name.endswith(".whl"):
            with self._counting:
                self.wheel_bytes[name] = self.wheel_bytes.get(name, 0) + len(body or b"")
        request.send_response(status)
        if self._is_modern:
            request.send_header("Accept-Ranges", "bytes")
            request.send_header("ETag", f'"{whole}-{name}"')
        if status in (206, 416):
            place = f"{start}-{end - 1}" if status == 206 else "*"
            request.send_header("Content-Range", f"bytes {place}/{whole}")
        if refusal == 401:
            request.send_header("WWW-Authenticate", "Basic")
        request.send_header("Content-Type", "text/html" if request.path.endswith("/") else "application/zip")
        request.send_header("Content-Length", str(len(body or b"")))
        request.end_headers()
        if request.command != "GET":
            return
        if not self.bytes_per_s or not name.endswith(".whl"):
            request.wfile.write(body or b"")
            return
        with self._counting:
            self.wheel_bytes[name] -= len(body or b"")
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)
        for start in range(0, len(body or b""), _PIECE):
            piece = (body or b"")[start : start + _PIECE]
            request.wfile.write(piece)
            with self._counting:
                self.wheel_bytes[name] += len(piece)
            time.sleep(len(piece) / (self.bytes_per_s or 1 << 40))

    def _body(self, path: str) -> bytes | None:
        """What is at *path*: ``/<index>/<package>/`` lists a package's wheels, one segment more is a wheel."""
        parts = path.strip("/").split("/")
        is_list = path.endswith("/")
        index, name = ("/".join(parts[:-1]), parts[-1]) if is_list else ("/".join(parts[:-2]), parts[-2])
        files = self._wheels.get(index, {}).get(name)
        if files is None or not is_list:
            file = parts[-1].replace("%2B", "+")
            if self._is_modern and file.endswith(".metadata"):
                data = (files or {}).get(file[: -len(".metadata")])
                return None if data is None else _metadata(data)
            return (files or {}).get(file)
        if self._is_modern:
            links = [
                f'<a href="/{index}/{name}/{file}#sha256={self.hashes_told.get(file, _sha256(data))}"'
                f"{_told_of_metadata(data)}>{file}</a>"
                for file, data in files.items()
            ]
        else:
            links = [f'<a href="/{index}/{name}/{file}">{file}</a>' for file in files]
        return ("<!DOCTYPE html>\n" + "\n".join(links)).encode()
