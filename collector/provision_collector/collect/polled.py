"""Feed mirrors where the instance has no python3: files are read by `tail`, polled.

Slower than the follower, and as exact: every answer brings the bytes before the offset along, so what is appended
is proved to follow what is there. A rotated file is found again by those bytes, unless it was compressed: then its
rest is a gap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from provision_agent.contract import log_names

from ..instance import Connection, any_of
from ..mirror.mirror import FileFacts, Mirror
from ..mirror.session import Listener, edited, unreadable
from ..mirror.wire import Begun
from ..storage import in_thread
from .shell_session import Answer, RemoteShell

CHUNK_BYTES = 1 << 20
EVIDENCE_BYTES = 4096
GONE_AFTER_S = 5.0
LOOKS = 5
"""So often the folder is looked at again when somebody rotated the log meanwhile."""


class ShellSession:
    """One session, like `FollowSession`, for an instance without python3."""

    def __init__(
        self, mirrors: Sequence[Mirror], paths: Sequence[str], listener: Listener, *, poll_s: float
    ) -> None:
        self._listener = listener
        self._shell = RemoteShell()
        self._logs = [
            _Polled(mirror, path, listener, self._shell) for mirror, path in zip(mirrors, paths, strict=True)
        ]
        self._poll_s = poll_s
        self._asked = asyncio.Event()
        self._began_at = time.monotonic()

    @property
    def heard_at(self) -> float | None:
        """When (monotonic) the other side was last heard; None when it never was."""
        return self._shell.heard_at

    @property
    def lasted_s(self) -> float:
        """How long the other side was heard, in seconds."""
        return 0.0 if self.heard_at is None else self.heard_at - self._began_at

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
                    await self._listener.on_beat([log.unread for log in self._logs])
                    await any_of(self._asked, done, self._shell.ended, timeout_s=self._poll_s)
        finally:
            self._shell.close()
            for log in self._logs:
                await log.mirror.seal()


class _Polled:
    """One log. `_reading` is the name under which the current generation lies now; the others come after it."""

    def __init__(self, mirror: Mirror, path: str, listener: Listener, shell: RemoteShell) -> None:
        self.mirror = mirror
        self.unread = 0
        self._path = path
        self._reading = path
        self._next: list[str] = []
        self._listener = listener
        self._shell = shell
        self._has_begun = False
        self._missing_since: float | None = None
        self._looks = 0

    async def poll(self) -> bool:
        """Append at most one chunk, or take one step towards the next file; True when there was something to do."""
        answer = await self._read(self._reading)
        if self._shell.obstacle and self._reading == self._path:
            raise unreadable(self._path, self._shell.obstacle)
        fresh = None if answer is None else self._new_bytes(answer)
        if answer is None or fresh is None:
            await self._begin(Begun(missing=answer is None))
            return await self._search(answer)
        self._missing_since = None
        self.unread = max(answer.size - self.mirror.offset - len(fresh), 0)
        await self._begin(Begun(resumed=True, unread=max(answer.size - self.mirror.offset, 0)))
        self.mirror.remote_bytes = answer.size
        if self.mirror.offset == 0 and answer.identity is not None:
            await in_thread(self.mirror.identify, answer.facts())
        if fresh:
            if self.mirror.append(self.mirror.generation, self.mirror.offset, fresh):
                await self._listener.on_bytes(self.mirror, fresh)
            return True
        return await self._move_on()

    async def _begin(self, begun: Begun) -> None:
        if not self._has_begun:
            self._has_begun = True
            is_first = self.mirror.fresh_from is None and self.mirror.length == 0
            older = await self._rotated() if is_first else []
            before_bytes = sum(each.size for _, each in older)
            await self._listener.on_begin(self.mirror, replace(begun, before_bytes=before_bytes))

    async def _read(self, path: str, *, before: int | None = None, count: int = CHUNK_BYTES) -> Answer | None:
        """The bytes from the evidence before *before* (the mirror's offset) on; None when there is no such file."""
        offset = self.mirror.offset if before is None else before
        behind = min(offset, EVIDENCE_BYTES)
        return await self._shell.read(path, offset - behind, behind + count)

    def _new_bytes(self, answer: Answer) -> bytes | None:
        """What follows the mirror's end in *answer*; None when that is another file."""
        known = self.mirror.identity
        if self.mirror.offset == 0:
            is_same = answer.identity is None or known[1] is None or answer.identity == known
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
                if rest is None or self._new_bytes(rest) != b"":
                    return True  # written before the successor's first byte, or the names have moved on: look again
                self._next = (self._next or [self._path])[position + 1 :]
                await self._enter(path, answer, lost_bytes=0)
                return True
        return False

    async def _enter(self, path: str, answer: Answer | None, *, lost_bytes: int | None) -> None:
        self._reading = path
        facts = FileFacts() if answer is None else answer.facts()
        await in_thread(self.mirror.begin_generation, self.mirror.generation + 1, facts)
        if lost_bytes != 0:
            await self._listener.on_gap(self.mirror, lost_bytes)
        await self._listener.on_generation(self.mirror, facts)

    async def _search(self, answer: Answer | None) -> bool:
        """The file is not what it was: find it under another name, or give up what was unread."""
        offset, must_match = self.mirror.offset, self.mirror.must_match
        if offset == 0 and self.mirror.identity[1] is None and not must_match:
            return False  # never seen: wait for it
        chain = await self._rotated()
        if await self._found_in(chain):
            return True
        if await self._rotated() != chain and self._looks < LOOKS:
            self._looks += 1
            return True  # somebody rotated it while we looked
        self._looks = 0
        if answer is not None:
            await self._refuse_if_edited()
        self._missing_since = self._missing_since or time.monotonic()
        if answer is None and (must_match or time.monotonic() - self._missing_since < GONE_AFTER_S):
            return False
        known = self.mirror.remote_bytes
        self._next = []
        lost_bytes = known - offset if known and known > offset else None
        await self._enter(self._path, answer, lost_bytes=lost_bytes)
        return True

    async def _found_in(self, chain: list[tuple[str, Answer]]) -> bool:
        """Go on with the file of *chain* that holds what the mirror ends with, and then with those after it."""
        offset = self.mirror.offset
        for position, (path, found) in enumerate(chain):
            other = await self._read(path, count=1)
            if other is None:
                continue
            is_ours = (
                other.data.startswith(self._evidence(offset))
                if offset
                else found.identity == self.mirror.identity
            )
            if is_ours:
                self._reading = path
                later = chain[position + 1 :]
                self._next = [name for name, each in later if each.identity != found.identity] + [self._path]
                return True
        return False

    async def _rotated(self) -> list[tuple[str, Answer]]:
        """The log's rotated files, the oldest first."""
        log = PurePosixPath(self._path)
        pattern = log_names.rotated_name(log.name)
        found = await self._shell.list(str(log.parent))
        ours = [(path, each) for path, each in found if pattern.match(PurePosixPath(path).name)]
        return sorted(ours, key=lambda pair: (pair[1].modified_s, log_names.rotation_age(pair[0])))

    async def _refuse_if_edited(self) -> None:
        """A mirror whose middle is in the log and whose end is not was changed here."""
        middle = self.mirror.offset // 2
        found = await self._read(self._path, before=middle, count=0) if middle else None
        is_same = found is not None and found.data == self._evidence(middle)
        if is_same or self.mirror.must_match:
            raise edited(self.mirror)
