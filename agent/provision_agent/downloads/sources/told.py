"""What the header of an answer tells of the whole file."""

from __future__ import annotations

from typing import Dict, Optional, Tuple
from urllib.parse import urlsplit

from ...contract.failures import Failure
from ..http import fields, request
from .answer import MOST_BYTES


def range_header(span: Optional[Tuple[int, Optional[int]]]) -> Dict[str, str]:
    """The header that asks for *span*; its last position is inclusive on the wire."""
    if span is None:
        return {}
    return {"Range": f"bytes={span[0]}-{'' if span[1] is None else span[1] - 1}"}


def size_of(response: request.Response) -> Optional[int]:
    """The whole file's length, as a 200, 206 or 416 tells it; raises as `sane_size`."""
    if response.is_inflated:
        return None  # what is told is the length of what comes over the line
    told = fields.whole_size(response.headers.get("Content-Range"))
    if told is not None:
        return sane_size(told, response.url)
    if response.status != 200 or response.remaining is None:
        return None
    return sane_size(str(response.remaining), response.url)


def sane_size(digits: str, url: str) -> int:
    """The number of bytes that a source tells.

    Raises:
        Failure: `size`, when no file is that large: the source is not to be believed.
    """
    size = fields.number(digits)
    if size is None or size > MOST_BYTES:
        host, most = urlsplit(url).hostname or url, fields.MOST_DIGITS
        told = digits if len(digits) <= most else f"{digits[:most]}… ({len(digits)} digits)"
        raise Failure(
            "size",
            f"{host} says that the file has {told} bytes: no file is that large",
            case="size_lie",
        )
    return size


def validator_of(headers: request.Headers) -> Optional[str]:
    """What tells this content from a later one; weak ETags promise too little."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
