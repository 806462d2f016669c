"""GitHub: the page that shows a file of a repository becomes the link that downloads it."""

from __future__ import annotations

import re
from typing import Optional
from urllib.parse import urlsplit, urlunsplit

from .http import WebServer


class GitHub(WebServer):
    """Files in repositories, and files of releases, whose links download as they are."""

    hides_what_is_private = True

    def address(self, url: str) -> Optional[str]:
        parts = urlsplit(url)
        viewer = re.fullmatch(r"(/[^/]+/[^/]+)/blob/(.+)", parts.path)
        if parts.hostname != "github.com" or not viewer:
            return super().address(url)
        return urlunsplit(parts._replace(path=f"{viewer[1]}/raw/{viewer[2]}"))


KIND = GitHub()
