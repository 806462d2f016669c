"""The wire of files: frames in both directions of one channel, whichever side sends the files. Pure.

The sender lists its files, the receiver says which of them it wants and from which byte, the bytes follow, and the
receiver says of each file what became of it. What it has taken it tells in between, so that no more is under way than
the line carries in a moment: logs share the connection.
"""

from __future__ import annotations

import json
import struct
from typing import Dict, Iterator, Mapping, NamedTuple, Union

from .frames import ProtocolError

MAX_PAYLOAD_BYTES = 1 << 20
CHUNK_BYTES = 128 << 10
"""Of a file in one frame: short enough for other channels to have their turn."""
MAX_NOISE_BYTES = 1 << 20
SPEAK_EVERY_S = 2.0
DEAD_MAN_S = 15.0
"""Who hears nothing for this long takes the other side for gone."""

LISTED, ALL_LISTED, WANTED, DATA, COMPLETE, SETTLED, TAKEN, BEAT, PROBLEM, OVER = (
    b"F", b"L", b"W", b"D", b"C", b"S", b"T", b"B", b"P", b"O",
)  # fmt: skip
KINDS = frozenset((LISTED, ALL_LISTED, WANTED, DATA, COMPLETE, SETTLED, TAKEN, BEAT, PROBLEM, OVER))
"""`LISTED` `COMPLETE` `PROBLEM` are the sender's, with `ALL_LISTED` when it has named all; `WANTED` `SETTLED` `TAKEN` the receiver's."""

_HEAD = struct.Struct(">cII")
_OFFSET = struct.Struct(">Q")
HEAD_BYTES = _HEAD.size
OFFSET_BYTES = _OFFSET.size

Bytes = Union[bytes, bytearray, memoryview]


class FileFrame(NamedTuple):
    """One message. For `DATA`, `offset` says where `payload` stands in the file `number`."""

    kind: bytes
    number: int
    payload: Bytes
    offset: int = 0

    def json(self) -> Dict[str, object]:
        """The payload of every kind but `DATA`.

        Raises:
            ProtocolError: it is no JSON object.
        """
        try:
            value = json.loads(bytes(self.payload) or b"{}")
        except (ValueError, RecursionError):
            raise ProtocolError("a frame holds broken JSON") from None
        if not isinstance(value, dict):
            raise ProtocolError("a frame holds JSON that is no object")
        return value


def magic(nonce: str) -> bytes:
    """What stands before the agent's first frame, so that whatever a login shell printed can be dropped."""
    return b"\n\x02provision-files " + nonce.encode() + b"\n"


def pack(kind: bytes, payload: Mapping[str, object], number: int = 0) -> bytes:
    """A frame with a JSON payload.

    Args:
        kind: Any but `DATA`.
        payload: What `FileFrame.json` gives back.
        number: Of the file that it is about.
    """
    return pack_text(kind, json.dumps(payload, separators=(",", ":")).encode(), number)


def pack_text(kind: bytes, text: bytes, number: int = 0) -> bytes:
    """As `pack`, of a JSON object that is written already."""
    return _HEAD.pack(kind, number, len(text)) + text


def data_head(number: int, offset: int, length: int) -> bytes:
    """The head of a `DATA` frame whose *length* bytes follow on the wire.

    Args:
        number: Of the file.
        offset: Where the bytes stand in it.
        length: How many follow.
    """
    return _HEAD.pack(DATA, number, _OFFSET.size + length) + _OFFSET.pack(offset)


class HeadOf(NamedTuple):
    """What the head of a frame says."""

    kind: bytes
    number: int
    length: int


def read_head(head: Bytes) -> HeadOf:
    """The head of a frame, `HEAD_BYTES` long.

    Raises:
        ProtocolError: no version of this protocol has such a frame.
    """
    kind, number, length = _HEAD.unpack_from(head)
    if kind not in KINDS or length > MAX_PAYLOAD_BYTES or (kind == DATA and length < _OFFSET.size):
        raise ProtocolError(f"an impossible frame head: kind {kind!r}, {length} bytes")
    return HeadOf(kind, number, length)


def frame_of(head: HeadOf, body: Bytes) -> FileFrame:
    """The frame of a head and the bytes after it."""
    if head.kind != DATA:
        return FileFrame(head.kind, head.number, body)
    (offset,) = _OFFSET.unpack_from(body)
    return FileFrame(DATA, head.number, body[_OFFSET.size :], offset)


class FileFrameReader:
    """Cut a byte stream into frames, however it was chunked. Bytes before `magic` are dropped, within bounds."""

    def __init__(self, nonce: str) -> None:
        self._magic = magic(nonce)
        self._buffer = bytearray()
        self._noise_left = MAX_NOISE_BYTES
        self.is_greeted = False
        self.noise = b""
        """The last bytes that came before the magic."""

    def feed(self, chunk: bytes) -> Iterator[FileFrame]:
        """Yield each frame that *chunk* completes.

        Raises:
            ProtocolError: an unknown kind, a payload over `MAX_PAYLOAD_BYTES`, or too much noise.
        """
        self._buffer += chunk
        if not self.is_greeted and not self._greet():
            return
        at = 0
        while len(self._buffer) - at >= _HEAD.size:
            head = read_head(memoryview(self._buffer)[at : at + _HEAD.size].tobytes())
            end = at + _HEAD.size + head.length
            if len(self._buffer) < end:
                break
            yield frame_of(head, bytes(self._buffer[at + _HEAD.size : end]))
            at = end
        del self._buffer[:at]

    def _greet(self) -> bool:
        found = self._buffer.find(self._magic)
        keep = len(self._magic) - 1
        dropped = found if found >= 0 else max(len(self._buffer) - keep, 0)
        self.noise = (self.noise + bytes(self._buffer[:dropped]))[-4096:]
        self._noise_left -= dropped
        if self._noise_left < 0:
            raise ProtocolError("no hello, only other output")
        self.is_greeted = found >= 0
        del self._buffer[: dropped + (len(self._magic) if self.is_greeted else 0)]
        return self.is_greeted
