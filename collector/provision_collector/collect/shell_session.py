"""A shell on an instance without python3 that answers one request at a time: a part of a file, the files of a folder.

An answer stands between two marks with a nonce, so whatever a login shell prints is dropped; no answer is longer than
what was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import time
from typing import NamedTuple

from ..instance import Channel, Connection, any_of
from ..mirror.mirror import FileFacts
from ..mirror.session import HELLO_TIMEOUT_S, LinkLostError

ANSWER_TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 4 << 20

_SCRIPT = r"""
n=$0
printf '\n\002%s hello\n' "$n"
facts() { stat -L -c '%d %i %s %Y' -- "$1" 2>/dev/null || { [ -f "$1" ] && echo "0 0 $(wc -c < "$1") 0"; }; }
obstacle() {
  if [ -d "$1" ]; then echo folder; elif [ -f "$1" ]; then [ -r "$1" ] || echo denied; elif [ -e "$1" ]; then echo special; fi
}
part() {  # of what is open now: its name may be another file's before this is over
  printf '\n\002%s %s\n' "$n" "$(facts /proc/self/fd/3)"
  tail -c "+$start" <&3 2>/dev/null | head -c "$count"
  return 0
}
while read -r verb start count path; do
  case $verb in
  read)
    [ -f "$path" ] && part 3< "$path" || printf '\n\002%s none %s\n' "$n" "$(obstacle "$path")" ;;
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

    def facts(self) -> FileFacts:
        """What finds the file again, as a mirror keeps it."""
        device, inode = self.identity or (None, None)
        return FileFacts(device, inode, self.modified_s)


class RemoteShell:
    """A shell on the instance that answers one request at a time."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(8)
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._channel: Channel | None = None
        self.obstacle = ""
        """Why what was last asked for can never be read: one of `frames.OBSTACLES`."""
        self.ended = asyncio.Event()
        self.heard_at: float | None = None

    async def start(self, connection: Connection) -> None:
        """Start it over *connection* and wait for its first word. Raises `LinkLostError`."""
        command = f"exec sh -c {shlex.quote(_SCRIPT)} {self._nonce}"
        self._channel = await Channel.open(connection, command, on_bytes=self._take)
        self.ended = self._channel.ended
        await self._until(f"\n\2{self._nonce} hello\n".encode(), HELLO_TIMEOUT_S)

    async def read(self, path: str, start: int, count: int) -> Answer | None:
        """Bytes of a file on the instance.

        Args:
            path: The file.
            start: The first byte, from 0.
            count: How many bytes at most.

        Returns:
            None when it cannot be read.

        Raises:
            LinkLostError: the connection is gone.
        """
        head, body = await self._ask(f"read {start + 1} {count} {path}")
        is_there = not head.startswith("none")
        self.obstacle = "" if is_there else head.partition(" ")[2]
        return _answer(head, body) if is_there else None

    async def list(self, folder: str) -> list[tuple[str, Answer]]:
        """The files in *folder*."""
        _, body = await self._ask(f"list 0 0 {folder}")
        found = []
        for line in body.decode("utf-8", "surrogateescape").split("\n"):
            words = line.split(" ", 4)
            with contextlib.suppress(LinkLostError):  # a name with a line break in it: no log of ours
                if len(words) == 5:
                    found.append((words[4], _answer(" ".join(words[:4]), b"")))
        return found

    def close(self) -> None:
        """Drop it."""
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
                    await any_of(self._arrived, self.ended)
                    limit.reschedule(asyncio.get_running_loop().time() + timeout_s)
        except TimeoutError:
            raise LinkLostError(
                f"silent for {timeout_s:.0f} s", was_greeted=self.heard_at is not None
            ) from None
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    def _take(self, data: bytes) -> None:
        self._buffer += data
        self.heard_at = time.monotonic()
        if len(self._buffer) > MAX_ANSWER_BYTES and self._channel is not None:
            self._channel.abort()  # more than was asked for
        self._arrived.set()


def _answer(head: str, body: bytes) -> Answer:
    with contextlib.suppress(ValueError):
        device, inode, size, modified = (int(word) for word in head.split())
        return Answer((device, inode) if inode else None, size, modified, body)
    raise LinkLostError("garbled: an answer without facts")
