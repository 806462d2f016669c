"""Dropbox: the page that shows a shared file becomes the link that downloads it."""

from __future__ import annotations

from typing import Optional
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from .http import WebServer


class Dropbox(WebServer):
    """Shared links."""

    def address(self, url: str) -> Optional[str]:
        parts = urlsplit(url)
        if parts.hostname not in ("dropbox.com", "www.dropbox.com"):
            return super().address(url)
        pairs = [
            pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in ("dl", "raw")
        ]
        return urlunsplit(parts._replace(query=urlencode([*pairs, ("dl", "1")])))


KIND = Dropbox()
