"""Hugging Face, and hubs that speak its language: names, revisions, listings, and why it refuses.

`HF_ENDPOINT` names another hub than Hugging Face itself. The listing tells size and sha256 of every large file.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Tuple
from urllib.parse import quote, unquote, urlsplit

from ...contract.failures import Failure
from ...contract.parsing import ParseError, kind_of, parse, read_json, read_object
from ...contract.plan_parts import HubRepository, repository_of
from ...contract.source_kinds import SOURCE_KINDS
from ..http import errors, fields
from ..http.request import Headers
from .answer import MOST_BYTES
from .http import SHA256, Fetch, WebServer
from .listing import ListedFile, Listing, Page

LISTING_BYTES = 8 << 20
HOME = "https://huggingface.co"
_TOKEN = "HF_TOKEN"  # noqa: S105  # its name
_ABSENT = {
    "RepoNotFound": "no_such_repository",
    "RevisionNotFound": "no_such_revision",
    "EntryNotFound": None,
}
"""The hub's own words for what is not there, with what to do."""
COMMIT = re.compile(r"[0-9a-f]{40}")


class HubFile(NamedTuple):
    """A file in a repository of a hub."""

    repo: str
    revision: str
    path: str

    @property
    def url(self) -> str:
        """The link that downloads it."""
        return f"{_endpoint()}/{self.repo}/resolve/{quote(self.revision, safe='')}/{quote(self.path)}"


@dataclass(frozen=True)
class _Large:
    oid: object = None
    size: object = None


@dataclass(frozen=True)
class _Entry:
    path: str
    type: str = "file"
    oid: object = None
    size: object = None
    lfs: Optional[_Large] = None


@dataclass(frozen=True)
class _Revision:
    sha: str


class HuggingFace(WebServer):
    """``hf://…`` and links of the hub."""

    def address(self, url: str) -> Optional[str]:
        file = hub_file(url)
        return file.url if file else super().address(url) if not url.startswith("hf:") else None

    def sha256_told(self, url: str, headers: Headers) -> Optional[str]:
        found = SHA256.fullmatch(headers.get("X-Linked-Etag") or "")
        if found is None and hub_file(url):
            found = SHA256.fullmatch(headers.get("ETag") or "")
        return found[1] if found else None

    def refusal(self, refused: errors.Refused, url: str, fetch: Fetch) -> Failure:
        code = refused.headers.get("X-Error-Code") or ""
        if refused.wants_a_wait:
            return errors.refusal(refused)
        if code == "GatedRepo":
            return _gated(refused)
        failure = errors.refusal(refused)
        if code in _ABSENT:
            failure = Failure("not_found", refused.message, case=_ABSENT[code], about={"token": _TOKEN})
            if code == "RepoNotFound" and refused.token:
                failure.advise("repository_hidden")
        nearest = (
            self._nearest(url, fetch) if failure.class_ == "not_found" and code != "RepoNotFound" else None
        )
        if nearest:
            failure.advise("did_you_mean", name=nearest)
        return failure

    def pinned(self, url: str, fetch: Fetch) -> Optional[str]:
        file = hub_file(url)
        if file is None or COMMIT.fullmatch(file.revision):
            return None
        about = fetch(about_url(file.repo, "revision", file.revision))
        try:
            return file._replace(revision=commit_of(about or b"")).url
        except ParseError:
            return None

    def listing(self, url: str) -> Optional[Listing]:
        repository = repository_of(url)
        if repository is None:
            return None
        return Listing(
            title=repository.repo,
            url=tree_url(repository.repo, repository.revision),
            folder=repository.folder,
            read=functools.partial(read_page, repository),
        )

    def _nearest(self, url: str, fetch: Fetch) -> Optional[str]:
        missing = hub_file(url)
        tree = fetch(tree_url(missing.repo, missing.revision)) if missing else None
        return did_you_mean(missing.path, tree) if missing and tree else None


