"""What comes from an instance on its way to the disk: a thread takes frames as fast as it can, and says now and then what became of them."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from provision_agent.contract import file_frames as wire
from provision_agent.contract.failures import FAILURES
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
    Trouble,
    Wanted,
)
from provision_agent.contract.frames import ProtocolError

from ..errors import LocalMachineError
from .local_tree import LocalTree, RefusedHereError
from .session import read

TELL_EVERY_BYTES = 1 << 20
TELL_WITHIN_S = 0.004
"""What was taken is told at the latest when nothing has come for so long: a word for each frame costs more than it does."""
MOST_ANSWERS = 200

T = TypeVar("T")
Answer = Wanted | SettledFile


@dataclass
class News:
    """What became of some frames."""

    frames: int = 0
    taken_bytes: int = 0
    """Of files, all together so far."""
    looks: int = 0
    """So often all that was there was named, so far."""
    named: list[FileTold] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    """What was said of no file that was named."""
    fault: Exception | None = None
    """Why nothing more is taken."""


class Intake:
    """Takes files into *trees*, by item, in a thread of its own; *tell* is called there. Close it before the trees."""

    def __init__(self, trees: Mapping[str, LocalTree], tell: Callable[[News], None]) -> None:
        self._trees = trees
        self._tell = tell
        self._frames: queue.SimpleQueue[FileFrame | None] = queue.SimpleQueue()
        self._is_dropping = False
        self._news = News()
        self._told_bytes = 0
        self._open: dict[int, FileTold] = {}
        """Named, and not settled for good."""
        self._tried: dict[int, int] = {}
        self._thread = threading.Thread(target=self._work, name="intake", daemon=True)
        self._thread.start()

    def put(self, frame: FileFrame) -> None:
        """Take *frame* after those before it. Never blocks."""
        self._frames.put(frame)

    def drop(self) -> None:
        """Take nothing more but the frame that is being written."""
        self._is_dropping = True
        self._frames.put(None)

    def finish(self) -> None:
        """Return when all that was put is taken, or after `drop` nothing more is. It blocks as long as the disk does."""
        self._frames.put(None)
        self._thread.join()

    # -- in the thread

    def _work(self) -> None:
        try:
            while (frame := self._next()) is not None and not self._is_dropping:
                self._take(frame)
                self._news.frames += 1
                is_much = self._news.taken_bytes - self._told_bytes >= TELL_EVERY_BYTES
                if is_much or len(self._news.answers) >= MOST_ANSWERS:
                    self._say()
            self._sync()
        except Exception as fault:
            self._news.fault = fault
            self._news.answers.clear()  # perhaps not on the disk
        self._tell_news()

    def _next(self) -> FileFrame | None:
        try:
            return self._frames.get(timeout=TELL_WITHIN_S if self._news.frames else None)
        except queue.Empty:
            self._say()
            return self._frames.get()

    def _say(self) -> None:
        self._sync()
        self._tell_news()

    def _tell_news(self) -> None:
        news, self._told_bytes = self._news, self._news.taken_bytes
        self._news = News(taken_bytes=news.taken_bytes, looks=news.looks)
        self._tell(news)

    def _sync(self) -> None:
        """What is said to be here is not lost by a power cut. Raises LocalMachineError."""
        for tree in self._trees.values():
            try:
                tree.sync()
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise LocalMachineError(f"`{tree.root}` cannot be written here: {why}") from None

    def _take(self, frame: FileFrame) -> None:
        if frame.kind == wire.DATA:
            self._news.taken_bytes += len(frame.payload)
            self._data(frame)
        elif frame.kind == wire.LISTED:
            for told in read(FilesTold, frame).files:
                self._name(told)
                self._answer(told, partial(self._wanted, told))
        elif frame.kind == wire.ALL_LISTED:
            read(AllTold, frame)
            self._news.looks += 1
        elif frame.kind == wire.COMPLETE:
            self._complete(read(CompleteFile, frame))
        elif frame.kind == wire.PROBLEM:
            self._problem(read(Trouble, frame))
        else:
            raise ProtocolError(f"a frame of kind {frame.kind!r} from who sends files")

    def _name(self, told: FileTold) -> None:
        if told.item not in self._trees or told.n in self._open or len(self._open) >= MAX_FILES:
            raise ProtocolError("a file that nobody asked for, or too many")
        self._open[told.n] = told
        self._news.named.append(told)

    def _answer(self, told: FileTold, work: Callable[[], Answer | None]) -> None:
        """Do *work* for a file, and say what comes of it."""
        answer = _guarded(told, work)
        if answer is None:
            return
        if isinstance(answer, SettledFile) and answer.state != AGAIN:
            del self._open[answer.n]
            if answer.state == FAILED:
                self._trees[told.item].leave(told)
        self._news.answers.append(answer)

    def _wanted(self, told: FileTold) -> Answer:
        tree = self._trees[told.item]
        if told.kind != FILE:
            tree.make(told)
            return SettledFile(told.n, OK)
        wanted = tree.wanted(told)
        return SettledFile(told.n, HAVE) if wanted is None else wanted

    def _data(self, frame: FileFrame) -> None:
        told = self._open.get(frame.number)
        if told is not None:  # else it failed here, and its last bytes were under way
            tree = self._trees[told.item]
            self._answer(told, lambda: tree.write(told, frame.offset, frame.payload))

    def _complete(self, complete: CompleteFile) -> None:
        told = self._open.get(complete.n)
        if told is None:
            return
        tree = self._trees[told.item]
        if complete.changed:
            tree.discard(told)
        else:
            self._answer(told, lambda: self._finished(tree, told, complete))

    def _finished(self, tree: LocalTree, told: FileTold, complete: CompleteFile) -> SettledFile:
        if tree.finish(told, complete):
            return SettledFile(told.n, HAVE if complete.is_same else OK)
        self._tried[told.n] = self._tried.get(told.n, 0) + 1
        if self._tried[told.n] > 1:
            tree.discard(told)
            return SettledFile(told.n, FAILED, "truncated", f"`{told.path}` came damaged twice")
        return SettledFile(told.n, AGAIN)

    def _problem(self, trouble: Trouble) -> None:
        if trouble.n is None:
            self._news.troubles.append(trouble)
            return
        told = self._open.get(trouble.n)
        if told is not None:
            self._trees[told.item].discard(told)
            why = SettledFile(told.n, FAILED, trouble.class_, trouble.message, trouble.case, trouble.about)
            self._answer(told, lambda: why)


def _guarded(told: FileTold, work: Callable[[], T]) -> T | SettledFile:
    try:
        return work()
    except RefusedHereError as refused:
        assert refused.class_ in FAILURES
        return SettledFile(told.n, FAILED, refused.class_, str(refused), refused.case)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        class_, case = ("disk_full", "full_here") if is_full else ("read_only", "unwritable_here")
        return SettledFile(told.n, FAILED, class_, f"`{told.path}` cannot be written here: {why}", case)
