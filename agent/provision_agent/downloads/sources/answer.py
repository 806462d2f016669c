"""What a source says of one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, NamedTuple, Optional
from urllib.parse import urlsplit

from . import addresses

HEAD_BYTES = 1024
"""How much of a file is read to know what it is; enough for a login page to give itself away."""
MOST_BYTES = 1 << 50
"""No file is larger; what says so is not to be believed."""


class Chosen(NamedTuple):
    """The file that an address stands for, where somebody else has to say which that is."""

    url: str
    note: str = ""
    """What to tell people of the choice, behind the name of the address; empty: it could be no other."""
    headers: Mapping[str, str] = {}
    """What to ask `url` with."""
    name: str = ""
    sha256: Optional[str] = None
    pinned: Optional[str] = None
    """What to write to keep to this choice; None: `url`."""


@dataclass(frozen=True)
class Answer:
    """What a source says of a file, and where and how its bytes are to be had from now on."""

    url: str
    """As the plan has it."""
    location: str
    """Where redirects ended; it may expire, then `url` is asked again."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What must be sent to `location`."""
    size_bytes: Optional[int] = None
    sha256: Optional[str] = None
    validator: Optional[str] = None
    """A strong ETag or a Last-Modified: while it stays, so does the content."""
    has_ranges: bool = True
    name: Optional[str] = None
    why_no_name: str = ""
    """Why the name that it gives cannot be used."""
    head: bytes = field(default=b"", repr=False)
    token: Optional[str] = None
    """The name of the secret that went along."""
    first_byte_s: float = 0.0
    chosen: Optional[Chosen] = None

    @property
    def is_redirected(self) -> bool:
        """The bytes come from another place than the one that was asked."""
        return urlsplit(self.location)[1:4] != urlsplit(addresses.address_of(self.url))[1:4]

    @property
    def host(self) -> str:
        """Who serves the bytes."""
        return urlsplit(self.location).hostname or ""
