"""A model hub on a `FileServer`, as its own client library expects it: the API, and ``resolve`` with its headers.

References: https://huggingface.co/docs/hub/api (revision, tree), huggingface_hub `file_download.get_hf_file_metadata`
(X-Repo-Commit, X-Linked-Etag and X-Linked-Size of large files, else ETag is what git calls the content).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from .content import Content
from .file_server import Fault, FileServer

COMMIT = "0123456789abcdef" * 2 + "01234567"
LARGE = (".safetensors", ".bin", ".gguf")


def git_sha1(body: bytes) -> str:
    """What git calls *body*."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def etag_of(name: str, body: bytes) -> str:
    """How the hub and its cache call the content of the file *name*."""
    return hashlib.sha256(body).hexdigest() if name.endswith(LARGE) else git_sha1(body)


def add_repository(
    server: FileServer, repo: str, files: Mapping[str, bytes], *, commit: str = COMMIT, branch: str = "main"
) -> None:
    """Serve *files* as the repository *repo*; large ones by way of another path, as the hub's CDN is one."""
    tree: list[dict[str, object]] = []
    for name, body in files.items():
        entry = {"type": "file", "path": name, "size": len(body), "oid": git_sha1(body)}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": etag_of(name, body), "size": len(body), "pointerSize": 134}
        tree.append(entry)
        for revision in (branch, commit):
            path, headers = f"/{repo}/resolve/{revision}/{name}", {"X-Repo-Commit": commit}
            tag, content = f'"{etag_of(name, body)}"', Content.of(body)
            if name.endswith(LARGE):
                headers.update({"X-Linked-Etag": tag, "X-Linked-Size": str(len(body))})
                place = f"/cdn/{etag_of(name, body)}"
                server.add(place, content, etag=tag)
                elsewhere = server.url(
                    place, host="localhost"
                )  # a client stops at another host to read the headers
                server.add(path, content, Fault(redirect=elsewhere, headers=headers))
            else:
                server.add(path, content, etag=tag, headers=headers)
    about = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
    for revision in (branch, commit):
        for what, answer in (("revision", about), ("tree", tree)):
            body = json.dumps(answer).encode()
            server.add(
                f"/api/models/{repo}/{what}/{revision}", Content.of(body), content_type="application/json"
            )
