"""A stand for each kind of source: servers under the real names, with one public file, one private, perhaps a listing.

The table of what a kind offers (`SourceKind.offers`, docs/PROFILE.md) is held against them, cell by cell. To add a
kind: its entry in `STANDS`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable  # noqa: UP035  (Python 3.8 has no other that can be written here)

from provision_agent.contract.buckets import SignedSource

from .content import Content
from .public_hosts import PAGE, Answer, Asked, Reply

MIB = 1 << 20
LONG_BYTES = 64 * 1024
"""An answer longer than this is no look-up."""
TOKEN = "token-hush-hush"
NAME = "m.safetensors"
CUT_AFTER = MIB


@functools.lru_cache(maxsize=8)
def content(seed: int = 1) -> Content:
    """What the stands serve; the first is `NAME`."""
    return Content.safetensors(4 * MIB, seed=seed)


@dataclass
class Storage:
    """Where the bytes are: behind signed addresses, or at one that stays."""

    host: str
    files: Mapping[str, bytes]
    expires: bool = False
    """A signed address dies in the middle of its first long answer."""
    cuts: int = 0
    """So many more long answers end in the middle."""
    status: int = 403
    """What a dead address answers."""
    headers: Mapping[str, str] = field(default_factory=dict)
    signed: int = 0
    is_wrong: bool = False
    """Sends other bytes than those of the file."""
    dead: set[str] = field(default_factory=set)

    def sign(self, name: str) -> str:
        """A fresh address of the file *name*."""
        self.signed += 1
        return f"https://{self.host}/{name}?X-Signature={self.signed}"

    def answer(self, asked: Asked, name: str) -> Reply:
        """The file *name*, as the state of things is."""
        signature = asked.query.get("X-Signature") or asked.query.get("X-Amz-Signature", "")
        if signature in self.dead:
            return Reply(self.status, b"<Error><Code>AccessDenied</Code></Error>")
        body = self.files[name]
        if self.is_wrong:
            body = body[:-16] + bytes(16)
        reply = Reply(body=body, has_ranges=True, headers={"ETag": f'"{name}"', **self.headers})
        if _length(asked, len(body)) <= LONG_BYTES:
            return reply
        if self.expires:
            self.dead.add(signature)
        elif self.cuts:
            self.cuts -= 1
        else:
            return reply
        return Reply(200, body, reply.headers, has_ranges=True, cut_after=CUT_AFTER)


@dataclass(frozen=True)
class Stand:
    """One kind's servers."""

    answer: Answer
    storage: Storage
    url: str
    private_url: str = ""
    secret: str = ""
    """The name of the secret that opens the private file: its value is `TOKEN`."""
    secret_hosts: tuple[str, ...] = ()
    many_url: str = ""
    many: Mapping[str, bytes] = field(default_factory=dict)
    """What the listing brings."""
    sign: Callable[[bool], list[SignedSource]] | None = None
    """Signs addresses of its files, with True of the private one too, as the user's machine does."""


def _length(asked: Asked, size: int) -> int:
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
    return size if span is None else int(span[2] or size - 1) - int(span[1]) + 1


def _files() -> dict[str, bytes]:
    return {NAME: content(1).bytes(), "private.safetensors": content(2).bytes()}


def _may(asked: Asked, name: str) -> bool:
    """May the sender see the file?"""
    return not name.startswith("private") or asked.headers.get("authorization") == f"Bearer {TOKEN}"


def web_server() -> Stand:
    """A web server that redirects to a storage with signed addresses, as most large sites do."""
    storage = Storage("storage.example.net", _files())

    def answer(asked: Asked) -> Reply:
        name = asked.path.rpartition("/")[2]
        if asked.host == storage.host:
            return storage.answer(asked, name)
        if not _may(asked, name):
            return Reply(401)
        return Reply(302, headers={"Location": storage.sign(name)})

    at = "https://files.example.org/"
    return Stand(answer, storage, at + NAME, at + "private.safetensors", "SITE_TOKEN", ("files.example.org",))


