"""The follow wire: frames that carry the bytes of files, and the marks of what the agent says on stdout.

Pure, shared by both halves, and sent alone with `tail` to instances that run no agent: it runs on Python 3.6.
"""

from __future__ import annotations

import json
import struct
from typing import (
    Callable,
    Dict,
    Generic,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    TypeVar,
    Union,
)

from .version import FORMAT

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

MAX_FILES = 256
"""In one session; a frame's head has one byte for the number of its file."""

MAX_SAMPLES = 256
MAX_NOISE_BYTES = 1 << 20

_HEAD = struct.Struct(">cBI")
_POSITION = struct.Struct(">IQ")

DATA, GENERATION, RESUMED, STATUS, BEAT, ERROR = (b"D", b"G", b"R", b"S", b"B", b"E")
_KINDS = (DATA, GENERATION, RESUMED, STATUS, BEAT, ERROR)

FOLDER_GONE = "folder-gone"
"""The `cause` in an `ERROR` frame: the folder of the run that is followed was deleted on the instance."""
IS_FOLDER, IS_SPECIAL, IS_DENIED = OBSTACLES = ("folder", "special", "denied")
"""The `obstacle` in a `RESUMED` frame: what is at the path is no file, or this user may not read it."""


class ProtocolError(Exception):
    """The other side sent what no version of this protocol sends."""


Bytes = Union[bytes, bytearray, memoryview]


def object_of(payload: Bytes) -> Dict[str, object]:
    """What a frame's payload says in JSON.

    Raises:
        ProtocolError: it is no JSON object.
    """
    try:
        value = json.loads(bytes(payload) or b"{}")
    except (ValueError, RecursionError):
        raise ProtocolError("a frame holds broken JSON") from None
    if not isinstance(value, dict):
        raise ProtocolError("a frame holds JSON that is no object")
    return value


class Frame(NamedTuple):
    """One message. For `DATA`, `generation` and `offset` say where `payload` stands in the remote file."""

    kind: bytes
    file: int
    payload: bytes
    generation: int = 0
    offset: int = 0

    def json(self) -> Dict[str, object]:
        """The payload of every kind but `DATA`. Raises as `object_of`."""
        return object_of(self.payload)


class FollowedFile(NamedTuple):
    """One log in a `FollowRequest`: where it is, and what the receiver has of it. All but `path` may be left out."""

    path: str
    history: bool = False
    """Rotated files that are older than the receiver's first sight of it belong to it."""
    offset: int = 0
    generation: int = 0
    proof: Optional[str] = None
    """The sha256 of the last `PROOF_BYTES` before `offset`."""
    dev: Optional[int] = None
    ino: Optional[int] = None
    since: float = 0.0
    """When (the instance's clock) its generation was begun; a copy of it cannot be older."""
    samples: Tuple[Tuple[int, int, str], ...] = ()
    """``(offset, length, sha256)`` of a few parts all over what the receiver has."""
    known_bytes: Optional[int] = None
    """The file's size when it was last heard of."""
    must_match: bool = False
    """The receiver's bytes are nobody's but this file's, or it is not followed."""


class FollowRequest(NamedTuple):
    """What `follow` is asked: one JSON line on its stdin."""

    nonce: str
    files: Tuple[FollowedFile, ...]
    workspace: Optional[str] = None
    """Whose run's status is told too."""
    heartbeat_s: float = 2.0

    def to_line(self) -> bytes:
        """As the agent reads it."""
        request = dict(self._asdict(), files=[entry._asdict() for entry in self.files], format=FORMAT)
        return json.dumps(request, separators=(",", ":")).encode() + b"\n"


def read_follow_request(line: bytes) -> FollowRequest:
    """The request in *line*.

    Raises:
        ProtocolError: it is none, or something in it is out of its bounds.
    """
    try:
        request = json.loads(line.decode("utf-8"))
        entries = request["files"]
        if not isinstance(entries, list) or len(entries) > MAX_FILES:
            raise ValueError(f"`files` must be a list of at most {MAX_FILES}")
        return FollowRequest(
            nonce=_text(request["nonce"], 64),
            files=tuple(_read_entry(entry) for entry in entries),
            workspace=None if request.get("workspace") is None else _text(request["workspace"]),
            heartbeat_s=_number(request.get("heartbeat_s", 2.0), low=0.01, high=3600.0),
        )
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"a follow request that cannot be read: {str(error)[:200]}") from None


def _read_entry(entry: Mapping[str, object]) -> FollowedFile:
    has_identity = entry.get("ino") is not None
    samples = entry.get("samples") or []
    if not isinstance(samples, list):
        raise ValueError("`samples` must be a list")
    if len(samples) > MAX_SAMPLES:
        raise ValueError(f"more than {MAX_SAMPLES} samples")
    return FollowedFile(
        path=_text(entry["path"]),
        history=bool(entry.get("history")),
        offset=_count(entry.get("offset", 0)),
        generation=_count(entry.get("generation", 0)),
        proof=None if entry.get("proof") is None else _text(entry["proof"]),
        dev=_count(entry["dev"]) if has_identity else None,
        ino=_count(entry["ino"]) if has_identity else None,
        since=_number(entry.get("since") or 0.0, low=0.0, high=1e11),
        samples=tuple((_count(at), _count(size), _text(proof)) for at, size, proof in samples),
        known_bytes=None if entry.get("known_bytes") is None else _count(entry["known_bytes"]),
        must_match=bool(entry.get("must_match")),
    )


def _text(value: object, max_chars: int = 4096) -> str:
    if not isinstance(value, str) or len(value) > max_chars:
        raise ValueError(f"text of at most {max_chars} characters is missing")
    value.encode("utf-8")
    return value


def _count(value: object) -> int:
    return int(_number(value, low=0, high=2**64))


