"""The way to one instance, opened again as often as it takes: who needs the connection asks for it each time.

Losses in a row are answered with growing, jittered waits; the first one after a steady connection at once.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from .address import Instance
from .connection import Connection
from .contact import RECONNECT, first_contact, regain

STEADY_AFTER_S = 10.0
"""A connection that lived this long was a good one: the next loss is answered at once."""


class Emit(Protocol):
    """Tells an event of this side, with its facts."""

    def __call__(self, event: str, **facts: object) -> None: ...


class Link:
    """Holds the connection. *emit* is told ``connecting``, ``connected`` and ``connection_lost`` with their facts.

    `max_attempts` (failed reconnects in a row; 0: no limit) and `way_back` are those of `regain`.
    """

    def __init__(
        self,
        instance: Instance,
        emit: Emit,
        *,
        max_attempts: int = 0,
        way_back: str = "`provision attach` follows it again",
    ) -> None:
        self.connection: Connection | None = None
        self.reconnects = 0
        self._instance = instance
        self._emit = emit
        self._max_attempts = max_attempts
        self._way_back = way_back
        self._was_in = False
        self._opening = asyncio.Lock()
        self._losses_in_a_row = 0
        self._connected_at = self._last_contact = time.monotonic()

    async def connected(self) -> Connection:
        """The connection; opened first if there is none.

        Raises:
            ProvisionError: as `first_contact` says, or `regain` once there was a connection.
        """
        async with self._opening:
            if self.connection is None or self.connection.lost.is_set():
                self.connection = await (self._regain() if self._was_in else self._first_contact())
                self._was_in = True
                self._connected_at = self._last_contact = time.monotonic()
                self._emit("connected", host=str(self._instance))
            return self.connection

    @property
    def is_up(self) -> bool:
        """There is a connection, and nobody has noticed that it is lost."""
        return self.connection is not None and not self.connection.lost.is_set()

    def lose(self, cause: str, *, heard_at: float | None) -> None:
        """Give the connection up.

        Args:
            cause: Why, in the words of the event ``connection_lost``.
            heard_at: When the other side last spoke, in seconds of the monotonic clock; None: not since the last loss.
        """
        self.drop()
        self._last_contact = heard_at or self._last_contact
        was_steady = time.monotonic() - self._connected_at >= STEADY_AFTER_S
        self._losses_in_a_row = 1 if was_steady else self._losses_in_a_row + 1
        self.reconnects += 1
        self._emit("connection_lost", cause=cause, retry_in_s=0.0)

    def made_progress(self) -> None:
        """Bytes arrived: what was lost before does not count against the next loss."""
        self._losses_in_a_row = 0

    def drop(self) -> None:
        """Close the connection; the next `connected` opens another. Safe to repeat."""
        if self.connection is not None:
            self.connection.abort()
            self.connection = None

    async def _first_contact(self) -> Connection:
        return await first_contact(self._instance, on_wait=self._say_booting)

    async def _regain(self) -> Connection:
        losses = self._losses_in_a_row
        return await regain(
            self._instance,
            lost_for_s=time.monotonic() - self._last_contact,
            first_wait_s=(RECONNECT.wait_s(losses) or 0.0) if losses > 1 else 0.0,
            on_wait=self._say_waiting,
            max_attempts=self._max_attempts,
            way_back=self._way_back,
        )

    def _say_booting(self, cause: str, waited_s: float, retry_in_s: float) -> None:
        self._emit(
            "connecting",
            host=str(self._instance),
            cause=cause,
            waited_s=round(waited_s, 1),
            gives_up_after_s=self._instance.boot_grace_s,
        )

    def _say_waiting(self, cause: str, waited_s: float, retry_in_s: float) -> None:
        self._emit("connection_lost", cause=cause, retry_in_s=round(retry_in_s, 2))
