"""One channel of file frames to the agent: its frames in order, its end, and what it said instead."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from provision_agent.contract import file_frames as wire
from provision_agent.contract.failures import hint_of
from provision_agent.contract.file_frames import FileFrame, FileFrameReader
from provision_agent.contract.file_messages import ReceiveRequest, SendRequest, Trouble
from provision_agent.contract.frames import ProtocolError
from provision_agent.contract.parsing import ParseError, parse, to_json

from ..errors import HostUnreachableError, ProtocolFaultError, ProvisionError
from ..instance import Channel, Connection, any_of

HELLO_TIMEOUT_S = 30.0

T = TypeVar("T")


class FileSession:
    """Open it with `open`, close it with `close`; `frames` is for one reader."""

    def __init__(self, nonce: str) -> None:
        self._reader = FileFrameReader(nonce)
        self._frames: deque[FileFrame] = deque()
        self._to: Callable[[FileFrame], None] | None = None
        """Takes the frames as they come, if somebody wants them so."""
        self._arrived = asyncio.Event()
        self._heard_at = time.monotonic()
        self._is_paused = False
        self._trouble: ProtocolError | None = None
        self._said: ProvisionError | None = None
        """What the other side said of the session as a whole."""
        self._greeted = asyncio.Event()
        self._speaking: asyncio.Task[None] | None = None
        self.channel: Channel

    @classmethod
    async def open(
        cls, connection: Connection, command: str, request: ReceiveRequest | SendRequest
    ) -> FileSession:
        """Start *command*, an agent's, and wait for its first word.

        Raises:
            HostUnreachableError: the connection is gone, or it says nothing.
        """
        nonce = secrets.token_hex(16)
        session = cls(nonce)
        session.channel = await Channel.open(connection, command, on_bytes=session._take)
        line = wire_line(replace(request, nonce=nonce))
        session.channel.write(line)
        await any_of(session._greeted, session.channel.ended, timeout_s=HELLO_TIMEOUT_S)
        if not session._greeted.is_set():
            session.close()
            raise session.lost()
        session._speaking = asyncio.create_task(session._speak())
        return session

    def _take(self, data: bytes) -> None:
        self._heard_at = time.monotonic()
        try:
            for frame in self._reader.feed(data):
                self._frames.append(frame)
        except ProtocolError as error:
            self._trouble = error
            self.channel.abort()
        if self._to is not None:
            self._hand_over()
        elif self._frames:
            self._arrived.set()
        if self._reader.is_greeted:
            self._greeted.set()

    async def frames(self) -> AsyncIterator[FileFrame]:
        """Every frame, in order.

        Raises:
            HostUnreachableError: the session was cut. ProtocolFaultError: what came is no frame.
            ProvisionError: the agent says that it cannot be done.
        """
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if frame.kind == wire.PROBLEM:
                    _raise_of_session(read(Trouble, frame))
                if frame.kind != wire.BEAT:
                    yield frame
            await self._more()

    async def hand(self, to: Callable[[FileFrame], None]) -> None:
        """As `frames`, with each frame given *to* somebody the moment it comes. It ends by what it raises."""
        self._to = to
        self._hand_over()
        while True:
            if self._said is not None:
                raise self._said
            await self._more()

    def _hand_over(self) -> None:
        assert self._to is not None
        while self._frames and self._said is None:
            frame = self._frames.popleft()
            try:
                if frame.kind == wire.PROBLEM:
                    _raise_of_session(read(Trouble, frame))
            except ProvisionError as said:
                self._said = said
                self._arrived.set()
                return
            if frame.kind != wire.BEAT:
                self._to(frame)

    async def _more(self) -> None:
        """Wait until something has arrived that is to be looked at. Raises HostUnreachableError: the session was cut."""
        self._arrived.clear()
        await any_of(self._arrived, self.channel.ended, timeout_s=wire.DEAD_MAN_S)
        is_silent = not self._is_paused and time.monotonic() - self._heard_at >= wire.DEAD_MAN_S
        if not self._arrived.is_set() and (self.channel.ended.is_set() or is_silent):
            raise self.lost()  # parts of a frame count as a word

    def pause(self) -> None:
        """Take nothing for now: the other side notices when much is under way."""
        self._is_paused = True
        self.channel.pause()

    def resume(self) -> None:
        """Take all again."""
        self._is_paused = False
        self._heard_at = time.monotonic()
        self.channel.resume()

    def send(self, kind: bytes, payload: object) -> None:
        """Queue a frame; *payload* is a dataclass of `file_messages`."""
        self.channel.write(wire.pack(kind, to_json(payload)))

    def send_list(self, kind: bytes, name: str, entries: Iterable[object]) -> None:
        """Queue *entries*, dataclasses of `file_messages`, as the list *name* of as many frames as they need."""
        for frame in wire.pack_lists(kind, name, entries):
            self.channel.write(frame)

    def lost(self) -> ProvisionError:
        """Why the session is over."""
        if self._trouble is not None:
            return ProtocolFaultError(str(self._trouble))
        said = self.channel.stderr[-300:]
        return HostUnreachableError(f"the transfer of files was cut{said and f': {said}'}", cause="reset")

    def close(self) -> None:
        """End it. Safe to repeat."""
        if self._speaking is not None:
            self._speaking.cancel()
        self.channel.abort()

    async def _speak(self) -> None:
        with suppress(asyncio.CancelledError):
            while not self.channel.ended.is_set():
                self.channel.write(wire.pack(wire.BEAT, {}))
                await asyncio.sleep(wire.SPEAK_EVERY_S)


def _raise_of_session(told: Trouble) -> None:
    """Raise what *told* means, unless it is about one file or item."""
    if told.n is None and told.item is None:
        raise ProvisionError(
            told.message, hint=hint_of(told.class_, told.case, told.about), cause=told.class_
        )


def wire_line(request: object) -> bytes:
    """*request* as the agent reads it."""
    return json.dumps(to_json(request), separators=(",", ":")).encode() + b"\n"


def read(kind: type[T], frame: FileFrame) -> T:
    """The JSON of *frame* as *kind*, a dataclass of `file_messages`.

    Raises:
        ProtocolFaultError: it is none.
    """
    try:
        return parse(kind, frame.json(), "frame")
    except (ParseError, ProtocolError) as error:
        raise ProtocolFaultError(error) from None
