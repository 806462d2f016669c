"""Google Drive: the page that shows a shared file becomes the link that downloads it, whatever its size."""

from __future__ import annotations

import re
from typing import Optional
from urllib.parse import parse_qsl, urlsplit

from .http import WebServer


class GoogleDrive(WebServer):
    """Shared links."""

    def address(self, url: str) -> Optional[str]:
        parts = urlsplit(url)
        in_path = re.match(r"/file/d/([\w-]+)", parts.path)
        number = in_path[1] if in_path else dict(parse_qsl(parts.query)).get("id")
        if parts.hostname not in ("drive.google.com", "docs.google.com") or not number:
            return super().address(url)
        return f"https://drive.usercontent.google.com/download?id={number}&export=download&confirm=t"


KIND = GoogleDrive()
