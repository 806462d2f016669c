"""Civitai: download links by the number of a model version; its catalogue tells the hashes that the links do not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Mapping, Optional, Tuple
from urllib.parse import urlsplit

from ...contract.parsing import ParseError, parse, read_object
from .http import SHA256, Fetch, WebServer

CATALOGUE_BYTES = 8 << 20


@dataclass(frozen=True)
class _File:
    name: Optional[str] = None
    sizeKB: Optional[float] = None  # noqa: N815
    hashes: Optional[Mapping[str, object]] = None


@dataclass(frozen=True)
class _Version:
    files: Tuple[_File, ...] = ()


class Civitai(WebServer):
    """``civitai:VERSION`` and links of the site."""

    def address(self, url: str) -> Optional[str]:
        if not url.startswith("civitai:"):
            return super().address(url)
        version = version_of(url)
        return f"https://civitai.com/api/download/models/{version}" if version else None

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
    """The model version that ``civitai:ID`` or a download link of the site names; None for any other URL."""
    short = re.fullmatch(r"civitai:/{0,2}(\d+)", url)
    link = short or re.fullmatch(r"/api/download/models/(\d+)/?", urlsplit(url).path)
    return link[1] if link else None


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
