"""Where everything of a ComfyUI comes from when `comfyui.py` measures: repositories, wheels and models, from this machine.

A process of its own: what it costs is no peer's. It says where it serves as one line of JSON, and ends with its standard
input.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20


@dataclass(frozen=True)
class Node:
    """A repository of custom nodes: where it is kept, its folder, a class of it, the requirements that are its own."""

    owner: str
    name: str
    a_class: str | None
    requirements: str | None = "requirements.txt"

    @property
    def folder(self) -> str:
        return f"ComfyUI/custom_nodes/{self.name}"


COMFYUI = Node("Comfy-Org", "ComfyUI", "KSampler")
NODES = (
    Node("pythongosssss", "ComfyUI-Custom-Scripts", "ShowText|pysssss", None),
    Node("ltdrdata", "ComfyUI-Manager", None),
    Node("Kosinkadink", "ComfyUI-VideoHelperSuite", "VHS_VideoCombine"),
    Node("kijai", "ComfyUI-KJNodes", "GetImageSizeAndCount"),
    Node("kijai", "ComfyUI-WanVideoWrapper", "WanVideoModelLoader"),
    Node("city96", "ComfyUI-GGUF", "UnetLoaderGGUF"),
    Node("rgthree", "rgthree-comfy", "Power Lora Loader (rgthree)", None),
    Node("cubiq", "ComfyUI_essentials", "ImageResize+"),
    Node("Kosinkadink", "ComfyUI-AnimateDiff-Evolved", "ADE_LoadAnimateDiffModel", None),
    Node("Fannovel16", "ComfyUI-Frame-Interpolation", "FILM VFI", "requirements-no-cupy.txt"),
)


@dataclass(frozen=True)
class World:
    """Where it serves: URLs below which repositories, the index and the models are, and the models' hashes."""

    git: str
    index: str
    models: str
    hashes: dict[str, str]
    torch: str
    """Its version among the wheels."""


@contextmanager
def world(repositories: Path, wheels: Path, models_mib: list[int]) -> Iterator[World]:
    """The servers, in a process of their own.

    Args:
        repositories: A folder with ``OWNER+NAME/repo``, bare, for each of `NODES`.
        wheels: A folder of wheels; with none of its own the instance's own indexes are used.
        models_mib: Sizes of the models that are generated.
    """
    argv = [sys.executable, __file__, "--repositories", str(repositories), "--wheels", str(wheels)]
    argv += ["--models", *map(str, models_mib)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None and server.stdout is not None
        said = server.stdout.readline()
        if not said:
            raise SystemExit("the servers did not start: see above")
        try:
            yield World(**json.loads(said))
        finally:
            server.stdin.close()
            server.wait(timeout=10)


class _Index(BaseHTTPRequestHandler):
    """The wheels of a folder as a simple index, with their hashes, and their metadata beside them (PEP 658)."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        name = path.rpartition("/")[2].replace("%2B", "+")
        if path.startswith("simple/"):
            self._say(_page(self.folder, name), "text/html")
        elif name.endswith(".metadata"):
            self._say(_metadata(self.folder / name.removesuffix(".metadata")), "text/plain")
        else:
            self._send(self.folder / name)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _say(self, body: bytes, kind: str) -> None:
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _send(self, path: Path) -> None:
        if not path.is_file():
            self._say(b"", "text/plain")
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        first, end = 0, size
        if asked and asked[1]:
            first, end = int(asked[1]), min(size, int(asked[2] or size - 1) + 1)
        elif asked and asked[2]:
            first = max(0, size - int(asked[2]))
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(end - first))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size}"')
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.flush()
            with path.open("rb") as file:
                self.connection.sendfile(file, first, end - first)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _page(folder: Path, name: str) -> bytes:
    files = sorted(path for path in folder.glob("*.whl") if _normalised(path.name.split("-")[0]) == name)
    links = [
        f'<a href="/files/{path.name.replace("+", "%2B")}#sha256={_sha256(path)}" '
        f'data-core-metadata="true" data-dist-info-metadata="true">{path.name}</a><br>'
        for path in files
    ]
    return ("<!DOCTYPE html><html><body>" + "\n".join(links) + "</body></html>").encode() if links else b""


@cache
def _metadata(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        return archive.read(name)


@cache
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_origin(kept: Path, folder: Path) -> None:
    """A repository of one commit with the newest tree of *kept*, without the files that it lists and does not hold."""
    inside = folder / ".git"
    folder.mkdir()
    shutil.copytree(kept, inside)

    def git(*words: str, told: str = "") -> str:
        argv = ["git", f"--git-dir={inside}", "-c", "user.name=b", "-c", "user.email=b@localhost", *words]
        return subprocess.run(argv, input=told, check=True, capture_output=True, text=True).stdout

    entries = [line.split("\t") for line in git("ls-tree", "-r", "HEAD").splitlines()]
    blobs = {head.split()[2]: path for head, path in entries if head.split()[1] == "blob"}
    found = git("cat-file", "--batch-check", told="\n".join(blobs) + "\n").splitlines()
    absent = {line.split()[0] for line in found if line.endswith(" missing")}
    git("read-tree", "HEAD")
    gone = [path for head, path in entries if head.split()[2] in absent]
    if gone:
        git("update-index", "--index-info", told="".join(f"0 {'0' * 40}\t{path}\n" for path in gone))
        print(f"{folder.name}: {len(gone)} files are not in the clone and are left out", file=sys.stderr)
    branch = git("symbolic-ref", "HEAD").strip()
    commit = git("commit-tree", git("write-tree").strip(), "-m", "as it was fetched").strip()
    for name in ("shallow", "packed-refs"):  # what those lead to may not be there
        (inside / name).unlink(missing_ok=True)
    shutil.rmtree(inside / "refs")
    (inside / "refs" / "heads").mkdir(parents=True)
    git("update-ref", branch, commit)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repositories", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--models", type=int, nargs="*", default=[])
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from harness.content import Content
    from harness.file_server import FileServer
    from harness.git_server import GitServer

    with ExitStack() as stack:
        origins = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comfyui-origins-")))
        for each in (COMFYUI, *NODES):
            kept = options.repositories / f"{each.owner}+{each.name}" / "repo"
            if not kept.is_dir():
                raise SystemExit(
                    f"there is no {kept}: a bare clone of {each.owner}/{each.name} belongs there"
                )
            _make_origin(kept, origins / each.name)
        git = stack.enter_context(GitServer(str(origins)))
        for wheel in options.wheels.glob("*.whl"):
            _page(
                options.wheels, _normalised(wheel.name.split("-")[0])
            )  # hashed now, not while somebody waits
        handler = type("Index", (_Index,), {"folder": options.wheels})
        index = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=index.serve_forever, daemon=True).start()
        files = stack.enter_context(FileServer())
        hashes = {}
        for number, mib in enumerate(options.models):
            content = Content.safetensors(mib * MIB, seed=number)
            files.add(f"/model{number}.safetensors", content)
            hashes[f"model{number}.safetensors"] = content.sha256
        told = {
            "git": git.smart("").rstrip("/"),
            "index": f"http://127.0.0.1:{index.server_port}/simple",
            "models": files.url("").rstrip("/"),
            "hashes": hashes,
            "torch": max(path.name.split("-")[1] for path in options.wheels.glob("torch-*.whl")),
        }
        print(json.dumps(told), flush=True)
        while os.read(0, 4096):
            pass


if __name__ == "__main__":
    main()
