"""One session of the follow protocol: from a connection to mirrors, until the link or the need ends.

Silence is noticed within three heartbeats, a garbled frame at once; both end the session, never the mirror.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import structlog
from provision_agent import protocol

from ..errors import LocalMachineError, ProvisionError, UsageError
from ..instance import Channel, Connection
from .mirror import Mirror

HELLO_TIMEOUT_S = 30.0
"""Until the first frame; longer than a heartbeat, because login shells of rented images are slow."""
HEARTBEAT_S = 2.0
MISSED_HEARTBEATS = 3

log = structlog.get_logger()


class LinkLostError(Exception):
    """The session ended without being told to; `cause` says how it looked from here."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class FollowSession:
    """Feeds *mirrors* from the instance. The callbacks run on the event loop, after the bytes are on the disk."""

    def __init__(
        self,
        mirrors: Sequence[Mirror],
        paths: Sequence[str],
        *,
        on_bytes: Callable[[Mirror], None],
        on_status: Callable[[dict[str, Any]], None],
        on_generation: Callable[[Mirror, Mapping[str, Any]], None],
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._mirrors = list(mirrors)
        self._paths = list(paths)
        self._on_bytes = on_bytes
        self._on_status = on_status
        self._on_generation = on_generation
        self._heartbeat_s = heartbeat_s
        self._nonce = secrets.token_hex(8)
        self._reader = protocol.FrameReader(self._nonce)
        self._error: Exception | None = None
        self._heard = asyncio.Event()
        self._channel: Channel | None = None
        self.heard_at: float | None = None
        """When (monotonic) the other side was last heard; None when it never was."""

    async def run(
        self, connection: Connection, command: str, *, workspace: str | None, done: asyncio.Event
    ) -> None:
        """Follow until *done* is set.

        Raises:
            LinkLostError: the link went away or lied; connect again and start a new session.
            UsageError: a mirror is not what the remote file began with.
            LocalMachineError: this disk is full.
        """
        self._channel = channel = await Channel.open(connection, command, on_bytes=self._take)
        try:
            channel.write(json.dumps(self._request(workspace)).encode() + b"\n")
            await self._listen(channel, done)
        finally:
            channel.abort()
            for mirror in self._mirrors:
                mirror.sync()

    def _request(self, workspace: str | None) -> dict[str, Any]:
        files = [
            {
                "path": str(PurePosixPath(path)),
                "offset": mirror.offset,
                "generation": mirror.generation,
                "proof": mirror.proof(),
            }
            for mirror, path in zip(self._mirrors, self._paths, strict=True)
        ]
        return {
            "format": protocol.FORMAT,
            "nonce": self._nonce,
            "workspace": workspace,
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
                    raise LinkLostError(self._why_ended(channel))
                if not was_heard:
                    raise LinkLostError(f"silent for {limit_s:.0f} s")
        finally:
            ended.cancel()
            finished.cancel()

    def _why_ended(self, channel: Channel) -> str:
        if self._reader.is_greeted or channel.exit_status is None:
            return "the connection was lost"
        said = (self._reader.noise.decode("utf-8", "replace") + channel.stderr).strip()[-300:]
        return f"the follower did not start (exit status {channel.exit_status}): {said}"

    def _take(self, data: bytes) -> None:
        if self._error is not None:
            return
        if self._reader.is_greeted:
            self.heard_at = time.monotonic()
        try:
            for frame in self._reader.feed(data):
                self._take_frame(frame)
        except protocol.ProtocolError as error:
            self._fail(LinkLostError(f"garbled: {error}"))
        except (LocalMachineError, UsageError) as error:
            self._fail(error)
        except (ValueError, IndexError) as error:
            self._fail(LinkLostError(f"out of step: {error}"))
        self._heard.set()

    def _fail(self, error: ProvisionError | LinkLostError) -> None:
        self._error = error
        if self._channel is not None:
            self._channel.pause()

    def _take_frame(self, frame: protocol.Frame) -> None:
        if frame.kind == protocol.DATA:
            mirror = self._mirrors[frame.file]
            if mirror.append(frame.generation, frame.offset, frame.payload):
                self._on_bytes(mirror)
        elif frame.kind == protocol.BEAT:
            if self._channel is not None:
                self._channel.write(b".")
        elif frame.kind == protocol.STATUS:
            self._on_status(frame.json())
        elif frame.kind == protocol.GENERATION:
            self._begin_generation(self._mirrors[frame.file], frame.json())
        elif frame.kind == protocol.RESUMED:
            self._check_resumed(self._mirrors[frame.file], frame.json())
        else:
            raise protocol.ProtocolError(str(frame.json().get("message", "the follower failed")))

    def _begin_generation(self, mirror: Mirror, facts: Mapping[str, Any]) -> None:
        mirror.begin_generation(int(facts["generation"]))
        log.info("mirror_generation_began", file=mirror.name, why=facts.get("why"))
        self._on_generation(mirror, facts)

    def _check_resumed(self, mirror: Mirror, facts: Mapping[str, Any]) -> None:
        if not facts.get("resumed"):
            raise UsageError(
                f"the mirror `{mirror.path}` is not a beginning of the remote file: one of the two was edited or replaced",
                hint="move the mirror away (with its `.state.json`) and run the same command again: it is fetched anew",
            )
