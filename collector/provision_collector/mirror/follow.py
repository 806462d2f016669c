"""One session of the follow protocol: from a connection to mirrors, until the link or the need ends.

Silence is noticed within three heartbeats, a garbled frame at once; both end the session, never the mirror. What
the other side cannot give any more is told as a gap, never passed over. Bytes are taken one after the other, each when
those before it are written; whatever waits for the disk does so in a thread.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Sequence
from pathlib import PurePosixPath

import structlog
from provision_agent.contract import frames, loading
from provision_agent.contract.parsing import ParseError

from ..errors import HostUnreachableError, LocalMachineError, ProvisionError
from ..instance import NO_PYTHON, Channel, Connection, Flag, any_of, no_python
from ..storage import in_thread
from .mirror import FileFacts, Mirror, seal_together
from .pace import HEARTBEAT_S, Pace
from .session import (
    HELLO_TIMEOUT_S,
    AgentChangedError,
    FolderGoneError,
    GarbledError,
    LinkLostError,
    Listener,
    edited,
    unreadable,
)
from .wire import Beat, Begins, Begun, Failed, Holders, check_beat, read_frame

MISSED_HEARTBEATS = 3
SEAL_EVERY_S = 30.0
MAX_WAITING_BYTES = 4 << 20
"""So much may have come and wait for this disk; then the other side is made to wait, too."""
EVENTS = "events"
"""The name of the mirror of a run's events."""
MAX_EMPTY_GENERATIONS = 100
"""Each is written to this disk: an instance that begins more of them without a byte means no good."""

TURN_S = 0.005
"""So long one session is taken before others have their turn on the event loop."""
HOLD_S = 1.0
"""The longest wait in one piece, of a session that is over its share of time."""

log = structlog.get_logger()


