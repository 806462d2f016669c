"""What people write as a file's address, as the URL that really serves the bytes. Pure.

Pages that show a file (a shared link, a repository's viewer) become the link that downloads it.
"""

from __future__ import annotations

import os
import re
from typing import Callable, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from ...contract.failures import Failure
from ...contract.plan import HubRepository

HF_HOME = "https://huggingface.co"
CIVITAI_HOSTS = ("civitai.com", "civitai.red", "civitai.green")


def listing_of(repository: HubRepository) -> str:
    """The URL that lists every file of *repository*."""
    return _listing(hub_endpoint(), repository.repo, repository.revision)


def _listing(endpoint: str, repo: str, revision: str) -> str:
    return _about(endpoint, repo, "tree", revision) + "?recursive=1"


def _about(endpoint: str, repo: str, what: str, revision: str) -> str:
    kind, _, name = repo.partition("/")
    where = f"{kind}/{name}" if kind in ("datasets", "spaces") else f"models/{repo}"
    return f"{endpoint}/api/{where}/{what}/{quote(revision, safe='')}"


class HubFile(NamedTuple):
    """A file in a repository of a model hub that speaks Hugging Face's language."""

    endpoint: str
    repo: str
    revision: str
    path: str

    @property
    def url(self) -> str:
        return f"{self.endpoint}/{self.repo}/resolve/{quote(self.revision, safe='')}/{quote(self.path)}"

    @property
    def listing(self) -> str:
        """The URL that lists every file of the repository at that revision."""
        return _listing(self.endpoint, self.repo, self.revision)

    @property
    def commit(self) -> str:
        """The URL that tells which commit the revision stands for now."""
        return _about(self.endpoint, self.repo, "revision", self.revision)


def hub_endpoint(environment: Optional[Mapping[str, str]] = None) -> str:
    """Where the hub is: ``HF_ENDPOINT``, or Hugging Face itself."""
    endpoint = (environment if environment is not None else os.environ).get("HF_ENDPOINT", "")
    return endpoint.rstrip("/") or HF_HOME


def hub_file(url: str) -> Optional[HubFile]:
    """The hub's file that *url* means (``hf://…`` or a resolve link), None for any other URL."""
    endpoint = hub_endpoint()
    short = re.fullmatch(r"hf://((?:datasets/|spaces/)?[^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", url)
    if short:
        return HubFile(endpoint, short[1], unquote(short[2] or "main"), unquote(short[3]))
    for prefix in {HF_HOME, endpoint}:
        if url.startswith(prefix + "/"):
            path = urlsplit(url).path[len(urlsplit(prefix).path) :]
            link = re.fullmatch(
                r"/((?:datasets/|spaces/)?[^/]+/[^/]+)/(?:resolve|blob|raw)/([^/]+)/(.+)", path
            )
            if link:
                return HubFile(endpoint, link[1], unquote(link[2]), unquote(link[3]))
    return None


def civitai_version(url: str) -> Optional[str]:
    """The model version that a Civitai download link or ``civitai:ID`` names, None for any other URL."""
    short = re.fullmatch(r"civitai:/{0,2}(\d+)", url)
    if short:
        return short[1]
    parts = urlsplit(url)
    link = re.fullmatch(r"/api/download/models/(\d+)/?", parts.path)
    return link[1] if link and (parts.hostname or "") in CIVITAI_HOSTS else None


def address_of(url: str) -> str:
    """The http, https or file URL that serves what *url* means.

    Raises:
        Failure: `not_found`, when it is written in no form that is known.
    """
    try:
        scheme = urlsplit(url).scheme
        better = next(filter(None, (rewrite(url) for rewrite in _REWRITES)), None)
    except ValueError:
        scheme, better = "", None
    if better is not None:
        return better
    if scheme not in ("http", "https", "file"):
        raise Failure(
            "not_found",
            f"`{url.split('?')[0]}` is in no form that is known",
            hint="write https://…, hf://OWNER/REPO/PATH, civitai:VERSION or file:///PATH",
        )
    return url


def _hub(url: str) -> Optional[str]:
    found = hub_file(url)
    return found.url if found else None


def _civitai(url: str) -> Optional[str]:
    if url.startswith("civitai:"):
        version = civitai_version(url)
        return f"https://civitai.com/api/download/models/{version}" if version else None
    return None


def _dropbox(url: str) -> Optional[str]:
    parts = urlsplit(url)
    if parts.hostname not in ("dropbox.com", "www.dropbox.com"):
        return None
    pairs = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in ("dl", "raw")]
    return urlunsplit(parts._replace(query=urlencode([*pairs, ("dl", "1")])))


def _drive(url: str) -> Optional[str]:
    parts = urlsplit(url)
    if parts.hostname not in ("drive.google.com", "docs.google.com"):
        return None
    in_path = re.match(r"/file/d/([\w-]+)", parts.path)
    number = in_path[1] if in_path else dict(parse_qsl(parts.query)).get("id")
    if not number:
        return None
    return f"https://drive.usercontent.google.com/download?id={number}&export=download&confirm=t"


def _github(url: str) -> Optional[str]:
    parts = urlsplit(url)
    viewer = re.fullmatch(r"(/[^/]+/[^/]+)/blob/(.+)", parts.path)
    if parts.hostname != "github.com" or not viewer:
        return None
    return urlunsplit(parts._replace(path=f"{viewer[1]}/raw/{viewer[2]}"))


_REWRITES = (_hub, _civitai, _dropbox, _drive, _github)
_Pattern = Tuple[str, Callable[[str], str]]
_DISPOSITION: List[_Pattern] = [
    (r"filename\*\s*=\s*utf-8''([^;\s]+)", lambda text: unquote(text)),
    (r'filename\s*=\s*"((?:[^"\\]|\\.)*)"', lambda text: re.sub(r"\\(.)", r"\1", text)),
    (r"filename\s*=\s*([^;\s]+)", lambda text: text),
]


def name_of(url: str, disposition: Optional[str]) -> str:
    """The file name that a server gives, or else the URL's last part.

    Raises:
        Failure: `unsafe_path`, for a name that is a path or that hides.
    """
    name = ""
    for pattern, decode in _DISPOSITION:
        match = re.search(pattern, disposition or "", re.I)
        if match:
            name = decode(match[1])
            break
    name = name or unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2])
    if not name or name.startswith(".") or re.search(r"[/\\\x00-\x1f\x7f]", name) or len(name.encode()) > 240:
        raise Failure(
            "unsafe_path",
            f"the server's file name {name[:80]!r} cannot be used",
            hint="give the item a `path` that ends in a file name",
        )
    return name
