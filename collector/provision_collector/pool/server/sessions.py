"""Who is logged in to the page: short sessions that this server keeps, each for one host name.

A browser sends a cookie to every port of a host. So the page has a host name of its own below ``localhost``, which no other
program on this machine has and nobody can guess: browsers take every such name for loopback.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from provision_agent.contract.parsing import ParseError, parse, read_object

from ...storage import in_thread, write_atomically

SESSION_S = 12 * 3600.0
TICKET_S = 60.0
MOST_SESSIONS = 200
MAX_FILE_BYTES = 1 << 18
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Names that every program on this machine has: no session is given or taken there."""


@dataclass(frozen=True)
class Session:
    """One browser that is logged in."""

    host: str
    """The name at which it logged in, without port."""
    ends_unix: float


class Sessions:
    """The sessions of one server. Those of earlier servers go on, so that a page that is open survives a restart.

    Args:
        path: Where they are kept, by the hash of their cookie.
        clock: Unix seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.page_host = f"{secrets.token_hex(10)}.localhost"
        """The page's own name, new at every start."""
        self._path = path
        self._clock = clock
        self._all = _read(path)
        self._tickets: dict[str, float] = {}

    def knows(self, host: str) -> bool:
        """Whether *host* is the page's name, now or in a session that goes on."""
        return host == self.page_host or any(session.host == host for session in self._live().values())

    async def begin(self, host: str) -> str:
        """A browser has logged in at *host*; returns its cookie."""
        cookie = secrets.token_urlsafe(32)
        sessions = {**self._live(), _hash(cookie): Session(host, self._clock() + SESSION_S)}
        self._all = dict(list(sessions.items())[-MOST_SESSIONS:])
        text = json.dumps({key: asdict(session) for key, session in self._all.items()})
        await in_thread(write_atomically, self._path, text, durable=False)
        return cookie

    def admits(self, cookie: str, host: str) -> bool:
        """Whether *cookie* is that of a session at *host*."""
        session = self._live().get(_hash(cookie))
        return session is not None and session.host == host

    def ticket(self) -> str:
        """A word that logs one browser in, once and soon."""
        self._tickets = {ticket: until for ticket, until in self._tickets.items() if until > self._clock()}
        if len(self._tickets) >= MOST_SESSIONS:
            self._tickets.pop(next(iter(self._tickets)))
        ticket = secrets.token_urlsafe(32)
        self._tickets[ticket] = self._clock() + TICKET_S
        return ticket

    def redeem(self, ticket: str) -> bool:
        """Whether *ticket* is one; it is none from now on."""
        return self._tickets.pop(ticket, 0.0) > self._clock()

    def _live(self) -> dict[str, Session]:
        now = self._clock()
        return {key: session for key, session in self._all.items() if session.ends_unix > now}


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).hexdigest()


def _read(path: Path) -> dict[str, Session]:
    """Those of earlier servers; none when there are none, or they cannot be read: then people log in again."""
    try:
        found = read_object(path.read_bytes(), max_bytes=MAX_FILE_BYTES, what=path.name)
        return {key: parse(Session, value) for key, value in found.items()}
    except (OSError, ParseError):
        return {}