def hub_file(url: str) -> Optional[HubFile]:
    """The hub's file that *url* means (``hf://…`` or a link of the hub), None for any other URL."""
    short = re.fullmatch(r"hf://((?:datasets/|spaces/)?[^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", url)
    if short:
        return HubFile(short[1], unquote(short[2] or "main"), unquote(short[3]))
    for prefix in {HOME, _endpoint()}:
        if url.startswith(prefix + "/"):
            path = urlsplit(url).path[len(urlsplit(prefix).path) :]
            link = re.fullmatch(
                r"/((?:datasets/|spaces/)?[^/]+/[^/]+)/(?:resolve|blob|raw)/([^/]+)/(.+)", path
            )
            if link:
                return HubFile(link[1], unquote(link[2]), unquote(link[3]))
    return None


def did_you_mean(missing: str, tree: bytes) -> Optional[str]:
    """The path in a repository's listing (*tree*, JSON) whose name is nearest to the one that is not there."""
    try:
        paths = [entry.path for entry in _entries(tree) if entry.type == "file"]
    except ParseError:
        return None
    name = missing.rpartition("/")[2]
    by_name: Dict[str, str] = {path.rpartition("/")[2]: path for path in paths}
    near = difflib.get_close_matches(missing, paths, 1, 0.6)
    same = [by_name[near_name] for near_name in difflib.get_close_matches(name, by_name, 1, 0.6)]
    candidates: List[Tuple[float, str]] = [
        (difflib.SequenceMatcher(None, path.rpartition("/")[2], name).ratio(), path) for path in near + same
    ]
    return max(candidates)[1] if candidates else None


def _endpoint() -> str:
    return SOURCE_KINDS["hugging_face"].endpoint(os.environ)


def commit_of(about: bytes) -> str:
    """The commit that *about*, the hub's answer about a revision (JSON), tells. Raises ParseError."""
    commit = parse(_Revision, read_object(about, max_bytes=LISTING_BYTES)).sha
    if not COMMIT.fullmatch(commit):
        raise ParseError("the hub's answer tells no commit")
    return commit


def tree_url(repo: str, revision: str) -> str:
    """The URL that lists every file of *repo*."""
    return about_url(repo, "tree", revision) + "?recursive=1"


def about_url(repo: str, what: str, revision: str) -> str:
    """The URL of *what* (``revision``, ``tree``) the hub tells of *repo* at *revision*."""
    kind, _, name = repo.partition("/")
    where = f"{kind}/{name}" if kind in ("datasets", "spaces") else f"models/{repo}"
    return f"{_endpoint()}/api/{where}/{what}/{quote(revision, safe='')}"


def _entries(tree: bytes) -> List[_Entry]:
    found = read_json(tree, max_bytes=LISTING_BYTES, what="the hub's listing")
    if not isinstance(found, list):
        raise ParseError(f"the hub's listing is {kind_of(found)}, not a list")
    return [parse(_Entry, entry, "the hub's listing") for entry in found]


def read_page(repository: HubRepository, page: bytes, headers: Headers) -> Page:
    """The files on one *page* of the listing of *repository*. Raises ParseError."""
    files = [_listed(repository, entry) for entry in _entries(page) if entry.type == "file"]
    following = re.search(r'<([^>]+)>;\s*rel="?next', headers.get("Link") or "")
    next_url = (
        fields.target(tree_url(repository.repo, repository.revision), following[1]) if following else None
    )
    return Page(tuple(files), next_url)


def _listed(repository: HubRepository, entry: _Entry) -> ListedFile:
    size = entry.lfs.size if entry.lfs else entry.size
    oid = str(entry.lfs.oid if entry.lfs else entry.oid).lower()
    return ListedFile(
        path=entry.path,
        url=HubFile(repository.repo, repository.revision, entry.path).url,
        size_bytes=size if type(size) is int and 0 <= size <= MOST_BYTES else None,
        sha256=oid if entry.lfs and SHA256.fullmatch(oid) else None,
        git_sha1=oid if not entry.lfs and COMMIT.fullmatch(oid) else None,
    )


def _gated(refused: errors.Refused) -> Failure:
    parts = urlsplit(refused.url)
    page = f"{parts.scheme}://{parts.netloc}{parts.path.partition('/resolve/')[0]}"
    case = "licence" if refused.token else "licence_and_token"
    return Failure(
        "gated", refused.message, case=case, about={"page": page, "token": refused.token or _TOKEN}
    )


KIND = HuggingFace()
