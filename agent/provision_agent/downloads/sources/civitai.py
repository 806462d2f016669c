"""Civitai: a model version has a number, which download links, pages and AIR names tell; its catalogue tells the hashes.

AIR is the site's way to name a model: https://github.com/civitai/civitai/wiki/AIR-%E2%80%90-Uniform-Resource-Names-for-AI
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Mapping, Optional, Tuple
from urllib.parse import parse_qsl, urlsplit

from ...contract.failures import Failure
from ...contract.parsing import ParseError, parse, read_object
from .answer import Chosen
from .http import SHA256, Fetch, WebServer

CATALOGUE_BYTES = 8 << 20

_SHORT = re.compile(r"civitai:/{0,2}(?:(?P<model>\d+)@)?(?P<version>\d+)", re.A)
_AIR = re.compile(
    r"(?:urn:)?air:[^:]*:[^:]*:civitai:(?P<model>\d+)(?:@(?P<version>\d+))?(?::[^.]*)?(?:\.\w+)?", re.A
)
_PAGE = re.compile(r"/models/(?P<model>\d+)(?:/[^/]*)?/?", re.A)
_OF_VERSION = re.compile(r"/(?:api/download/models|model-versions)/(?P<version>\d+)/?", re.A)


@dataclass(frozen=True)
class _File:
    name: Optional[str] = None
    sizeKB: Optional[float] = None  # noqa: N815
    hashes: Optional[Mapping[str, object]] = None


@dataclass(frozen=True)
class _Version:
    files: Tuple[_File, ...] = ()


@dataclass(frozen=True)
class _Listed:
    id: int
    name: Optional[str] = None
    publishedAt: Optional[str] = None  # noqa: N815
    createdAt: Optional[str] = None  # noqa: N815

    @property
    def since(self) -> str:
        """When it came out, so that text in order is in order."""
        return self.publishedAt or self.createdAt or ""


@dataclass(frozen=True)
class _Model:
    modelVersions: Tuple[_Listed, ...] = ()  # noqa: N815


class Civitai(WebServer):
    """``civitai:VERSION``, AIR names, and links of the site: its pages and its downloads."""

    def address(self, url: str) -> Optional[str]:
        version, model = _numbers(url)
        path = urlsplit(url).path
        if path.startswith("/api/") or (version is None and model is None):
            return super().address(url)
        site = f"https://{_site(url)}"
        return f"{site}/api/download/models/{version}" if version else f"{site}/models/{model}"

    def choose(self, url: str, fetch: Fetch) -> Optional[Chosen]:
        version, model = _numbers(url)
        if version or not model:
            return None
        site = _site(url)
        found = newest(fetch(f"https://{site}/api/v1/models/{model}") or b"")
        if found is None:
            message = f"{site} does not say which versions model {model} has"
            raise Failure("upstream_down", message, case="no_version", about={"url": url.split("?")[0]})
        named = f"{found.id}" + (f" ({found.name[:80]})" if found.name else "")
        note = f"names no version of model {model}: its newest is taken, {named}; `civitai:{found.id}` keeps to that"
        return Chosen(f"https://{site}/api/download/models/{found.id}", note)

    def pinned(self, url: str, fetch: Fetch) -> Optional[str]:
        try:
            chosen = self.choose(url, fetch)
        except Failure:
            return None
        return chosen.url if chosen is not None else None

    def sha256_listed(
        self, url: str, name: Optional[str], size_bytes: Optional[int], fetch: Fetch
    ) -> Optional[str]:
        version = version_of(url)
        if version is None:
            return None
        host = urlsplit(self.address(url) or "").hostname
        catalogue = fetch(f"https://{host}/api/v1/model-versions/{version}")
        return listed_sha256(catalogue, name, size_bytes) if catalogue else None


def version_of(url: str) -> Optional[str]:
    """The model version that *url* names, in whichever form; None where it names none."""
    return _numbers(url)[0]


def _numbers(url: str) -> Tuple[Optional[str], Optional[str]]:
    """The numbers of the version and of the model that *url* names."""
    parts = urlsplit(url)
    forms = (_SHORT.fullmatch(url), _AIR.fullmatch(url), _PAGE.fullmatch(parts.path))
    found = next(filter(None, (*forms, _OF_VERSION.fullmatch(parts.path))), None)
    if found is None:
        return None, None
    told = found.groupdict()
    asked = dict(parse_qsl(parts.query)).get("modelVersionId", "")
    return told.get("version") or (asked if re.fullmatch(r"[0-9]+", asked) else None), told.get("model")


def _site(url: str) -> str:
    host = urlsplit(url).hostname or "civitai.com"
    return host[len("www.") :] if host.startswith("www.") else host


def newest(catalogue: bytes) -> Optional[_Listed]:
    """The version that came out last, of a model's *catalogue*; None where that has none."""
    try:
        versions = parse(_Model, read_object(catalogue, max_bytes=CATALOGUE_BYTES)).modelVersions
    except ParseError:
        return None
    return max(versions, key=lambda each: each.since, default=None)


def listed_sha256(catalogue: bytes, name: Optional[str], size_bytes: Optional[int]) -> Optional[str]:
    """The sha256 of the one file in a model version's *catalogue* that has this name or about this size."""
    try:
        files = parse(_Version, read_object(catalogue, max_bytes=CATALOGUE_BYTES)).files
    except ParseError:
        return None  # the hash only makes an answer better
    by_name = [file for file in files if name and file.name == name]
    by_size = [
        file
        for file in files
        if size_bytes and file.sizeKB is not None and abs(file.sizeKB * 1024 - size_bytes) < 1024
    ]
    fitting = [file for file in by_size if file in by_name] or by_size
    told = (fitting[0].hashes or {}).get("SHA256") if len(fitting) == 1 else None
    found = SHA256.fullmatch(told.lower()) if isinstance(told, str) else None
    return found[1] if found else None


KIND = Civitai()
