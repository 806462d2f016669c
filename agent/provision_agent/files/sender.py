"""Send files to the other side of a session: several at once, no more under way than leaves room for the logs."""

from __future__ import annotations

import queue
import select
import threading
import time
from typing import Callable, List, Optional

from ..contract import file_frames as wire
from ..contract.failures import Failure
from ..contract.file_frames import FileFrame
from ..contract.file_messages import (
    AGAIN,
    FAILED,
    HAVE,
    MAX_IN_FRAME,
    OK,
    AllTold,
    CompleteFile,
    SettledFile,
    SettledFiles,
    TakenBytes,
    Trouble,
    Wanted,
    WantedFiles,
)
from ..contract.frames import ProtocolError
from ..contract.pacing import Pacer
from ..contract.parsing import parse, to_json
from .home import HomeLog
from .local_file import Changed, LocalFile
from .looker import Looker
from .wire import Wire

FILES_AT_ONCE = 3
LOOK_EVERY_S, GATHER_S = 1.0, 0.05
MOST_LOOKING, LONGEST_LOOK_S = 4, 1.5
"""Where there are so many files that a look takes long, it is a fifth of the time at most while nothing is closed."""
MOST_TRIES = 2


class Sender:
    """One session. A followed one goes on until the other side leaves.

    Args:
        on_bytes: Called when some were sent.
        home: Is told what the other side has.
    """

    def __init__(
        self,
        line: Wire,
        looker: Looker,
        *,
        follow: bool,
        on_bytes: Callable[[], None] = lambda: None,
        home: Optional[HomeLog] = None,
    ) -> None:
        self._wire = line
        self._looker = looker
        self._follow = follow
        self._on_bytes = on_bytes
        self._home = home
        self._pacer = Pacer()
        self._room = threading.Condition()
        self._wanted: "queue.Queue[Wanted]" = queue.Queue()
        self._known = -1

    def run(self) -> None:
        """Until the other side is gone or has said that it is over. Raises ProtocolError, ParseError."""
        works: List[Callable[[], None]] = [self._look, *[self._work] * FILES_AT_ONCE]
        for work in works:
            threading.Thread(target=work, daemon=True).start()
        for frame in self._wire.frames():
            if frame.kind == wire.OVER:
                return
            self._take(frame)

    def _take(self, frame: FileFrame) -> None:
        if frame.kind == wire.TAKEN:
            with self._room:
                self._pacer.taken(parse(TakenBytes, frame.json()).bytes, time.monotonic())
                self._room.notify_all()
        elif frame.kind == wire.WANTED:
            for wanted in parse(WantedFiles, frame.json()).wanted:
                if wanted.n > self._known:
                    raise ProtocolError("a file that was never named is wanted")
                self._wanted.put(wanted)
        elif frame.kind == wire.SETTLED:
            for settled in parse(SettledFiles, frame.json()).settled:
                if settled.n > self._known:
                    raise ProtocolError("a file that was never named is settled")
                self._settle(settled)
        elif frame.kind != wire.BEAT:
            raise ProtocolError(f"a frame of kind {frame.kind!r} from who receives files")

    def _settle(self, settled: SettledFile) -> None:
        told, path = self._looker.told.get(settled.n), self._looker.paths.get(settled.n)
        if told is None or path is None:
            return  # it was settled before
        if settled.state == AGAIN:
            self._wanted.put(Wanted(settled.n))
            return
        if settled.state in (OK, HAVE) and self._home is not None:
            self._home.say(path, told.size_bytes, told.mtime_ns)
        elif settled.state == FAILED and self._follow and settled.class_ == "conflict":
            self._looker.forget(settled.n)
        self._looker.settle(settled.n)

    def _look(self) -> None:
        while True:
            began_s = time.monotonic()
            found = self._looker.look(time.monotonic())
            self._known += len(found)
            self._wire.send_list(wire.LISTED, "files", found)
            self._tell_odd()
            self._wire.send(wire.ALL_LISTED, to_json(AllTold()))
            if not self._follow:
                return
            took_s = min(time.monotonic() - began_s, LONGEST_LOOK_S)
            watched = self._looker.closings.descriptor
            if watched >= 0:
                select.select([watched], [], [], max(LOOK_EVERY_S, MOST_LOOKING * took_s))
                time.sleep(max(GATHER_S, took_s))  # one look for what is closed at once
            else:
                time.sleep(max(LOOK_EVERY_S, MOST_LOOKING * took_s))

    def _tell_odd(self) -> None:
        odd, self._looker.odd = self._looker.odd, []
        for path in odd[:MAX_IN_FRAME]:
            name = ascii(path)[1:-1]
            message = f"`{name}` is no file, or its name is no text"
            trouble = Trouble("unsafe_path", message, "odd_name", {"path": name}, item="")
            self._wire.send(wire.PROBLEM, to_json(trouble))

    def _work(self) -> None:
        while True:
            wanted = self._wanted.get()
            try:
                self._send(wanted)
            except Failure as failure:
                self._wire.send(wire.PROBLEM, to_json(Trouble.of(failure, n=wanted.n)))
                self._looker.forget(wanted.n)

    def _send(self, wanted: Wanted) -> None:
        offset, path = wanted.offset, self._looker.paths.get(wanted.n)
        if path is None:
            return  # it was settled before
        for attempt in range(1, MOST_TRIES + 1):
            file = LocalFile(path)
            try:
                if attempt == 1 and wanted.has and self._is_same(file, wanted):
                    return
                if not offset or not file.skip(offset) or file.sha256 != wanted.proof:
                    file.rewind()
                self._send_bytes(file, wanted.n)
                return
            except Changed:
                self._complete(CompleteFile(wanted.n, changed=True))
                offset = 0
            finally:
                file.close()
        message = f"`{path}` changes while it is sent"
        raise Failure("conflict", message, case="changes_meanwhile", retriable=True)

    def _is_same(self, file: LocalFile, wanted: Wanted) -> bool:
        file.skip(file.size_bytes)
        found = file.sha256
        file.rewind()
        if found != wanted.has:
            return False
        self._complete(CompleteFile(wanted.n, found, file.size_bytes, file.mtime_ns, is_same=True))
        return True

    def _send_bytes(self, file: LocalFile, number: int) -> None:
        while True:
            block = file.read()
            if block is None:
                break
            offset, data = block
            left = memoryview(data)
            while left:
                piece = left[: self._pacer.piece_bytes]
                self._await_room(len(piece))
                self._wire.send_data(number, offset, piece)
                self._on_bytes()
                offset, left = offset + len(piece), left[len(piece) :]
        self._complete(CompleteFile(number, file.sha256, file.size_bytes, file.mtime_ns))

    def _await_room(self, size: int) -> None:
        with self._room:
            while not self._pacer.has_room(size):
                self._room.wait()
            self._pacer.sent(size, time.monotonic())

    def _complete(self, told: CompleteFile) -> None:
        self._wire.send(wire.COMPLETE, to_json(told))
