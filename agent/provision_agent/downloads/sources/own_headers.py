"""What single items show to their own hosts: a header with a secret in it, or a login.

They go to the exact https origin of the item's URL, so also to mirrors there, and to no other.
"""

from __future__ import annotations

import base64
import re
from typing import Dict, List, Mapping, NamedTuple, Optional

from ...contract.failures import Failure
from ...contract.plan import Download
from ..http.transport import origin_of
from . import addresses

_SENDABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


class Shown(NamedTuple):
    """What goes along with a request."""

    headers: Dict[str, str]
    secret: Optional[str] = None
    """The name of a secret in it."""


NOTHING_SHOWN = Shown({})


class OwnHeaders:
    """The headers of items, by their URLs. `add` comes before the URLs are asked."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        self._items: Dict[str, Download] = {}
        self._logins: List[str] = []

    @property
    def logins(self) -> List[str]:
        """Logins as they are sent: to be shown nowhere."""
        return list(self._logins)

    def add(self, item: Download, *urls: str) -> None:
        """Take what *item* shows, for its own sources and for *urls*, as far as they are on its URL's origin."""
        if not item.headers and item.basic is None:
            return
        home = _origin(item.url)
        for url in (item.url, *item.mirrors, *urls):
            if home is not None and _origin(url) == home:
                self._items[url] = item

    def of(self, url: str) -> Shown:
        """What goes along with a request for *url*.

        Raises:
            Failure: `unauthorized`, when a secret that the item needs is not set, or no header can carry it.
        """
        item = self._items.get(url)
        if item is None:
            return NOTHING_SHOWN
        headers = {name: self._value(header.secret) for name, header in item.headers.items()}
        names = [header.secret for header in item.headers.values()]
        if item.basic is not None:
            pair = f"{item.basic.user}:{self._value(item.basic.secret)}".encode()
            login = base64.b64encode(pair).decode()
            self._logins += [] if login in self._logins else [login]
            headers["Authorization"] = f"Basic {login}"
            names.append(item.basic.secret)
        return Shown(headers, names[0])

    def _value(self, name: str) -> str:
        value = self._secrets.get(name, "")
        if not value:
            message = f"`{name}`, which the item's host wants, is not set"
            raise Failure("unauthorized", message, case="token_unset", about={"token": name})
        if not _SENDABLE.fullmatch(value):
            message = f"the value of `{name}` has characters that no HTTP header can carry"
            raise Failure("unauthorized", message, case="token_unsendable", about={"token": name})
        return value


def _origin(url: str) -> object:
    try:
        origin = origin_of(addresses.address_of(url))
    except Failure:
        return None
    return origin if origin.scheme == "https" else None
