"""Any web server. Every other kind of source is a web server that does some of this otherwise."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional, Protocol
from urllib.parse import unquote, urlsplit

from ...contract.failures import Failure
from ..http import errors, fields
from ..http.request import Headers
from .answer import Answer, Chosen
from .listing import Listing


class Document(NamedTuple):
    """A small document of a source, such as a catalogue's answer."""

    status: int
    """0: nobody answered."""
    body: bytes = b""
    token: Optional[str] = None
    """The name of the secret that went along."""


class Fetch(Protocol):
    """Gets small documents, each once in a run."""

    def __call__(self, url: str) -> Optional[bytes]:
        """The document; None when it cannot be had."""

    def ask(self, url: str) -> Document:
        """The document, or why there is none."""


SHA256 = re.compile(r'"?([0-9a-f]{64})"?')


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

    serves_more_to_tokens = False
    """It says *later* sooner to those that show no token."""

    def at_hand(self, url: str, address: str) -> Optional[Answer]:
        """What is to be said of the file where that takes no network; None where it does."""
        return None

    def name(self, address: str, disposition: Optional[str]) -> str:
        """The file's name: the one that the server gives in ``Content-Disposition``, or else the address's last part.

        Raises:
            Failure: `unsafe_path`, for a name that is a path, that hides, or that is not what it seems.
        """
        name = fields.file_name(disposition) or unquote(urlsplit(address).path.rstrip("/").rpartition("/")[2])
        why = fields.unusable(name)
        if why is not None:
            message = f"the server's file name {fields.brief(name)} cannot be used: it {why}"
            raise Failure("unsafe_path", message, case="no_file_name")
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

    def choose(self, url: str, fetch: Fetch) -> Optional[Chosen]:
        """The file that *url* stands for now; None where it names one itself.

        Raises:
            Failure: it names none, and nobody says which there are.
        """
        return None

    def pinned(self, url: str, fetch: Fetch) -> Optional[str]:
        """*url* with what its moving name stands for now; None when it has none, or nobody says."""
        return None

    def listing(self, url: str) -> Optional[Listing]:
        """How to find out the files that *url* means; None when it means one file."""
        return None


KIND = WebServer()
