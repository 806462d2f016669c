"""Feed mirrors where the instance has no python3: one shell that answers requests by `tail`, polled.

Slower than the follower, and as exact: every answer brings the bytes before the offset along, so what is appended
is proved to follow what is there. A rotated file is found again by those bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import time
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from provision_agent import protocol

from ..instance import Channel, Connection
from .follow import HELLO_TIMEOUT_S, LinkLostError, Listener, edited
from .mirror import Mirror

CHUNK_BYTES = 1 << 20
EVIDENCE_BYTES = 4096
ANSWER_TIMEOUT_S = 15.0
GONE_AFTER_S = 5.0

_SCRIPT = r"""
n=$0
printf '\n\002%s hello\n' "$n"
facts() { stat -L -c '%d %i %s %Y' -- "$1" 2>/dev/null || { [ -f "$1" ] && echo "0 0 $(wc -c < "$1") 0"; }; }
while read -r verb start count path; do
  case $verb in
  read)
    if [ -f "$path" ] && [ -r "$path" ]; then
      printf '\n\002%s %s\n' "$n" "$(facts "$path")"
      tail -c "+$start" -- "$path" 2>/dev/null | head -c "$count"
    else
      printf '\n\002%s none\n' "$n"
    fi ;;
  list)
    printf '\n\002%s list\n' "$n"
    for f in "$path"/*; do [ -f "$f" ] && printf '%s %s\n' "$(facts "$f")" "$f"; done ;;
  esac
  printf '\n\003%s\n' "$n"
done
"""


class Answer(NamedTuple):
    """What stands in one file. `identity` is None where the instance has no `stat`."""

    identity: tuple[int, int] | None
    size: int
    modified_s: int
    data: bytes


class ShellSession:
    """One session, like `FollowSession`, for an instance without python3."""

    def __init__(
        self, mirrors: Sequence[Mirror], paths: Sequence[str], listener: Listener, *, poll_s: float
    ) -> None:
        self._listener = listener
        self._shell = _Shell()
        self._logs = [
            _Polled(mirror, path, listener, self._shell) for mirror, path in zip(mirrors, paths, strict=True)
        ]
        self._poll_s = poll_s
        self._asked = asyncio.Event()

    @property
    def heard_at(self) -> float | None:
        """When (monotonic) the other side was last heard; None when it never was."""
        return self._shell.heard_at

    def ask(self) -> None:
        """Look at once."""
        self._asked.set()

    async def run(self, connection: Connection, *, done: asyncio.Event) -> None:
        """Poll until *done* is set. Raises as `FollowSession.run` does."""
        try:
            await self._shell.start(connection)
            while not done.is_set():
                self._asked.clear()
                moved = [await log.poll() for log in self._logs]
                if not any(moved):
                    self._listener.on_beat([log.unread for log in self._logs])
                    await self._pause(done)
        finally:
            self._shell.close()
            for log in self._logs:
                log.mirror.sync()

    async def _pause(self, done: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._asked, done, self._shell.ended)]
        try:
            await asyncio.wait(waits, timeout=self._poll_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class _Polled:
    """One log. `_reading` is the name under which the current generation lies now; the others come after it."""

    def __init__(self, mirror: Mirror, path: str, listener: Listener, shell: _Shell) -> None:
        self.mirror = mirror
        self.unread = 0
        self._path = path
        self._reading = path
        self._next: list[str] = []
        self._listener = listener
        self._shell = shell
        self._has_begun = False
        self._missing_since: float | None = None

    async def poll(self) -> bool:
        """Append at most one chunk, or take one step towards the next file; True when there was something to do."""
        answer = await self._read(self._reading)
        fresh = None if answer is None else self._new_bytes(answer)
        if answer is None or fresh is None:
            await self._begin({"missing": answer is None, "unread": 0})
            return await self._search(answer)
        self._missing_since = None
        self.unread = max(answer.size - self.mirror.offset - len(fresh), 0)
        await self._begin({**_facts(answer), "unread": max(answer.size - self.mirror.offset, 0)})
        self.mirror.remote_bytes = answer.size
        if self.mirror.offset == 0 and answer.identity is not None:
            self.mirror.identify(_facts(answer))
        if fresh:
            if self.mirror.append(self.mirror.generation, self.mirror.offset, fresh):
                self._listener.on_bytes(self.mirror)
            return True
        return await self._move_on()

    async def _begin(self, facts: dict[str, object]) -> None:
        if not self._has_begun:
            self._has_begun = True
            is_first = self.mirror.fresh_from is None and self.mirror.length == 0
            older = await self._rotated() if is_first else []
            self._listener.on_begin(
                self.mirror, {**facts, "before_bytes": sum(each.size for _, each in older)}
            )

    async def _read(self, path: str, *, before: int | None = None, count: int = CHUNK_BYTES) -> Answer | None:
        """The bytes from the evidence before *before* (the mirror's offset) on; None when there is no such file."""
        offset = self.mirror.offset if before is None else before
        behind = min(offset, EVIDENCE_BYTES)
        return await self._shell.read(path, offset - behind, behind + count)

    def _new_bytes(self, answer: Answer) -> bytes | None:
        """What follows the mirror's end in *answer*; None when that is another file."""
        claim = self.mirror.claim()
        if self.mirror.offset == 0:
            known = (claim["dev"], claim["ino"])
            is_same = answer.identity is None or claim["ino"] is None or answer.identity == known
            return answer.data if is_same else None
        behind = self._evidence(self.mirror.offset)
        return answer.data[len(behind) :] if answer.data.startswith(behind) else None

    def _evidence(self, offset: int) -> bytes:
        size = min(offset, EVIDENCE_BYTES)
        return self.mirror.read(self.mirror.base + offset - size, size)

    async def _move_on(self) -> bool:
        """The file is at its end: go on with the next one, once somebody writes there."""
        if not self._next and self._reading == self._path:
            return False
        for position, path in enumerate(self._next or [self._path]):
            answer = await self._shell.read(path, 0, 1)
            if answer is not None and answer.size:
                rest = await self._read(self._reading)
                if rest is not None and self._new_bytes(rest):
                    return True  # written before the successor's first byte: it comes with the next poll
                self._next = (self._next or [self._path])[position + 1 :]
                self._enter(path, answer, lost_bytes=0)
                return True
        return False

    def _enter(self, path: str, answer: Answer | None, *, lost_bytes: int | None) -> None:
        self._reading = path
        facts = {} if answer is None else _facts(answer)
        self.mirror.begin_generation(self.mirror.generation + 1, facts)
        if lost_bytes != 0:
            self._listener.on_gap(self.mirror, lost_bytes)
        self._listener.on_generation(self.mirror, facts)

    async def _search(self, answer: Answer | None) -> bool:
        """The file is not what it was: find it under another name, or give up what was unread."""
        offset, claim = self.mirror.offset, self.mirror.claim()
        if offset == 0 and claim["ino"] is None and not claim["must_match"]:
            return False  # never seen: wait for it
        chain = await self._rotated()
        for position, (path, found) in enumerate(chain):
            other = await self._read(path, count=1)
            if other is None:
                continue
            is_ours = (
                other.data.startswith(self._evidence(offset))
                if offset
                else found.identity == (claim["dev"], claim["ino"])
            )
            if is_ours:
                self._reading = path
                later = chain[position + 1 :]
                self._next = [name for name, each in later if each.identity != found.identity] + [self._path]
                return True
        if answer is not None:
            await self._refuse_if_edited()
        self._missing_since = self._missing_since or time.monotonic()
        if answer is None and (claim["must_match"] or time.monotonic() - self._missing_since < GONE_AFTER_S):
            return False
        known = self.mirror.remote_bytes
        self._next = []
        self._enter(self._path, answer, lost_bytes=known - offset if known and known > offset else None)
        return True

    async def _rotated(self) -> list[tuple[str, Answer]]:
        """The log's rotated files, the oldest first."""
        log = PurePosixPath(self._path)
        pattern = protocol.rotated_name(log.name)
        found = await self._shell.list(str(log.parent))
        ours = [(path, each) for path, each in found if pattern.match(PurePosixPath(path).name)]
        return sorted(ours, key=lambda pair: (pair[1].modified_s, protocol.rotation_age(pair[0])))

    async def _refuse_if_edited(self) -> None:
        """A mirror whose middle is in the log and whose end is not was changed here."""
        middle = self.mirror.offset // 2
        found = await self._read(self._path, before=middle, count=0) if middle else None
        is_same = found is not None and found.data == self._evidence(middle)
        if is_same or self.mirror.claim()["must_match"]:
            raise edited(self.mirror)


class _Shell:
    """A shell on the instance that answers one request at a time."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(8)
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._channel: Channel | None = None
        self.ended = asyncio.Event()
        self.heard_at: float | None = None

    async def start(self, connection: Connection) -> None:
        command = f"exec sh -c {shlex.quote(_SCRIPT)} {self._nonce}"
        self._channel = await Channel.open(connection, command, on_bytes=self._take)
        self.ended = self._channel.ended
        await self._until(f"\n\2{self._nonce} hello\n".encode(), HELLO_TIMEOUT_S)

    async def read(self, path: str, start: int, count: int) -> Answer | None:
        """*count* bytes of *path* from *start*; None when it cannot be read."""
        head, body = await self._ask(f"read {start + 1} {count} {path}")
        return None if head == "none" else _answer(head, body)

    async def list(self, folder: str) -> list[tuple[str, Answer]]:
        """The files in *folder*."""
        _, body = await self._ask(f"list 0 0 {folder}")
        found = []
        for line in body.decode("utf-8", "surrogateescape").split("\n"):
            words = line.split(" ", 4)
            if len(words) == 5:
                found.append((words[4], _answer(" ".join(words[:4]), b"")))
        return found

    def close(self) -> None:
        if self._channel is not None:
            self._channel.abort()

    async def _ask(self, request: str) -> tuple[str, bytes]:
        assert self._channel is not None
        self._channel.write(request.encode("utf-8", "surrogateescape") + b"\n")
        body = await self._until(f"\n\3{self._nonce}\n".encode(), ANSWER_TIMEOUT_S)
        mark = f"\n\2{self._nonce} ".encode()
        at = body.find(mark)
        end = body.find(b"\n", at + len(mark))
        if at < 0 or end < 0:
            raise LinkLostError("garbled: an answer without a head")
        return body[at + len(mark) : end].decode("ascii", "replace"), body[end + 1 :]

    async def _until(self, mark: bytes, timeout_s: float) -> bytes:
        assert self._channel is not None
        searched = 0
        try:
            async with asyncio.timeout(timeout_s) as limit:
                while (at := self._buffer.find(mark, max(searched - len(mark), 0))) < 0:
                    searched = len(self._buffer)
                    if self.ended.is_set():
                        raise LinkLostError("the connection was lost")
                    self._arrived.clear()
                    await self._something()
                    limit.reschedule(asyncio.get_running_loop().time() + timeout_s)
        except TimeoutError:
            raise LinkLostError(
                f"silent for {timeout_s:.0f} s", was_greeted=self.heard_at is not None
            ) from None
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    async def _something(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._arrived, self.ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _take(self, data: bytes) -> None:
        self._buffer += data
        self.heard_at = time.monotonic()
        if len(self._buffer) > 2 * CHUNK_BYTES + (1 << 20) and self._channel is not None:
            self._channel.abort()  # more than was asked for
        self._arrived.set()


def _answer(head: str, body: bytes) -> Answer:
    with contextlib.suppress(ValueError):
        device, inode, size, modified = (int(word) for word in head.split())
        return Answer((device, inode) if inode else None, size, modified, body)
    raise LinkLostError("garbled: an answer without facts")


def _facts(answer: Answer) -> dict[str, object]:
    if answer.identity is None:
        return {"at": answer.modified_s}
    return {"dev": answer.identity[0], "ino": answer.identity[1], "at": answer.modified_s}
