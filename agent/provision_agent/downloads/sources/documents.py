"""Small documents of sources, such as catalogues: each is asked for once in a run, whoever wants it."""

from __future__ import annotations

import threading
import time
from typing import Callable, Dict, Optional, Tuple

from ...contract.failures import Failure
from ..http import request
from .http import Document

SMALL_BYTES = 8 << 20
"""The most that is read of a listing or a catalogue."""
SMALL_WITHIN_S = 10.0
CONNECT_S = 5.0
KEPT_BYTES = 256 << 10
"""A longer one is asked for again."""
KEPT_MOST = 256

Open = Callable[[str, float], Tuple[request.Response, Optional[str]]]
"""Asks a URL until a deadline: the answer, and the name of the secret that went along."""


class Documents:
    """Those of one run. Safe to use from any thread.

    Args:
        open_url: Asks for one, with the token of its host where that is wanted.
    """

    def __init__(self, open_url: Open) -> None:
        self._open = open_url
        self._kept: Dict[str, Document] = {}
        self._asking: Dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def until(self, deadline: float) -> _Fetcher:
        """Gets documents until *deadline* on the monotonic clock."""
        return _Fetcher(self, deadline)

    def get(self, url: str, deadline: float) -> Document:
        """The document at *url*; it only makes an answer better, so why there is none raises nothing."""
        with self._lock:
            turn = self._asking.setdefault(url, threading.Lock())
        if not turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return Document(0)
        try:
            if url not in self._kept:
                found = self._fetched(url, min(deadline, time.monotonic() + SMALL_WITHIN_S))
                if found.status != 200 or len(found.body) > KEPT_BYTES or len(self._kept) >= KEPT_MOST:
                    return found
                self._kept[url] = found
            return self._kept[url]
        finally:
            turn.release()

    def _fetched(self, url: str, deadline: float) -> Document:
        try:
            response, token = self._open(url, deadline)
        except Failure:
            return Document(0)
        try:
            body = response.read(SMALL_BYTES, SMALL_WITHIN_S) if response.status == 200 else b""
            return Document(response.status, body, token)
        except Failure:
            return Document(0)
        finally:
            response.close()


class _Fetcher:
    """A `Fetch`."""

    def __init__(self, documents: Documents, deadline: float) -> None:
        self._documents, self._deadline = documents, deadline

    def __call__(self, url: str) -> Optional[bytes]:
        found = self.ask(url)
        return found.body if found.status == 200 else None

    def ask(self, url: str) -> Document:
        return self._documents.get(url, self._deadline)
