"""One thread that writes for all runs of a server, so that a slow disk never holds up the event loop.

What comes while the thread is busy is done together, at most a hundred times a second: a thread costs the same for one event
as for a hundred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

GATHER_S = 0.01

Work = Callable[[], None]


class DiskThread:
    """Does what blocks, in the order in which it came. Belongs to one event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Work, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, work: Work) -> None:
        """Wait until *work* is done. Raises what it raises."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run_all(), name="disk")
        await done

    async def _run_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                errors = await asyncio.to_thread(_run, [work for work, _ in batch])
                for (_, done), error in zip(batch, errors, strict=True):
                    if error is not None and not done.done():
                        done.set_exception(error)
                    elif not done.done():
                        done.set_result(None)
                await asyncio.sleep(GATHER_S)
        finally:
            self._task = None


def _run(batch: Sequence[Work]) -> list[Exception | None]:
    errors: list[Exception | None] = []
    for work in batch:
        try:
            work()
            errors.append(None)
        except Exception as error:  # whoever waits for it gets it
            errors.append(error)
    return errors
