"""A place that lists its files: a repository of a model hub, say."""

from __future__ import annotations

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from ...contract.parsing import ParseError
from ...contract.plan import Download
from ..http.request import Headers


class ListedFile(NamedTuple):
    """One file of a listing, with what the listing tells of it."""

    path: str
    """In the whole place, with folders."""
    url: str
    size_bytes: Optional[int] = None
    sha256: Optional[str] = None
    git_sha1: Optional[str] = None
    """Its name as git knows content, where it has no other hash."""


class Page(NamedTuple):
    """One page of a listing, and the URL of the next one; None: it was the last."""

    files: Tuple[ListedFile, ...]
    next_url: Optional[str] = None


def _no_pages(page: bytes, headers: Headers) -> Page:
    raise ParseError("this place has no pages")


class Listing(NamedTuple):
    """How the files of a place are found out."""

    title: str
    """The place, as people know it."""
    url: str
    """Of the first page."""
    folder: str
    """What is wanted of it: all below this, which is empty or ends with ``/``."""
    read: Callable[[bytes, Headers], Page] = _no_pages
    """Reads one page, given its bytes and the answer's header; raises `ParseError`."""
    at_hand: Optional[Callable[[], Sequence[ListedFile]]] = None
    """Its files, where somebody listed them before; raises `Failure`. None: it is asked for, page by page."""
    items: Optional[Callable[[Download, Sequence[ListedFile]], List[Download]]] = None
    """What becomes of an item and those of the files that it wants; None: each is an item under its own name."""