def _number(value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"a number from {low:g} to {high:g} is missing")
    return value


def magic(nonce: str) -> bytes:
    """What stands before the first frame, so that whatever a login shell printed can be dropped."""
    return b"\n\x02provision-follow " + nonce.encode() + b"\n"


def pack(kind: bytes, file: int, payload: Mapping[str, object]) -> bytes:
    """A frame with a JSON payload.

    Args:
        kind: Any but `DATA`.
        file: The number of the file that it is about, in the order of the request.
        payload: What `Frame.json` gives back.
    """
    body = json.dumps(payload, separators=(",", ":")).encode()
    return _HEAD.pack(kind, file, len(body)) + body


def data_head(file: int, generation: int, offset: int, length: int) -> bytes:
    """The head of a `DATA` frame whose bytes follow on the wire.

    Args:
        file: The number of the file, in the order of the request.
        generation: Which file of that name it is: it grows when the file is begun anew.
        offset: Where the bytes stand in that file.
        length: How many bytes follow.
    """
    return _HEAD.pack(DATA, file, _POSITION.size + length) + _POSITION.pack(generation, offset)


class Head(NamedTuple):
    """What the head of a frame says."""

    kind: bytes
    number: int
    """Of the file that the frame is about."""
    length: int


def check_head(head: Head, kinds: Tuple[bytes, ...], position_bytes: int) -> Head:
    """*head*, when its wire has such a frame.

    Args:
        head: What came.
        kinds: All that the wire has.
        position_bytes: What stands before the bytes of a `DATA` frame.

    Raises:
        ProtocolError: no version of the protocol has such a frame.
    """
    kind, _, length = head
    if kind not in kinds or length > MAX_PAYLOAD_BYTES or (kind == DATA and length < position_bytes):
        raise ProtocolError(f"an impossible frame head: kind {kind!r}, {length} bytes")
    return head


FrameT = TypeVar("FrameT")


class FrameCutter(Generic[FrameT]):
    """Cut a byte stream into frames, however it was chunked; memory stays below one frame and two chunks.

    Bytes before *magic* are dropped, up to *max_noise_bytes* of them.
    """

    def __init__(
        self,
        magic: bytes,
        *,
        head_bytes: int,
        read_head: Callable[[Bytes, int], Head],
        frame_of: Callable[[Head, Bytes], FrameT],
        max_noise_bytes: int,
    ) -> None:
        """Nothing has come yet.

        Args:
            magic: What stands before the first frame.
            head_bytes: How long a head is.
            read_head: Reads the one that begins at this position.
            frame_of: The frame of a head and the bytes after it, which nobody changes.
            max_noise_bytes: How much may come before the magic.
        """
        self._magic = magic
        self._head_bytes = head_bytes
        self._read_head = read_head
        self._frame_of = frame_of
        self._chunks: List[Bytes] = []
        """What has come and is no whole frame yet; put together once, when it may be one."""
        self._held_bytes = 0
        self._needed_bytes = 0
        self._noise_left = max_noise_bytes
        self.is_greeted = False
        self.noise = b""
        """The last bytes that came before the magic: a login banner, or why the command did not start."""

    @property
    def unread(self) -> bytes:
        """What has come and is no whole frame yet."""
        return b"".join(self._chunks)

    def feed(self, chunk: bytes) -> Iterator[FrameT]:
        """Yield each frame that *chunk* completes.

        Raises:
            ProtocolError: an unknown kind, a payload over `MAX_PAYLOAD_BYTES`, or too much noise.
        """
        self._chunks.append(chunk)
        self._held_bytes += len(chunk)
        if self._held_bytes < self._needed_bytes:
            return
        data = chunk if len(self._chunks) == 1 else self.unread
        at = 0 if self.is_greeted else self._greet(data)
        if not self.is_greeted:
            self._keep(data[at:], 0)
            return
        whole, needed = memoryview(data), self._head_bytes
        while len(data) - at >= self._head_bytes:
            head = self._read_head(data, at)
            end = at + self._head_bytes + head.length
            if len(data) < end:
                needed = end - at
                break
            yield self._frame_of(head, whole[at + self._head_bytes : end])
            at = end
        self._keep(data[at:], needed)

    def _keep(self, rest: bytes, needed_bytes: int) -> None:
        self._chunks, self._held_bytes, self._needed_bytes = [rest], len(rest), needed_bytes

    def _greet(self, data: bytes) -> int:
        """Look for the magic; where what has to be read on begins."""
        found = data.find(self._magic)
        keep = len(self._magic) - 1
        dropped = found if found >= 0 else max(len(data) - keep, 0)
        self.noise = (self.noise + data[:dropped])[-4096:]
        self._noise_left -= dropped
        if self._noise_left < 0:
            raise ProtocolError("no hello, only other output")
        self.is_greeted = found >= 0
        return dropped + (len(self._magic) if self.is_greeted else 0)


class FrameReader(FrameCutter[Frame]):
    """The frames of a follow session, as `FrameCutter`."""

    def __init__(self, nonce: str, *, max_noise_bytes: int = MAX_NOISE_BYTES) -> None:
        super().__init__(
            magic(nonce),
            head_bytes=_HEAD.size,
            read_head=_read_head,
            frame_of=_frame_of,
            max_noise_bytes=max_noise_bytes,
        )


def _read_head(data: Bytes, at: int) -> Head:
    return check_head(Head(*_HEAD.unpack_from(data, at)), _KINDS, _POSITION.size)


def _frame_of(head: Head, body: Bytes) -> Frame:
    if head.kind != DATA:
        return Frame(head.kind, head.number, bytes(body))
    generation, offset = _POSITION.unpack_from(body)
    return Frame(DATA, head.number, bytes(body[_POSITION.size :]), generation, offset)
