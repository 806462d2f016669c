"""An `asyncio.Event` for those of which there are many: a hundred bytes, and not eight hundred, while nobody waits."""

from __future__ import annotations

import asyncio
from typing import Literal


class Flag(asyncio.Event):
    """As `asyncio.Event`, in one event loop. Each run has more than ten of them, and for most of them nobody ever waits."""

    def __init__(self) -> None:  # its own would make room for 64 who wait
        self._is_set = False
        self._waiting: list[asyncio.Future[Literal[True]]] | None = None

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake all who wait."""
        self._is_set = True
        for waiting in self._waiting or ():
            if not waiting.done():
                waiting.set_result(True)

    def clear(self) -> None:
        """Have those who come from now on wait."""
        self._is_set = False

    async def wait(self) -> Literal[True]:
        """Wait until it is set; who was woken goes on even if it is cleared before his turn."""
        if self._is_set:
            return True
        waiting: asyncio.Future[Literal[True]] = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(waiting)
        try:
            return await waiting
        finally:
            self._waiting.remove(waiting)

    def __repr__(self) -> str:
        return f"<Flag {'set' if self._is_set else 'unset'}, {len(self._waiting or ())} wait>"
