"""Send files of this machine over one session: several at once, no more under way than leaves room for the logs.

The receiver says what it wants and from which byte. A file that changes while it is sent is sent once more; if it changes
again, it is refused by name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from provision_agent.contract import file_frames as wire
from provision_agent.contract.failures import Failure
from provision_agent.contract.file_frames import FileFrame
from provision_agent.contract.file_messages import (
    AGAIN,
    FILE,
    AllTold,
    CompleteFile,
    FileTold,
    SettledFile,
    SettledFiles,
    TakenBytes,
    Trouble,
    Wanted,
    WantedFiles,
)
from provision_agent.contract.pacing import Pacer

from ..errors import ProtocolFaultError
from ..instance import any_of
from ..storage import in_thread
from .local_file import ChangedError, LocalFile
from .session import FileSession, read
from .tree import Listing

FILES_AT_ONCE = 4
MOST_TRIES = 2


class Sender:
    """Sends what *listings* name. *on_settled* is told what became of each file, *on_bytes* how many were taken."""

    def __init__(
        self,
        session: FileSession,
        listings: Sequence[Listing],
        *,
        on_settled: Callable[[FileTold, SettledFile], None] = lambda told, settled: None,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._session = session
        self._listings = listings
        self._of = {told.n: (listing, told) for listing in listings for told in listing.files}
        self._on_settled = on_settled
        self._on_bytes = on_bytes
        self._open = set(self._of)
        self._wanted: asyncio.Queue[Wanted] = asyncio.Queue()
        self._pacer = Pacer()
        self._has_room = asyncio.Event()
        self._is_done = asyncio.Event()

    async def send(self) -> None:
        """Return when every file is settled.

        Raises:
            HostUnreachableError: the session was cut. ProtocolFaultError: the instance says what cannot be.
            ProvisionError: the instance cannot take files.
        """
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._list())]
        tasks += [asyncio.create_task(self._work()) for _ in range(FILES_AT_ONCE)]
        done = asyncio.create_task(self._is_done.wait())
        try:
            pending = {*tasks, done}
            while not done.done():
                ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
            self._session.channel.write(wire.pack(wire.OVER, {}))
            self._session.channel.end_input()
            await any_of(self._session.channel.ended, timeout_s=wire.DEAD_MAN_S)
        finally:
            for task in (*tasks, done):
                task.cancel()
            await asyncio.gather(*tasks, done, return_exceptions=True)

    async def _list(self) -> None:
        for listing in self._listings:
            for frame in wire.pack_lists(wire.LISTED, "files", listing.files):
                self._session.channel.write(frame)
                await self._session.channel.drained()
        self._session.send(wire.ALL_LISTED, AllTold(tuple(listing.told() for listing in self._listings)))
        for listing in self._listings:
            if listing.failure is not None:
                self._session.send(wire.PROBLEM, Trouble.of(listing.failure, item=listing.source.item))
        self._settle_done()

    async def _listen(self) -> None:
        async for frame in self._session.frames():
            if frame.kind == wire.TAKEN:
                self._take_taken(frame)
            elif frame.kind == wire.WANTED:
                for wanted in read(WantedFiles, frame).wanted:
                    self._check_known(wanted.n)
                    self._wanted.put_nowait(wanted)
            elif frame.kind == wire.SETTLED:
                for settled in read(SettledFiles, frame).settled:
                    self._check_known(settled.n)
                    self._settle(settled)
                self._settle_done()
            else:
                raise ProtocolFaultError(f"a frame of kind {frame.kind!r} from who receives files")

    def _take_taken(self, frame: FileFrame) -> None:
        before = self._pacer.taken_bytes
        self._pacer.taken(read(TakenBytes, frame).bytes, time.monotonic())
        self._on_bytes(self._pacer.taken_bytes - before)
        self._has_room.set()

    def _settle(self, settled: SettledFile) -> None:
        _, told = self._of[settled.n]
        if settled.state == AGAIN:
            self._wanted.put_nowait(Wanted(settled.n))
        elif settled.n in self._open:
            self._open.discard(settled.n)
            self._on_settled(told, settled)

    def _settle_done(self) -> None:
        if not self._open:
            self._is_done.set()

    def _check_known(self, number: int) -> None:
        if number not in self._of:
            raise ProtocolFaultError("a file that was never named")

    async def _work(self) -> None:
        while True:
            wanted = await self._wanted.get()
            listing, told = self._of[wanted.n]
            if told.kind != FILE:
                raise ProtocolFaultError("a folder is wanted as a file")
            try:
                await self._send_file(LocalFile(listing.path_of(told)), wanted)
            except Failure as failure:
                self._session.send(wire.PROBLEM, Trouble.of(failure, n=wanted.n))

    async def _send_file(self, file: LocalFile, wanted: Wanted) -> None:
        offset = wanted.offset
        try:
            for attempt in range(1, MOST_TRIES + 1):
                if await in_thread(_is_same, file, wanted, offset, is_first=attempt == 1):
                    self._complete(file, wanted.n, is_same=True)
                    return
                try:
                    await self._send_bytes(file, wanted.n)
                    self._complete(file, wanted.n)
                    return
                except ChangedError:
                    self._session.send(wire.COMPLETE, CompleteFile(wanted.n, changed=True))
                    offset = 0
            message = f"`{file.path}` changes while it is sent"
            raise Failure("conflict", message, case="changes_meanwhile", retriable=True)
        finally:
            await in_thread(file.close)

    async def _send_bytes(self, file: LocalFile, number: int) -> None:
        """The next block is read and hashed while one is sent. Raises ChangedError, Failure."""
        reading = asyncio.create_task(in_thread(file.read))
        try:
            while (block := await reading) is not None:
                reading = asyncio.create_task(in_thread(file.read))
                offset, data = block
                view = memoryview(data)
                for at in range(0, len(data), wire.CHUNK_BYTES):
                    await self._send_chunk(number, offset + at, view[at : at + wire.CHUNK_BYTES])
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _send_chunk(self, number: int, offset: int, chunk: memoryview) -> None:
        while not self._pacer.has_room(len(chunk)):
            self._has_room.clear()
            await self._has_room.wait()
        self._pacer.sent(len(chunk), time.monotonic())
        self._session.channel.write(wire.data_head(number, offset, len(chunk)) + chunk)
        await self._session.channel.drained()

    def _complete(self, file: LocalFile, number: int, *, is_same: bool = False) -> None:
        told = CompleteFile(number, file.digest, file.size_bytes, file.mtime_ns, is_same=is_same)
        self._session.send(wire.COMPLETE, told)


def _is_same(file: LocalFile, wanted: Wanted, offset: int, *, is_first: bool) -> bool:
    """Open *file*, to be read from *offset* on if the other side has what is before it, else from its beginning; in one visit
    to the disk.

    Returns:
        Whether the other side has all of it; asked the first time only.
    """
    file.open()
    if is_first and wanted.has and file.sha256() == wanted.has:
        return True
    if not offset or file.skip(offset) != wanted.proof:
        file.rewind()
    return False