class FollowSession:
    """Feeds *mirrors* with the files at *paths* on the instance.

    Args:
        command: Starts the follower. program: What it reads from its stdin before the request.
        workspace: Whose status is told, too.
        has_history: A log that is seen for the first time has older rotated files that belong to it.
        pace: How much of this process's time it may take; None lets it take what it can.
    """

    def __init__(
        self,
        mirrors: Sequence[Mirror],
        paths: Sequence[str],
        listener: Listener,
        *,
        command: str,
        program: bytes = b"",
        workspace: str | None = None,
        has_history: bool = False,
        heartbeat_s: float = HEARTBEAT_S,
        pace: Pace | None = None,
    ) -> None:
        self._mirrors = list(mirrors)
        self._paths = list(paths)
        self._listener = listener
        self._command = command
        self._program = program
        self._workspace = workspace
        self._has_history = has_history
        self._heartbeat_s = heartbeat_s
        self._nonce = secrets.token_hex(8)
        self._reader = frames.FrameReader(self._nonce)
        self._error: Exception | None = None
        self._heard = Flag()
        self._chunks: deque[bytes] = deque()
        """What has come and is not looked at yet."""
        self._waiting_bytes = 0
        self._is_paused = False
        self._channel: Channel | None = None
        self._late = [0] * len(self._mirrors)
        self._empty_generations = 0
        self._pace = pace or Pace(share=None)
        self._turn_ends = 0.0
        self._began_at = self._word_at = time.monotonic()
        """`_word_at`: when the other side last spoke, or its words were taken last."""
        self._silence: asyncio.TimerHandle | None = None
        self.heard_at: float | None = None
        """When (monotonic) the other side was last heard; None when it never was."""

    @property
    def lasted_s(self) -> float:
        """How long the other side was heard, in seconds."""
        return 0.0 if self.heard_at is None else self.heard_at - self._began_at

    async def run(self, connection: Connection, *, done: asyncio.Event) -> None:
        """Follow until *done* is set.

        Raises:
            LinkLostError: the link went away or lied; connect again and start a new session.
            HostUnreachableError: there is no python3, or nothing that starts commands.
            FolderGoneError: what is followed is a run's, and its folder was deleted.
            UsageError: a mirror is not what the remote file began with.
            LocalMachineError: this disk is full.
        """
        self._channel = channel = await Channel.open(connection, self._command, on_bytes=self._take)
        try:
            channel.write(self._program + (await asyncio.to_thread(self._request)).to_line())
            beside = [
                asyncio.create_task(self._keep_alive(channel)),
                asyncio.create_task(self._keep_sealed()),
            ]
            connection.look_for_silence(is_wanted=False)  # `_listen` does
            try:
                await self._listen(channel, done)
            finally:
                connection.look_for_silence(is_wanted=True)
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
        finally:
            channel.abort()
            await self._seal()

    def ask(self) -> None:
        """Ask the other side to beat at once."""
        if self._channel is not None:
            self._channel.write(b"?")

    async def _keep_alive(self, channel: Channel) -> None:
        """Show life, whatever is under way in the other direction or slow on this disk."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            channel.write(b".")

    async def _keep_sealed(self) -> None:
        while True:
            await asyncio.sleep(SEAL_EVERY_S)
            try:
                await self._seal()
            except LocalMachineError as error:
                self._fail(error)
                return

    async def _seal(self) -> None:
        await seal_together(self._mirrors)

    def _request(self) -> frames.FollowRequest:
        files = tuple(
            mirror.claim(str(PurePosixPath(path)), has_history=self._has_history)
            for mirror, path in zip(self._mirrors, self._paths, strict=True)
        )
        return frames.FollowRequest(self._nonce, files, self._workspace, self._heartbeat_s)

    async def _listen(self, channel: Channel, done: asyncio.Event) -> None:
        ends = [asyncio.ensure_future(event.wait()) for event in (channel.ended, done)]
        for end in ends:
            end.add_done_callback(lambda _: self._heard.set())
        self._word_at = time.monotonic()
        self._watch_silence()
        try:
            while not done.is_set():
                await self._heard.wait()
                self._heard.clear()
                if self._chunks:
                    await self._take_all(channel, done)
                    self._word_at = time.monotonic()  # who was made to wait was not silent
                if self._error is not None:
                    raise self._error
                if done.is_set():
                    return
                if channel.ended.is_set() and not self._chunks:
                    raise self._why_ended(channel)
                if self._silence_left_s <= 0:
                    limit_s = self._limit_s
                    raise LinkLostError(f"silent for {limit_s:.0f} s", was_greeted=self._reader.is_greeted)
        finally:
            for end in ends:
                end.cancel()
            if self._silence is not None:
                self._silence.cancel()

    @property
    def _limit_s(self) -> float:
        """So long the other side may say nothing."""
        return MISSED_HEARTBEATS * self._heartbeat_s if self._reader.is_greeted else HELLO_TIMEOUT_S

    @property
    def _silence_left_s(self) -> float:
        return self._word_at + self._limit_s - time.monotonic()

    def _watch_silence(self) -> None:
        """Have `_listen` look up when nothing was heard for too long. One timer does, whatever is heard meanwhile."""
        left_s = self._silence_left_s
        if left_s <= 0:
            self._heard.set()
        wait_s = left_s if left_s > 0 else self._heartbeat_s
        wait_s = min(wait_s, MISSED_HEARTBEATS * self._heartbeat_s)
        self._silence = asyncio.get_running_loop().call_later(wait_s, self._watch_silence)

    def _why_ended(self, channel: Channel) -> Exception:
        if self._reader.is_greeted or channel.exit_status is None:
            return LinkLostError("the connection was lost")
        said = (self._reader.noise + self._reader.unread).strip()
        if NO_PYTHON.strip() in said:
            return no_python()
        text = f"{said.decode('utf-8', 'replace')} {channel.stderr}".strip()[-300:]
        if self._workspace is not None and channel.exit_status == 2 and loading.GONE in text:
            return FolderGoneError("")
        if channel.exit_status == loading.CHANGED_STATUS:
            return AgentChangedError(text)
        return HostUnreachableError(
            f"the instance did not run the follower (exit status {channel.exit_status})"
            + (f"; it said: {text}" if text else ""),
            cause="no-exec",
        )

    def _take(self, data: bytes) -> None:
        if self._error is None:
            self._chunks.append(data)
            self._word_at = time.monotonic()
            self._waiting_bytes += len(data)
            if self._reader.is_greeted:
                self.heard_at = self._word_at
            if self._waiting_bytes > MAX_WAITING_BYTES and self._channel is not None:
                self._is_paused = True
                self._channel.pause()
        self._heard.set()

    async def _take_all(self, channel: Channel, done: asyncio.Event) -> None:
        """Take what has come, in its order, until nothing of it is left, something of it is wrong, or *done*."""
        self._turn_ends = time.monotonic() + TURN_S
        try:
            while self._chunks and self._error is None and not done.is_set():
                data = self._chunks.popleft()
                self._waiting_bytes -= len(data)
                for frame in self._reader.feed(data):
                    await self._take_frame(frame)
                    await self._give_way(done)
        except frames.ProtocolError as error:
            kind = GarbledError if self._reader.is_greeted else LinkLostError
            self._fail(kind(f"garbled: {str(error)[:200]}"))
        except ParseError as error:
            self._fail(GarbledError(f"out of step: broken JSON, or what no file has: {str(error)[:200]}"))
        except ProvisionError as error:
            self._fail(error)
        except (
            ValueError,
            LookupError,
        ) as error:  # bytes that do not follow, of a file that nobody asked for
            self._fail(GarbledError(f"out of step: {str(error)[:200]}"))
        if self._is_paused and self._error is None:  # it may have been paused while it was taken
            self._is_paused = False
            channel.resume()

    async def _give_way(self, done: asyncio.Event) -> None:
        """Others have their turn, however much there is; who is over his share of time waits until he is not."""
        while (wait_s := self._pace.wait_s) > 0 and not done.is_set():
            await any_of(done, timeout_s=min(wait_s, HOLD_S))
            self._turn_ends = 0.0
        if time.monotonic() > self._turn_ends:
            await asyncio.sleep(0)
            self._turn_ends = time.monotonic() + TURN_S

    def _fail(self, error: ProvisionError | LinkLostError) -> None:
        self._error = error
        self._heard.set()
        if self._channel is not None:
            self._channel.pause()

    async def _take_frame(self, frame: frames.Frame) -> None:
        self._pace.take(frame, is_events=self._mirrors[frame.file].name == EVENTS)
        if frame.kind == frames.DATA:
            mirror = self._mirrors[frame.file]
            if count := await self._append(mirror, frame):
                self._empty_generations = 0
                await self._listener.on_bytes(mirror, frame.payload[-count:])
        elif frame.kind == frames.BEAT:
            await self._take_beat(read_frame(Beat, frame))
        elif frame.kind == frames.STATUS:
            await self._listener.on_status(read_frame(Holders, frame))
        elif frame.kind == frames.GENERATION:
            await self._begin_generation(self._mirrors[frame.file], read_frame(Begins, frame))
        elif frame.kind == frames.RESUMED:
            await self._check_resumed(self._mirrors[frame.file], read_frame(Begun, frame))
        else:
            failed = read_frame(Failed, frame)
            if failed.cause == frames.FOLDER_GONE:
                raise FolderGoneError(failed.folder)
            raise frames.ProtocolError(failed.message)

    async def _append(self, mirror: Mirror, frame: frames.Frame) -> int:
        """Write the bytes of *frame*; where much comes, the disk may be slow, and nobody else waits for it."""
        if self._pace.is_busy:
            return await in_thread(mirror.append, frame.generation, frame.offset, frame.payload)
        return mirror.append(frame.generation, frame.offset, frame.payload)

    async def _take_beat(self, beat: Beat) -> None:
        check_beat(beat, len(self._mirrors))
        for number, mirror in enumerate(self._mirrors):
            mirror.remote_bytes = beat.sizes[number]
            late = beat.late[number] if beat.late else 0
            if late > self._late[number]:
                await self._tell_gap(mirror, late - self._late[number])
                self._late[number] = late
        await self._listener.on_beat(beat.unread)

    async def _begin_generation(self, mirror: Mirror, begins: Begins) -> None:
        number = begins.generation
        if number == mirror.generation:
            await self._identify(mirror, begins)  # it was born
        elif number != mirror.generation + 1:
            raise frames.ProtocolError(f"generation {number} does not follow {mirror.generation}")
        else:
            self._empty_generations += 1
            if self._empty_generations > MAX_EMPTY_GENERATIONS:
                raise frames.ProtocolError("generations without end and without a byte")
            self._pace.begin_generation()
            await in_thread(mirror.begin_generation, number, begins)
            log.info("mirror_generation_began", file=mirror.name, why=begins.why)
            if begins.lost_bytes != 0:
                await self._tell_gap(mirror, begins.lost_bytes)
        await self._listener.on_generation(mirror, begins)

    async def _identify(self, mirror: Mirror, facts: FileFacts) -> None:
        if mirror.is_news(facts):
            await in_thread(mirror.identify, facts)

    async def _tell_gap(self, mirror: Mirror, lost_bytes: int | None) -> None:
        log.warning("mirror_gap_found", file=mirror.name, bytes=lost_bytes)
        await self._listener.on_gap(mirror, lost_bytes)

    async def _check_resumed(self, mirror: Mirror, begun: Begun) -> None:
        if begun.obstacle:
            raise unreadable(self._paths[self._mirrors.index(mirror)], begun.obstacle)
        if not begun.resumed and begun.edited:
            raise edited(mirror)
        if begun.resumed:
            await self._identify(mirror, begun)
        await self._listener.on_begin(mirror, begun)
