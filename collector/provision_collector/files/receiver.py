"""Take files from an instance over one session, into folders of this machine."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from provision_agent.contract import file_frames as wire
from provision_agent.contract.failures import FAILURES, Failure
from provision_agent.contract.file_frames import FileFrame
from provision_agent.contract.file_messages import (
    AGAIN,
    FAILED,
    FILE,
    HAVE,
    MAX_FILES,
    OK,
    AllTold,
    CompleteFile,
    FilesTold,
    FileTold,
    SettledFile,
    TakenBytes,
    Trouble,
    Wanted,
)
from provision_agent.contract.frames import ProtocolError

from ..errors import ProtocolFaultError
from ..storage import in_thread
from .local_tree import LocalTree, RefusedHereError
from .session import FileSession, read

MOST_AT_ONCE = 64
"""Frames that one visit to the disk takes."""
WORTH_A_VISIT, GATHER_S = 8, 0.002
"""Fewer frames are waited for so long: a thread for each frame, and a word to the other side, costs more than it does."""
MOST_FAILED = 10_000

T = TypeVar("T")
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
        self._troubles: list[Trouble] = []
        """What was said of no file that was named, and is not told yet."""
        self._frames: deque[FileFrame] = deque()
        self._arrived = asyncio.Event()
        self._taken = 0
        self._tried: dict[int, int] = {}
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
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                while self._frames:
                    if len(self._frames) < WORTH_A_VISIT:
                        await asyncio.sleep(GATHER_S)
                    batch = [self._frames.popleft() for _ in range(min(len(self._frames), MOST_AT_ONCE))]
                    await self._take(batch)
                if until_idle and self.is_idle:
                    self._session.channel.write(wire.pack(wire.OVER, {}))
                    return
                self._arrived.clear()
                if listening.done():
                    listening.result()
                waiting = asyncio.create_task(self._arrived.wait())
                await asyncio.wait((waiting, listening), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self) -> None:
        async for frame in self._session.frames():
            self._frames.append(frame)
            self._arrived.set()

    async def _take(self, batch: list[FileFrame]) -> None:
        try:
            answers = await in_thread(self._answers, batch)
        except ProtocolError as error:
            raise ProtocolFaultError(error) from None
        before = self._taken
        self._taken += sum(len(frame.payload) for frame in batch if frame.kind == wire.DATA)
        if self._taken > before:
            self._on_bytes(self._taken - before)
            self._session.send(wire.TAKEN, TakenBytes(self._taken))
        wanted = [each for each in answers if isinstance(each, Wanted)]
        settled = [each for each in answers if isinstance(each, SettledFile)]
        self._session.send_list(wire.WANTED, "wanted", wanted)
        self._session.send_list(wire.SETTLED, "settled", settled)
        for each in settled:
            self._settle(each)
        troubles, self._troubles = self._troubles, []
        for trouble in troubles:
            self._on_problem(_subject(trouble), trouble.failure())

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

    # -- in a thread

    def _answers(self, batch: list[FileFrame]) -> list[Wanted | SettledFile]:
        answers: list[Wanted | SettledFile] = []
        for frame in batch:
            if frame.kind == wire.LISTED:
                for told in read(FilesTold, frame).files:
                    self._name(told)
                    answers.append(self._guarded(told, partial(self._wanted, told)))
            elif frame.kind == wire.ALL_LISTED:
                read(AllTold, frame)
                self.looks += 1
            elif frame.kind == wire.DATA:
                answers += self._data(frame)
            elif frame.kind == wire.COMPLETE:
                answers += self._complete(read(CompleteFile, frame))
            elif frame.kind == wire.PROBLEM:
                answers += self._problem(read(Trouble, frame))
            else:
                raise ProtocolError(f"a frame of kind {frame.kind!r} from who sends files")
        return answers

    def _name(self, told: FileTold) -> None:
        if told.item not in self._trees or told.n in self.left or len(self.left) >= MAX_FILES:
            raise ProtocolError("a file that nobody asked for, or too many")
        self.left[told.n] = told

    def _wanted(self, told: FileTold) -> Wanted | SettledFile:
        tree = self._trees[told.item]
        if told.kind != FILE:
            tree.make(told)
            return SettledFile(told.n, OK)
        wanted = tree.wanted(told)
        return SettledFile(told.n, HAVE) if wanted is None else wanted

    def _data(self, frame: FileFrame) -> list[Wanted | SettledFile]:
        told = self.left.get(frame.number)
        if told is None:
            return []  # it failed here, and its last bytes were under way
        failed = self._guarded(told, lambda: self._trees[told.item].write(told, frame.offset, frame.payload))
        return [failed] if failed is not None else []

    def _complete(self, complete: CompleteFile) -> list[Wanted | SettledFile]:
        told = self.left.get(complete.n)
        if told is None:
            return []
        tree = self._trees[told.item]
        if complete.changed:
            tree.discard(told)
            return []
        done = self._guarded(told, lambda: self._finished(tree, told, complete))
        return [done] if done is not None else []

    def _finished(self, tree: LocalTree, told: FileTold, complete: CompleteFile) -> SettledFile:
        if tree.finish(told, complete):
            return SettledFile(told.n, HAVE if complete.is_same else OK)
        self._tried[told.n] = self._tried.get(told.n, 0) + 1
        if self._tried[told.n] > 1:
            tree.discard(told)
            return SettledFile(told.n, FAILED, "truncated", f"`{told.path}` came damaged twice")
        return SettledFile(told.n, AGAIN)

    def _problem(self, trouble: Trouble) -> list[Wanted | SettledFile]:
        if trouble.n is None:
            self.failed[_subject(trouble)] = trouble.message
            self._troubles.append(trouble)
            return []
        told = self.left.get(trouble.n)
        if told is None:
            return []
        self._trees[told.item].discard(told)
        return [SettledFile(told.n, FAILED, trouble.class_, trouble.message, trouble.case, trouble.about)]

    def _guarded(self, told: FileTold, work: Callable[[], T]) -> T | SettledFile:
        try:
            return work()
        except RefusedHereError as refused:
            assert refused.class_ in FAILURES
            return SettledFile(told.n, FAILED, refused.class_, str(refused))
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            class_ = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "read_only"
            return SettledFile(told.n, FAILED, class_, f"`{told.path}` cannot be written here: {why}")


def _subject(trouble: Trouble) -> str:
    """What *trouble*, which is of no file that was named, is about."""
    return trouble.about.get("path") or trouble.message[:200]
