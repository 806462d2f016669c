"""Connections that have answered and wait for another request, so that the next one needs no new handshake."""

from __future__ import annotations

import threading
import time
from typing import Callable, Dict, List, Optional, Tuple

from .response import Connection, Response
from .transport import Origin

KEPT_S = 15.0
"""Servers close an idle connection after 5 to 60 s; one that is stale costs a try."""
KEPT_MOST = 16
"""Of one origin."""


class IdleConnections:
    """Keeps them by origin. Safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: Dict[Origin, List[Tuple[float, Connection]]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def take(self, origin: Origin) -> Optional[Connection]:
        """One that leads to *origin*, now the caller's; None when there is none."""
        with self._lock:
            kept = self._kept.get(origin, [])
            stale = [connection for until, connection in kept if until <= self._clock()]
            fresh = [entry for entry in kept if entry[1] not in stale]
            found = fresh.pop()[1] if fresh else None
            self._kept[origin] = fresh
        for connection in stale:
            connection.close()
        return found

    def keep(self, response: Response) -> None:
        """Keep the connection of *response*, if it can carry another request, else close it."""
        connection = response.release()
        if connection is not None:
            with self._lock:
                kept = self._kept.setdefault(connection.origin, [])
                if not self._is_closed and len(kept) < KEPT_MOST:
                    kept.append((self._clock() + KEPT_S, connection))
                    return
            connection.close()
        response.close()

    def close(self) -> None:
        """Close all, and what is kept from now on. Safe to repeat."""
        with self._lock:
            self._is_closed = True
            kept = [connection for entries in self._kept.values() for _, connection in entries]
            self._kept.clear()
        for connection in kept:
            connection.close()
