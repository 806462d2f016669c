"""Take files from an instance over one session, into folders of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from provision_agent.contract import file_frames as wire
from provision_agent.contract.failures import Failure
from provision_agent.contract.file_frames import FileFrame
from provision_agent.contract.file_messages import (
    AGAIN,
    FAILED,
    FileTold,
    SettledFile,
    TakenBytes,
    Trouble,
    Wanted,
)
from provision_agent.contract.frames import ProtocolError

from ..errors import ProtocolFaultError
from ..storage import in_thread
from .intake import Intake, News
from .local_tree import LocalTree
from .session import FileSession

MOST_FAILED = 10_000
MOST_WAITING_BYTES = 64 << 20
"""Of frames that the disk has not taken yet: who sends more without being told that they were taken is kept waiting."""

OnSettled = Callable[[FileTold, SettledFile], None]


class Receiver:
    """Takes what the other side of *session* sends into *trees*, by item.

    `left` are the files that were named and are not settled, `failed` those that cannot be had.
    """

    def __init__(
        self,
        session: FileSession,
        trees: Mapping[str, LocalTree],
        *,
        on_settled: OnSettled = lambda told, settled: None,
        on_bytes: Callable[[int], None] = lambda count: None,
        on_problem: Callable[[str, Failure], None] = lambda path, failure: None,
    ) -> None:
        self._session = session
        self._trees = trees
        self._on_settled = on_settled
        self._on_bytes = on_bytes
        self._on_problem = on_problem
        self._frames = 0
        """So many are on their way to the disk."""
        self._came_bytes = 0
        self._taken_bytes = 0
        self._is_paused = False
        self._until_idle = False
        self._is_over = asyncio.Event()
        self._fault: Exception | None = None
        self.left: dict[int, FileTold] = {}
        self.failed: dict[str, str] = {}
        """By path: why."""
        self.looks = 0
        """So often all that was there was named."""

    @property
    def is_idle(self) -> bool:
        """All that was named is settled."""
        return self.looks > 0 and not self.left and not self._frames

    async def run(self, *, until_idle: bool) -> None:
        """Take files until the session ends or, with *until_idle*, all that is there is here.

        Raises:
            HostUnreachableError: the session was cut. ProtocolFaultError: the instance sends what cannot be.
            ProvisionError: it cannot send files.
        """
        loop = asyncio.get_running_loop()
        self._until_idle = until_idle
        intake = Intake(self._trees, lambda news: _call_soon(loop, self._hear, news))
        listening = asyncio.create_task(self._session.hand(lambda frame: self._put(intake, frame)))
        over = asyncio.create_task(self._is_over.wait())
        try:
            await asyncio.wait((over, listening), return_when=asyncio.FIRST_COMPLETED)
            if self._fault is None and not over.done():
                await in_thread(intake.finish)  # what has come is not lost with the session
                await asyncio.sleep(0)  # its last news are heard
            if self._fault is not None:
                raise self._fault
            if until_idle and self.is_idle:
                self._session.channel.write(wire.pack(wire.OVER, {}))
                return
            listening.result()
        finally:
            intake.drop()
            listening.cancel()
            over.cancel()
            await asyncio.gather(listening, over, return_exceptions=True)
            await in_thread(intake.finish)

    def _put(self, intake: Intake, frame: FileFrame) -> None:
        self._frames += 1
        if frame.kind == wire.DATA:
            self._came_bytes += len(frame.payload)
            if self._came_bytes - self._taken_bytes > MOST_WAITING_BYTES and not self._is_paused:
                self._is_paused = True
                self._session.pause()
        intake.put(frame)

    # -- what the disk has taken

    def _hear(self, news: News) -> None:
        """What became of some frames, from the thread that wrote them."""
        self._frames -= news.frames
        self.looks = news.looks
        self.left.update((told.n, told) for told in news.named)
        if news.taken_bytes > self._taken_bytes:
            self._on_bytes(news.taken_bytes - self._taken_bytes)
            self._taken_bytes = news.taken_bytes
            self._session.send(wire.TAKEN, TakenBytes(news.taken_bytes))
        wanted = [each for each in news.answers if isinstance(each, Wanted)]
        settled = [each for each in news.answers if isinstance(each, SettledFile)]
        self._session.send_list(wire.WANTED, "wanted", wanted)
        self._session.send_list(wire.SETTLED, "settled", settled)
        for each in settled:
            self._settle(each)
        for trouble in news.troubles:
            self.failed[_subject(trouble)] = trouble.message
            self._on_problem(_subject(trouble), trouble.failure())
        if self._is_paused and self._came_bytes - self._taken_bytes <= MOST_WAITING_BYTES // 2:
            self._is_paused = False
            self._session.resume()
        if news.fault is not None:
            is_theirs = isinstance(news.fault, ProtocolError)
            self._fault = ProtocolFaultError(news.fault) if is_theirs else news.fault
        if self._fault is not None or (self._until_idle and self.is_idle):
            self._is_over.set()

    def _settle(self, settled: SettledFile) -> None:
        if settled.state == AGAIN:
            return
        told = self.left.pop(settled.n, None)
        if told is None:
            return
        if settled.state == FAILED and len(self.failed) < MOST_FAILED:
            self.failed[told.path] = settled.message
        elif settled.state != FAILED:
            self.failed.pop(told.path, None)
        self._on_settled(told, settled)


def _call_soon(loop: asyncio.AbstractEventLoop, hear: Callable[[News], None], news: News) -> None:
    try:
        loop.call_soon_threadsafe(hear, news)
    except RuntimeError:
        pass  # the loop has ended: nobody listens any more


def _subject(trouble: Trouble) -> str:
    """What *trouble*, which is of no file that was named, is about."""
    return trouble.about.get("path") or trouble.message[:200]
