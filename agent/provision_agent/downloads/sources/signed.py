"""Addresses that the user's machine signed for this run, in this process's memory; and which of them have stopped working.

One process does one run, so there is one of these in it: whoever knows the URL of a plan finds its address here.
"""

from __future__ import annotations

import threading
from typing import Dict, List, Optional, Sequence
from urllib.parse import parse_qs, urlsplit

from ...contract.buckets import SignedSource, hidden_parts
from ...contract.failures import Failure
from .listing import ListedFile


class SignedAddresses:
    """By the URLs of the plan, and of what was listed below its prefixes. Safe to use from any thread."""

    def __init__(self) -> None:
        self._sources: Dict[str, SignedSource] = {}
        self._stale: Dict[str, str] = {}
        """By URL the address that does not work any more."""
        self._hidden: Dict[str, str] = {}
        self._lock = threading.Lock()

    def take(self, sources: Sequence[SignedSource]) -> None:
        """Use *sources* from now on, in place of older ones of the same URLs."""
        with self._lock:
            for source in sources:
                self._sources[source.url] = source
                self._stale.pop(source.url, None)
            self._hidden.update(hidden_parts(sources))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._sources.clear()
            self._stale.clear()
            self._hidden.clear()

    def address_of(self, url: str) -> Optional[str]:
        """The address of *url*; None when nobody has signed one. Raises the Failure that there is in place of one."""
        source = self.find(url)
        if source is not None and source.failure is not None:
            raise source.failure
        return source.address or None if source is not None else None

    def find(self, url: str) -> Optional[SignedSource]:
        """What came for *url*."""
        with self._lock:
            return self._sources.get(url)

    def files_of(self, prefix: str) -> List[ListedFile]:
        """What was listed below *prefix*. Raises the Failure that there is in place of it."""
        self.address_of(prefix)
        with self._lock:
            below = [source for source in self._sources.values() if source.of == prefix]
        if not below:
            raise unsigned(prefix)
        return [
            ListedFile(source.url.split("/", 3)[3], source.url, source.size_bytes, source.sha256)
            for source in below
        ]

    def spoil(self, url: str, address: str) -> bool:
        """*address* of *url* does not work any more; False when it is not the one in use, or nobody signed it."""
        with self._lock:
            source = self._sources.get(url)
            if source is None or not source.address or _seal_of(address) is None:
                return False
            if _seal_of(source.address) == _seal_of(address):
                self._stale[url] = source.address
            return True

    def is_stale(self, url: str) -> bool:
        """Has the address of *url* stopped working, and has no other come since?"""
        with self._lock:
            return url in self._stale

    @property
    def hidden(self) -> Dict[str, str]:
        """What must never be written anywhere, by a name for people."""
        with self._lock:
            return dict(self._hidden)


def unsigned(url: str) -> Failure:
    """Nobody has signed an address of *url*."""
    return Failure("unauthorized", f"no address of {url} was signed for this run", case="bucket_unsigned")


def _seal_of(address: str) -> Optional[str]:
    found = parse_qs(urlsplit(address).query).get("X-Amz-Signature")
    return found[0] if found else None


SIGNED = SignedAddresses()