def hugging_face() -> Stand:
    """The hub: its listing and its ``resolve``, which tells the hash and redirects to a CDN for a while.

    References: https://huggingface.co/docs/hub/api, huggingface_hub `constants.HUGGINGFACE_HEADER_X_LINKED_ETAG`.
    """
    storage = Storage("cas-bridge.xethub.hf.co", _files())
    hashes = {NAME: content(1).sha256, "private.safetensors": content(2).sha256}

    def answer(asked: Asked) -> Reply:
        name = asked.path.rpartition("/")[2]
        if asked.host == storage.host:
            return storage.answer(asked, name)
        if asked.path == "/api/models/owner/repo/tree/main":
            size = len(storage.files[NAME])
            lfs = {"oid": hashes[NAME], "size": size}
            listed = [{"type": "file", "path": NAME, "size": size, "oid": "0" * 40, "lfs": lfs}]
            return Reply(body=json.dumps(listed).encode(), headers={"Content-Type": "application/json"})
        if not asked.path.startswith("/owner/repo/"):
            return Reply(401, headers={"X-Error-Code": "RepoNotFound"})
        if not asked.path.startswith("/owner/repo/resolve/main/"):
            return Reply(404, headers={"X-Error-Code": "RevisionNotFound"})
        if name not in hashes:
            return Reply(404, headers={"X-Error-Code": "EntryNotFound"})
        if not _may(asked, name):
            return Reply(401, headers={"X-Error-Code": "GatedRepo"})
        told = {"X-Linked-Etag": f'"{hashes[name]}"', "X-Repo-Commit": "0" * 40}
        return Reply(302, headers={"Location": storage.sign(name), **told})

    return Stand(
        answer,
        storage,
        f"hf://owner/repo/{NAME}",
        "hf://owner/repo/private.safetensors",
        "HF_TOKEN",
        ("huggingface.co",),
        "hf://owner/repo",
        {NAME: storage.files[NAME]},
    )


def civitai() -> Stand:
    """Downloads by version, which redirect to R2 for a while; the catalogue tells sizes and hashes.

    Reference: https://developer.civitai.com/docs/api/public-rest.
    """
    storage = Storage("r2.example.net", _files())
    versions = {"1": NAME, "2": "private.safetensors"}

    def answer(asked: Asked) -> Reply:
        last = asked.path.rpartition("/")[2]
        if asked.host == storage.host:
            return storage.answer(asked, last)
        name = versions.get(last, "")
        if name and asked.path == f"/api/v1/model-versions/{last}":
            size = len(storage.files[name]) / 1024
            told = {"SHA256": content(int(last)).sha256.upper()}
            listed = {"files": [{"name": name, "sizeKB": size, "hashes": told}]}
            return Reply(body=json.dumps(listed).encode(), headers={"Content-Type": "application/json"})
        if not name:
            return Reply(404)
        if not _may(asked, name):
            return Reply(401)
        return Reply(307, headers={"Location": storage.sign(name)})

    return Stand(answer, storage, "civitai:1", "civitai:2", "CIVITAI_TOKEN", ("civitai.com",))


def google_drive() -> Stand:
    """One address that stays and gives the file, with the time of its last change; see `public_hosts.google_drive`."""
    changed = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    storage = Storage("drive.usercontent.google.com", _files(), headers=changed)

    def answer(asked: Asked) -> Reply:
        if asked.host == storage.host and asked.query.get("confirm") == "t" and asked.query.get("id") == "ID":
            return storage.answer(asked, NAME)
        return Reply(body=b"<!DOCTYPE html><html><title>Google Drive</title></html>", headers=PAGE)

    return Stand(answer, storage, "https://drive.google.com/file/d/ID/view")


def dropbox() -> Stand:
    """Shared links, which redirect to an address that lives four hours; see `public_hosts.dropbox`."""
    storage = Storage("uc1.dl.dropboxusercontent.com", _files())

    def answer(asked: Asked) -> Reply:
        if asked.host == storage.host:
            return storage.answer(asked, NAME)
        if asked.query.get("dl") == "1":
            return Reply(302, headers={"Location": storage.sign(NAME)})
        return Reply(body=b"<!DOCTYPE html><html><title>Dropbox</title></html>", headers=PAGE)

    return Stand(answer, storage, f"https://www.dropbox.com/scl/fi/abc/{NAME}?rlkey=k&dl=0")


