"""The wire of files: frames in both directions of one channel, whichever side sends the files. Pure.

The sender lists its files, the receiver says which of them it wants and from which byte, the bytes follow, and the
receiver says of each file what became of it. What it has taken it tells in between, so that no more is under way than
the line carries in a moment: logs share the connection.
"""

from __future__ import annotations

import json
import struct
from typing import Dict, Iterable, Iterator, List, Mapping, NamedTuple

from .file_messages import MAX_IN_FRAME
from .frames import MAX_NOISE_BYTES, Bytes, FrameCutter, Head, check_head, object_of
from .parsing import to_json

CHUNK_BYTES = 128 << 10
"""Of a file in one frame: short enough for other channels to have their turn."""
LIST_BYTES = 256 << 10
"""Of a list in one frame, beyond its first entry."""
SPEAK_EVERY_S = 2.0
DEAD_MAN_S = 15.0
"""Who hears nothing for this long takes the other side for gone."""

LISTED, ALL_LISTED, WANTED, DATA, COMPLETE, SETTLED, TAKEN, BEAT, PROBLEM, OVER = (
    b"F", b"L", b"W", b"D", b"C", b"S", b"T", b"B", b"P", b"O",
)  # fmt: skip
KINDS = (LISTED, ALL_LISTED, WANTED, DATA, COMPLETE, SETTLED, TAKEN, BEAT, PROBLEM, OVER)
"""`LISTED` `COMPLETE` `PROBLEM` are the sender's, with `ALL_LISTED` when it has named all; `WANTED` `SETTLED` `TAKEN` the receiver's."""

_HEAD = struct.Struct(">cII")
_OFFSET = struct.Struct(">Q")
HEAD_BYTES = _HEAD.size


class FileFrame(NamedTuple):
    """One message. For `DATA`, `offset` says where `payload` stands in the file `number`."""

    kind: bytes
    number: int
    payload: Bytes
    offset: int = 0

    def json(self) -> Dict[str, object]:
        """The payload of every kind but `DATA`. Raises as `object_of`."""
        return object_of(self.payload)


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
    return _pack_text(kind, _text(payload), number)


def pack_lists(kind: bytes, name: str, entries: Iterable[object]) -> Iterator[bytes]:
    """Frames that hold *entries*, each some of them: no frame has too many, or is too long.

    Args:
        kind: One whose payload is a list.
        name: Of the list in the payload.
        entries: Dataclasses of `file_messages`.
    """
    texts: List[bytes] = []
    size_bytes = 0
    for entry in entries:
        text = _text(to_json(entry))
        if texts and (size_bytes + len(text) > LIST_BYTES or len(texts) >= MAX_IN_FRAME):
            yield _pack_list(kind, name, texts)
            texts, size_bytes = [], 0
        texts.append(text)
        size_bytes += len(text) + 1
    if texts:
        yield _pack_list(kind, name, texts)


def _pack_list(kind: bytes, name: str, texts: List[bytes]) -> bytes:
    return _pack_text(kind, b'{"' + name.encode() + b'":[' + b",".join(texts) + b"]}")


def _text(payload: Mapping[str, object]) -> bytes:
    return json.dumps(payload, separators=(",", ":")).encode()


def _pack_text(kind: bytes, text: bytes, number: int = 0) -> bytes:
    return _HEAD.pack(kind, number, len(text)) + text


def data_head(number: int, offset: int, length: int) -> bytes:
    """The head of a `DATA` frame whose *length* bytes follow on the wire.

    Args:
        number: Of the file.
        offset: Where the bytes stand in it.
        length: How many follow.
    """
    return _HEAD.pack(DATA, number, _OFFSET.size + length) + _OFFSET.pack(offset)


def read_head(data: Bytes, at: int = 0) -> Head:
    """The head of a frame, `HEAD_BYTES` long, that begins *at* this byte.

    Raises:
        ProtocolError: no version of this protocol has such a frame.
    """
    return check_head(Head(*_HEAD.unpack_from(data, at)), KINDS, _OFFSET.size)


def frame_of(head: Head, body: Bytes) -> FileFrame:
    """The frame of a head and the bytes after it, which it takes as they are."""
    if head.kind != DATA:
        return FileFrame(head.kind, head.number, body)
    (offset,) = _OFFSET.unpack_from(body)
    return FileFrame(DATA, head.number, body[_OFFSET.size :], offset)


class FileFrameReader(FrameCutter[FileFrame]):
    """The frames of a session, as `FrameCutter`."""

    def __init__(self, nonce: str) -> None:
        super().__init__(
            magic(nonce),
            head_bytes=HEAD_BYTES,
            read_head=read_head,
            frame_of=frame_of,
            max_noise_bytes=MAX_NOISE_BYTES,
        )
