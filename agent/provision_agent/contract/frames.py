"""The follow wire: frames that carry the bytes of files, and the marks of what the agent says on stdout.

Pure, shared by both halves, and sent alone with `tail` to instances that run no agent: it runs on Python 3.6.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, Iterator, Mapping, NamedTuple

AGENT_MAGIC = b"\n\x02provision-agent "
"""Before the bootstrap's JSON line: whether it has the agent, and which python runs it."""

ANSWER_MAGIC = b"\n\x02provision-answer "
"""Before the agent's answer, one JSON line."""

NO_PYTHON = b"\n\x02provision-no-python"
"""No python3 of at least 3.8 was found."""

MAX_PAYLOAD_BYTES = 1 << 20
"""A frame that says it is longer is a lie, and the connection is dropped."""

PROOF_BYTES = 64 * 1024
"""How many bytes before its offset a mirror proves that it has, by their sha256, before it is continued."""

_HEAD = struct.Struct(">cBI")
_POSITION = struct.Struct(">IQ")

DATA, GENERATION, RESUMED, STATUS, BEAT, ERROR = (b"D", b"G", b"R", b"S", b"B", b"E")
_KINDS = (DATA, GENERATION, RESUMED, STATUS, BEAT, ERROR)

FOLDER_GONE = "folder-gone"
"""The `cause` in an `ERROR` frame: the folder of the run that is followed was deleted on the instance."""


class ProtocolError(Exception):
    """The other side sent what no version of this protocol sends."""


class Frame(NamedTuple):
    """One message. For `DATA`, `generation` and `offset` say where `payload` stands in the remote file."""

    kind: bytes
    file: int
    payload: bytes
    generation: int = 0
    offset: int = 0

    def json(self) -> Dict[str, Any]:
        """The payload of every kind but `DATA`."""
        try:
            value = json.loads(self.payload or b"{}")
        except (ValueError, RecursionError):
            raise ProtocolError("a frame holds broken JSON") from None
        if not isinstance(value, dict):
            raise ProtocolError("a frame holds JSON that is no object")
        return value


def magic(nonce: str) -> bytes:
    """What stands before the first frame, so that whatever a login shell printed can be dropped."""
    return b"\n\x02provision-follow " + nonce.encode() + b"\n"


def pack(kind: bytes, file: int, payload: Mapping[str, Any]) -> bytes:
    """A frame with a JSON payload."""
    body = json.dumps(payload, separators=(",", ":")).encode()
    return _HEAD.pack(kind, file, len(body)) + body


def data_head(file: int, generation: int, offset: int, length: int) -> bytes:
    """The head of a `DATA` frame whose *length* bytes follow on the wire."""
    return _HEAD.pack(DATA, file, _POSITION.size + length) + _POSITION.pack(generation, offset)


class FrameReader:
    """Cut a byte stream into frames, however it was chunked; memory stays below one frame and one chunk.

    Bytes before `magic` are dropped, up to *max_noise_bytes* of them.
    """

    def __init__(self, nonce: str, *, max_noise_bytes: int = 1 << 20) -> None:
        self._magic = magic(nonce)
        self._buffer = bytearray()
        self._noise_left = max_noise_bytes
        self.is_greeted = False
        self.noise = b""
        """The last bytes that came before the magic: a login banner, or why the command did not start."""

    @property
    def unread(self) -> bytes:
        """What has come and is no whole frame yet."""
        return bytes(self._buffer)

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yield each frame that *chunk* completes.

        Raises:
            ProtocolError: an unknown kind, a payload over `MAX_PAYLOAD_BYTES`, or too much noise.
        """
        self._buffer += chunk
        if not self.is_greeted and not self._greet():
            return
        at = 0
        while len(self._buffer) - at >= _HEAD.size:
            kind, file, length = _HEAD.unpack_from(self._buffer, at)
            if kind not in _KINDS or length > MAX_PAYLOAD_BYTES or (kind == DATA and length < _POSITION.size):
                raise ProtocolError(f"an impossible frame head: kind {kind!r}, {length} bytes")
            end = at + _HEAD.size + length
            if len(self._buffer) < end:
                break
            yield self._frame(kind, file, at + _HEAD.size, end)
            at = end
        del self._buffer[:at]

    def _frame(self, kind: bytes, file: int, start: int, end: int) -> Frame:
        if kind != DATA:
            return Frame(kind, file, bytes(self._buffer[start:end]))
        generation, offset = _POSITION.unpack_from(self._buffer, start)
        return Frame(kind, file, bytes(self._buffer[start + _POSITION.size : end]), generation, offset)

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
