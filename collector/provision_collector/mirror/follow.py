"""One session of the follow protocol: from a connection to mirrors, until the link or the need ends.

Silence is noticed within three heartbeats, a garbled frame at once; both end the session, never the mirror. What
the other side cannot give any more is told as a gap, never passed over.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import structlog
from provision_agent.contract import frames, version

from ..errors import HostUnreachableError, LocalMachineError, ProvisionError
from ..instance import NO_PYTHON, Channel, Connection, no_python
from .mirror import Mirror, whole_number
from .session import HELLO_TIMEOUT_S, FolderGoneError, LinkLostError, Listener, edited

HEARTBEAT_S = 2.0
MISSED_HEARTBEATS = 3
SEAL_EVERY_S = 30.0
_NO_SUCH_PROGRAM = "can't open file"
"""What every python3 says, with exit status 2, when the agent's file is not where it was put."""
MAX_EMPTY_GENERATIONS = 100
"""Each is written to this disk: an instance that begins more of them without a byte means no good."""

log = structlog.get_logger()


class FollowSession:
    """Feeds *mirrors* with the files at *paths* on the instance.

    Args:
        command: Starts the follower. program: What it reads from its stdin before the request.
        workspace: Whose status is told, too.
        has_history: A log that is seen for the first time has older rotated files that belong to it.
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
        self._heard = asyncio.Event()
        self._channel: Channel | None = None
        self._late = [0] * len(self._mirrors)
        self._empty_generations = 0
        self.heard_at: float | None = None
        """When (monotonic) the other side was last heard; None when it never was."""

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
            channel.write(self._program + json.dumps(self._request()).encode() + b"\n")
            beside = [
                asyncio.create_task(self._keep_alive(channel)),
                asyncio.create_task(self._keep_sealed()),
            ]
            try:
                await self._listen(channel, done)
            finally:
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
        for mirror in self._mirrors:
            await mirror.seal()

    def _request(self) -> dict[str, Any]:
        files = [
            {"path": str(PurePosixPath(path)), "history": self._has_history, **mirror.claim()}
            for mirror, path in zip(self._mirrors, self._paths, strict=True)
        ]
        return {
            "format": version.FORMAT,
            "nonce": self._nonce,
            "workspace": self._workspace,
            "heartbeat_s": self._heartbeat_s,
            "files": files,
        }

    async def _listen(self, channel: Channel, done: asyncio.Event) -> None:
        ended = asyncio.ensure_future(channel.ended.wait())
        finished = asyncio.ensure_future(done.wait())
        try:
            while not done.is_set():
                self._heard.clear()
                limit_s = (
                    MISSED_HEARTBEATS * self._heartbeat_s if self._reader.is_greeted else HELLO_TIMEOUT_S
                )
                heard = asyncio.ensure_future(self._heard.wait())
                await asyncio.wait(
                    (heard, ended, finished), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
                )
                was_heard = heard.done()
                heard.cancel()
                if self._error is not None:
                    raise self._error
                if done.is_set():
                    return
                if ended.done():
                    raise self._why_ended(channel)
                if not was_heard:
                    raise LinkLostError(f"silent for {limit_s:.0f} s", was_greeted=self._reader.is_greeted)
        finally:
            ended.cancel()
            finished.cancel()

    def _why_ended(self, channel: Channel) -> Exception:
        if self._reader.is_greeted or channel.exit_status is None:
            return LinkLostError("the connection was lost")
        said = (self._reader.noise + self._reader.unread).strip()
        if NO_PYTHON.strip() in said:
            return no_python()
        text = f"{said.decode('utf-8', 'replace')} {channel.stderr}".strip()[-300:]
        if self._workspace is not None and channel.exit_status == 2 and _NO_SUCH_PROGRAM in text:
            return FolderGoneError("")
        return HostUnreachableError(
            f"the instance did not run the follower (exit status {channel.exit_status})"
            + (f"; it said: {text}" if text else ""),
            hint="a provider's proxy is often a terminal only: use the instance's direct SSH address and port",
            cause="no-exec",
        )

    def _take(self, data: bytes) -> None:
        if self._error is not None:
            return
        if self._reader.is_greeted:
            self.heard_at = time.monotonic()
        try:
            for frame in self._reader.feed(data):
                self._take_frame(frame)
        except frames.ProtocolError as error:
            self._fail(LinkLostError(f"garbled: {str(error)[:200]}"))
        except ProvisionError as error:
            self._fail(error)
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            self._fail(LinkLostError(f"out of step: {str(error)[:200]}"))
        self._heard.set()

    def _fail(self, error: ProvisionError | LinkLostError) -> None:
        self._error = error
        self._heard.set()
        if self._channel is not None:
            self._channel.pause()

    def _take_frame(self, frame: frames.Frame) -> None:
        if frame.kind == frames.DATA:
            mirror = self._mirrors[frame.file]
            if mirror.append(frame.generation, frame.offset, frame.payload):
                self._empty_generations = 0
                self._listener.on_bytes(mirror)
        elif frame.kind == frames.BEAT:
            self._take_beat(frame.json())
        elif frame.kind == frames.STATUS:
            self._listener.on_status(frame.json())
        elif frame.kind == frames.GENERATION:
            self._begin_generation(self._mirrors[frame.file], frame.json())
        elif frame.kind == frames.RESUMED:
            self._check_resumed(self._mirrors[frame.file], frame.json())
        elif frame.json().get("cause") == frames.FOLDER_GONE:
            raise FolderGoneError(str(frame.json().get("folder", "")))
        else:
            raise frames.ProtocolError(str(frame.json().get("message", "the follower failed")))

    def _take_beat(self, facts: Mapping[str, Any]) -> None:
        for number, mirror in enumerate(self._mirrors):
            mirror.remote_bytes = int(facts["sizes"][number])
            late = int(facts.get("late", self._late)[number])
            if late > self._late[number]:
                self._tell_gap(mirror, late - self._late[number])
                self._late[number] = late
        self._listener.on_beat([int(count) for count in facts.get("unread", ())])

    def _begin_generation(self, mirror: Mirror, facts: Mapping[str, Any]) -> None:
        number = int(facts["generation"])
        if number == mirror.generation:
            mirror.identify(facts)  # it was born
        elif number != mirror.generation + 1:
            raise frames.ProtocolError(f"generation {number} does not follow {mirror.generation}")
        else:
            lost_bytes = whole_number(facts.get("lost_bytes"))
            self._empty_generations += 1
            if self._empty_generations > MAX_EMPTY_GENERATIONS:
                raise frames.ProtocolError("generations without end and without a byte")
            mirror.begin_generation(number, facts)
            log.info("mirror_generation_began", file=mirror.name, why=facts.get("why"))
            if lost_bytes != 0:
                self._tell_gap(mirror, lost_bytes)
        self._listener.on_generation(mirror, facts)

    def _tell_gap(self, mirror: Mirror, lost_bytes: int | None) -> None:
        log.warning("mirror_gap_found", file=mirror.name, bytes=lost_bytes)
        self._listener.on_gap(mirror, lost_bytes)

    def _check_resumed(self, mirror: Mirror, facts: Mapping[str, Any]) -> None:
        if not facts.get("resumed") and facts.get("edited", True):
            raise edited(mirror)
        if facts.get("resumed"):
            mirror.identify(facts)
        self._listener.on_begin(mirror, facts)
