"""Google Drive: the page that shows a shared file becomes the link that downloads it, whatever its size."""

from __future__ import annotations

import re
from typing import Optional
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from .http import WebServer

SERVES = "drive.usercontent.google.com"
"""Large files only with ``confirm=t``, the word that the page about viruses adds."""


class GoogleDrive(WebServer):
    """Shared links, with the account (``/u/1``) or the organisation (``/a/example.org``) that the address bar shows.

    A file that was shared before 2021 has a ``resourcekey`` as well, without which it is not given.
    """

    def address(self, url: str) -> Optional[str]:
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query))
        in_path = re.match(r"(?:/a/[^/]+|/u/\d+)?/file/(?:u/\d+/)?d/([\w-]+)", parts.path)
        number = in_path[1] if in_path else given.get("id")
        if parts.hostname == SERVES and number:
            return urlunsplit(
                parts._replace(query=urlencode({**given, "export": "download", "confirm": "t"}))
            )
        if parts.hostname not in ("drive.google.com", "docs.google.com") or not number:
            return super().address(url)
        wanted = {"id": number, "export": "download", "confirm": "t"}
        if given.get("resourcekey"):
            wanted["resourcekey"] = given["resourcekey"]
        return f"https://{SERVES}/download?{urlencode(wanted)}"


KIND = GoogleDrive()
