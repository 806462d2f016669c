"""One request to a service of this machine: without proxies, credentials or redirects; bounded in time and size."""

from __future__ import annotations

import http.client
import time
from typing import Optional, Tuple
from urllib.parse import SplitResult

ANSWER_S = 5.0
MAX_ANSWER_BYTES = 4 << 20


def ask(
    url: SplitResult,
    *,
    body: Optional[bytes] = None,
    within_s: float = ANSWER_S,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> Tuple[int, bytes]:
    """GET *url*, or POST *body* as JSON to it; the status and what was answered, cut at *max_bytes*.

    Raises:
        OSError: no answer, or none within *within_s*.
        http.client.HTTPException: what came is no answer.
    """
    end = time.monotonic() + within_s
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "localhost", port_of(url), timeout=within_s)
    try:
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        headers = {"Accept": "application/json, */*"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request("GET" if body is None else "POST", target, body=body, headers=headers)
        response = connection.getresponse()
        found = b""
        while len(found) < max_bytes:
            chunk = response.read1(65536)
            if not chunk:
                break
            found += chunk
            if time.monotonic() > end:
                raise OSError("the answer takes too long")
        return response.status, found
    finally:
        connection.close()


def port_of(url: SplitResult) -> int:
    """The port that *url* names or means."""
    return url.port or (443 if url.scheme == "https" else 80)