@dataclass
class GitHubReleases:
    """GitHub's API of releases, its public links, and the storage behind both, which lives five minutes.

    What is private is not found by who may not see it, and never by the public link. References:
    https://docs.github.com/en/rest/releases/releases#get-a-release-by-tag-name,
    https://docs.github.com/en/rest/releases/assets#get-a-release-asset ("set the Accept header to
    application/octet-stream"; a redirect or the file), and "rate limits for the REST API" for `limited`.
    """

    storage: Storage
    limited: bool = False
    """Who shows no token has used up his requests of this hour."""
    tag: str = "v1"

    def answer(self, asked: Asked) -> Reply:
        """What it answers."""
        name = asked.path.rpartition("/")[2]
        if asked.host == self.storage.host:
            return self.storage.answer(asked, name)
        path = asked.path.lstrip("/").split("/")
        if asked.host == "api.github.com":
            if self.limited and "authorization" not in asked.headers:
                return Reply(403, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Limit": "60"})
            return self._api(asked, path)
        is_link = path[:2] == ["owner", "repo"] and path[2:4] == ["releases", "download"]
        if is_link and path[4:] in ([self.tag, NAME], ["v2", NAME]):
            return Reply(302, headers={"Location": self.storage.sign(name)})
        return Reply(404)

    def _api(self, asked: Asked, path: list[str]) -> Reply:
        assets = {"repo": (11, NAME, 1), "private": (12, "private.safetensors", 2)}
        known = assets.get(path[2]) if path[:2] == ["repos", "owner"] else None
        if known is None or not _may(asked, path[2]):
            return Reply(404, b'{"message": "Not Found"}')
        number, name, seed = known
        if path[3:] == ["releases", "assets", str(number)]:
            if asked.headers.get("accept") != "application/octet-stream":
                return Reply(body=b'{"id": 1}', headers={"Content-Type": "application/json"})
            return Reply(302, headers={"Location": self.storage.sign(name)})
        tags = {"tags/" + self.tag: self.tag, "latest": "v2"}
        tag = tags.get("/".join(path[4:]), "")
        if path[3:] and not tag:
            return Reply(404, b'{"message": "Not Found"}')
        asset = {"id": number, "name": name, "digest": f"sha256:{content(seed).sha256}"}
        release = {
            "id": 1,
            "tag_name": tag,
            "assets": [asset, {"id": 13, "name": "notes.txt", "digest": None}],
        }
        return Reply(body=json.dumps(release).encode(), headers={"Content-Type": "application/json"})


def github() -> Stand:
    """Files of releases."""
    releases = GitHubReleases(Storage("release-assets.githubusercontent.com", _files()))
    return Stand(
        releases.answer,
        releases.storage,
        f"github://owner/repo@v1/{NAME}",
        "github://owner/private@v1/private.safetensors",
        "GITHUB_TOKEN",
        ("github.com", "api.github.com"),
    )


def bucket() -> Stand:
    """Objects of Google Cloud Storage at addresses that stay (https://cloud.google.com/storage/docs/xml-api/get-object-download)."""
    storage = Storage("storage.googleapis.com", _files())

    def answer(asked: Asked) -> Reply:
        name = asked.path.rpartition("/")[2]
        if name not in storage.files:
            return Reply(404)
        return storage.answer(asked, name) if _may(asked, name) else Reply(403)

    def listed(is_private: bool) -> list[SignedSource]:
        at = "https://storage.googleapis.com/models"
        return [
            SignedSource(f"gs://models/many/{name}", f"{at}/{name}", of="gs://models/many/")
            for name in storage.files
        ]

    return Stand(
        answer,
        storage,
        f"gs://models/{NAME}",
        "gs://models/private.safetensors",
        "BUCKET_TOKEN",
        ("storage.googleapis.com",),
        many_url="gs://models/many/",
        many={NAME: storage.files[NAME]},
        sign=lambda is_private: [each for each in listed(is_private) if "private" not in each.url],
    )


def s3() -> Stand:
    """Objects of an S3 store, by addresses that the user's machine signs
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/ShareObjectPreSignedURL.html)."""
    storage = Storage("models.s3.us-east-1.amazonaws.com", _files())

    def answer(asked: Asked) -> Reply:
        name = asked.path.rpartition("/")[2]
        if "X-Amz-Signature" not in asked.query or (
            name.startswith("private") and "p" not in asked.query["X-Amz-Signature"]
        ):
            return Reply(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        return storage.answer(asked, name)

    def sign(is_private: bool) -> list[SignedSource]:
        def signed(url: str, name: str, of: str = "") -> SignedSource:
            storage.signed += 1
            seal = f"{'p' if is_private else ''}{storage.signed}"
            address = f"https://{storage.host}/{name}?X-Amz-Signature={seal}"
            return SignedSource(url, address, sha256=hashlib.sha256(storage.files[name]).hexdigest(), of=of)

        return [
            *(signed(f"s3://models/{name}", name) for name in storage.files),
            signed(f"s3://models/many/{NAME}", NAME, "s3://models/many/"),
        ]

    return Stand(
        answer,
        storage,
        f"s3://models/{NAME}",
        "s3://models/private.safetensors",
        many_url="s3://models/many/",
        many={NAME: storage.files[NAME]},
        sign=sign,
    )


STANDS: dict[str, Callable[[], Stand]] = {
    "http": web_server,
    "hugging_face": hugging_face,
    "civitai": civitai,
    "google_drive": google_drive,
    "dropbox": dropbox,
    "github": github,
    "bucket": bucket,
    "s3": s3,
}
"""Every kind but `local`, which has no server."""

HOSTS = (
    "files.example.org",
    "storage.example.net",
    "huggingface.co",
    "cas-bridge.xethub.hf.co",
    "civitai.com",
    "r2.example.net",
    "drive.google.com",
    "drive.usercontent.google.com",
    "www.dropbox.com",
    "uc1.dl.dropboxusercontent.com",
    "github.com",
    "api.github.com",
    "release-assets.githubusercontent.com",
    "storage.googleapis.com",
    "models.s3.us-east-1.amazonaws.com",
)
"""For the certificate of all."""
