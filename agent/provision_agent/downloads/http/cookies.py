"""Cookies of one chain of redirects: each origin sees again what it set on the way there, and nobody keeps any. Pure.

Some hosts set a cookie, redirect, and give the file only to who brings it back.
"""

from __future__ import annotations

import re
from typing import Dict, Mapping, Protocol, Sequence, Tuple

from .transport import origin_of

MOST_COOKIES, MOST_BYTES = 50, 4096
"""Of one origin, and of one cookie: what RFC 6265 §6.1 has browsers keep at least."""

_PAIR = re.compile(r"([!#$%&'*+.^_`|~\w-]+)=([\x21-\x3a\x3c-\x7e]*)", re.A)
_ENDED = re.compile(r";\s*max-age\s*=\s*(0\b|-)", re.I)


class SetBy(Protocol):
    """One answer on the way."""

    @property
    def url(self) -> str:
        """Who answered."""
        ...

    @property
    def set_cookies(self) -> Tuple[str, ...]:
        """What it set."""
        ...


def added(headers: Mapping[str, str], url: str, before: Sequence[SetBy]) -> Dict[str, str]:
    """*headers* for *url*, with the cookies that its origin set *before*, behind those that it has already."""
    origin = origin_of(url)
    jar: Dict[str, str] = {}
    for each in before:
        if origin_of(each.url) == origin:
            for said in each.set_cookies:
                _put(jar, said)
    if not jar:
        return dict(headers)
    own = {name: value for name, value in headers.items() if name.lower() == "cookie"}
    others = {name: value for name, value in headers.items() if name not in own}
    return {**others, "Cookie": "; ".join([*own.values(), *(f"{name}={jar[name]}" for name in jar)])}


def _put(jar: Dict[str, str], said: str) -> None:
    found = _PAIR.match(said.strip()) if len(said) <= MOST_BYTES else None
    if found is None:
        return
    jar.pop(found[1], None)
    if not _ENDED.search(said) and len(jar) < MOST_COOKIES:
        jar[found[1]] = found[2]
