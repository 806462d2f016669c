"""Any web server. Every other kind of source is a web server that does some of this otherwise."""

from __future__ import annotations

import re
from typing import Callable, Optional
from urllib.parse import unquote, urlsplit

from ...contract.failures import Failure
from ..http import errors
from ..http.request import Headers
from .answer import Answer
from .listing import Listing

Fetch = Callable[[str], Optional[bytes]]
"""Gets a small document of a source; None when it cannot be had."""
SHA256 = re.compile(r'"?([0-9a-f]{64})"?')

_DISPOSITION = (
    (r"filename\*\s*=\s*utf-8''([^;\s]+)", unquote),
    (r'filename\s*=\s*"((?:[^"\\]|\\.)*)"', lambda text: re.sub(r"\\(.)", r"\1", text)),
    (r"filename\s*=\s*([^;\s]+)", str),
)


class WebServer:
    """What a kind of source is asked. A place that has expired is asked for anew by the address that is written."""

    def address(self, url: str) -> Optional[str]:
        """The http, https or file URL that serves what *url* means; None when it means no file.

        Raises:
            ValueError: it is no URL.
        """
        return url if urlsplit(url).hostname else None

    hides_what_is_private = False
    """It says *not found*, and not *unauthorized*, to those that may not see a file."""

    def at_hand(self, url: str, address: str) -> Optional[Answer]:
        """What is to be said of the file where that takes no network; None where it does."""
        return None

    def name(self, address: str, disposition: Optional[str]) -> str:
        """The file's name: the one that the server gives in ``Content-Disposition``, or else the address's last part.

        Raises:
            Failure: `unsafe_path`, for a name that is a path or that hides.
        """
        name = ""
        for pattern, decode in _DISPOSITION:
            match = re.search(pattern, disposition or "", re.I)
            if match:
                name = decode(match[1])
                break
        name = name or unquote(urlsplit(address).path.rstrip("/").rpartition("/")[2])
        is_hidden = not name or name.startswith(".")
        if is_hidden or re.search(r"[/\\\x00-\x1f\x7f]", name) or len(name.encode()) > 240:
            raise Failure(
                "unsafe_path",
                f"the server's file name {name[:80]!r} cannot be used",
                case="no_file_name",
            )
        return name

    def sha256_told(self, url: str, headers: Headers) -> Optional[str]:
        """The file's hash, as the header of an answer from *url* on the way to it tells."""
        return None

    def sha256_listed(
        self, url: str, name: Optional[str], size_bytes: Optional[int], fetch: Fetch
    ) -> Optional[str]:
        """The file's hash, as the source's catalogue has it for a file of that name or size."""
        return None

    def refusal(self, refused: errors.Refused, url: str, fetch: Fetch) -> Failure:
        """What it means that *url* (as it is written) was *refused*."""
        return errors.refusal(refused)

    def pinned(self, url: str, fetch: Fetch) -> Optional[str]:
        """*url* with what its moving name stands for now; None when it has none, or nobody says."""
        return None

    def listing(self, url: str) -> Optional[Listing]:
        """How to find out the files that *url* means; None when it means one file."""
        return None


KIND = WebServer()
