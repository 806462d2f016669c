"""What the two halves say to each other: event names, verdicts, and the frames that carry bytes.

Pure, shared by both halves, and also sent alone with `follow` to instances that run no agent.
A name here is API: it changes only with the changelog.
"""

from __future__ import annotations

import json
import re
import struct
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

FORMAT = 1
"""Version of events, status, state and the follow hello; a reader takes this one and the one before."""

SUPPORTED_FORMATS = (FORMAT - 1, FORMAT)

RUN_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

VERDICTS: Dict[str, int] = {
    "complete": 0,
    "failed": 1,
    "refused": 4,
    "incomplete": 5,
    "unreachable": 10,
    "host-key": 11,
    "contact-lost": 12,
    "auth-refused": 13,
    "agent-lost": 14,
    "instance-gone": 15,
    "timeout": 124,
    "cancelled": 130,
}
"""Every way a run can end, with the exit code of the command that watched it."""

_ITEM = ("item", "level")
_DOWNLOAD = ("item", "key", "level")
_FAILURE = ("class", "message", "hint", "retriable")

AGENT_EVENTS: Dict[str, Tuple[str, ...]] = {
    "run_started": ("plan_hash", "name", "deadline_s", "resumed"),
    "facts_found": ("facts",),
    "preflight_passed": ("bytes_to_fetch", "disks"),
    "preflight_failed": _FAILURE,
    "step_started": ("step",),
    "step_finished": ("step", "ok", "failed", "skipped", "duration_s"),
    "step_failed": ("step", *_FAILURE),
    "download_queued": _DOWNLOAD,
    "download_started": (*_DOWNLOAD, "url"),
    "download_sized": (*_DOWNLOAD, "total_bytes"),
    "download_progress": (*_DOWNLOAD, "bytes", "total_bytes", "bytes_per_s"),
    "download_stalled": (*_DOWNLOAD, "bytes_per_s", "for_s"),
    "download_retried": (*_DOWNLOAD, "attempt", "wait_s", "class"),
    "download_waiting": (*_DOWNLOAD, "host", "wait_s"),
    "download_switched": (*_DOWNLOAD, "url", "substitute"),
    "download_finished": (*_DOWNLOAD, "bytes", "sha256", "duration_s"),
    "download_failed": (*_DOWNLOAD, *_FAILURE, "url"),
    "download_skipped": (*_DOWNLOAD, "reason"),
    "repo_started": (*_ITEM, "url"),
    "repo_progress": (*_ITEM, "message"),
    "repo_retried": (*_ITEM, "attempt", "wait_s", "class"),
    "repo_finished": (*_ITEM, "commit", "duration_s"),
    "repo_failed": (*_ITEM, *_FAILURE),
    "repo_skipped": (*_ITEM, "reason"),
    "package_started": _ITEM,
    "package_progress": (*_ITEM, "message"),
    "package_retried": (*_ITEM, "attempt", "wait_s", "class"),
    "package_finished": (*_ITEM, "duration_s"),
    "package_failed": (*_ITEM, *_FAILURE),
    "package_skipped": (*_ITEM, "reason"),
    "file_written": _ITEM,
    "file_failed": (*_ITEM, *_FAILURE),
    "command_started": _ITEM,
    "command_finished": (*_ITEM, "duration_s"),
    "command_failed": (*_ITEM, *_FAILURE),
    "check_passed": (*_ITEM, "found"),
    "check_failed": (*_ITEM, *_FAILURE, "found"),
    "service_started": (*_ITEM, "pid"),
    "service_progress": (*_ITEM, "message"),
    "service_ready": (*_ITEM, "url"),
    "service_failed": (*_ITEM, *_FAILURE),
    "service_skipped": (*_ITEM, "reason"),
    "warning": ("message",),
    "deadline_at_risk": ("remaining_s", "needed_s"),
    "secrets_needed": ("names",),
    "run_usable": ("after_s",),
    "run_finished": ("verdict", "duration_s", "sizes"),
}
"""Written by the agent, with the fields that each always has besides `format ts run seq event`."""

COLLECTOR_EVENTS: Dict[str, Tuple[str, ...]] = {
    "run_accepted": ("host",),
    "connecting": ("host", "waited_s", "cause"),
    "connected": ("host",),
    "connection_lost": ("cause", "retry_in_s"),
    "agent_restarted": ("restarts",),
    "gap": ("file", "bytes"),
    "warning": ("message",),
    "secrets_needed": ("names",),
    "log_missing": ("file",),
    "log_found": ("file",),
    "marker_found": ("file", "kind", "line"),
    "outcome": ("verdict", "exit_code", "next"),
}
"""Written by this side, with ``"from": "collector"`` when both kinds share a stream."""

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


def rotated_name(log_name: str) -> "re.Pattern[str]":
    """Matches the names of a log's rotated files: ``app.log.1 app.log-20260101 app.log.old app.1.log``, of that log only."""
    stem, dot, extension = log_name.rpartition(".")
    if not stem:
        stem, dot, extension = log_name, "", ""
    mark = r"(?:[._-](?:\d[\dTZ:.+_-]*|old|bak|prev|previous|backup|orig))+"
    plain, split = re.escape(log_name), (re.escape(stem), re.escape(dot + extension))
    return re.compile(rf"(?:{plain}(?:{mark}|~)|{split[0]}{mark}{split[1]})\Z")


def rotation_age(path: str) -> int:
    """Orders rotated files of one modification time, the oldest first: ``.2`` before ``.1``, dates and others as they come."""
    digits = re.search(r"(\d+)[^\d/]*\Z", path)
    return -int(digits.group(1)) if digits is not None and len(digits.group(1)) < 5 else 0


_SECRET_PARAMETER = re.compile(
    r"token|key|sig|signature|secret|password|credential|auth|policy|x-amz|x-goog|se$|sv$|st$", re.I
)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]*[^\s'\"<>:;,.)\]]", re.I)


def public_url(url: str) -> str:
    """*url* without user info and without the parameters that may open a door (tokens, signatures)."""
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return url.split("?")[0]
    kept = [(name, value) for name, value in pairs if not _SECRET_PARAMETER.search(name)]
    query = urlencode(kept) if len(kept) != len(pairs) else parts.query
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def redacted(text: str, secrets: List[str]) -> str:
    """*text* with every URL made public and every secret's value replaced by ``***``."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _URL.sub(lambda match: public_url(match.group()), text) if "://" in text else text


def exit_code(verdict: str) -> int:
    """The exit code of *verdict*; an unknown one counts as failed."""
    return VERDICTS.get(verdict, 1)


def next_action(verdict: str, error_classes: List[str]) -> str:
    """What a caller should do: none | retry | replace_instance | fix_profile | fix_credentials | report_bug."""
    by_verdict = {
        "complete": "none",
        "refused": "retry",
        "unreachable": "replace_instance",
        "host-key": "fix_credentials",
        "contact-lost": "retry",
        "auth-refused": "fix_credentials",
        "agent-lost": "replace_instance",
        "instance-gone": "replace_instance",
        "cancelled": "none",
    }
    if verdict in by_verdict:
        return by_verdict[verdict]
    for action, classes in _ACTIONS:
        if classes.intersection(error_classes):
            return action
    return "retry"


_ACTIONS = (
    ("replace_instance", frozenset(("disk_full", "read_only", "gpu", "no_python"))),
    ("fix_credentials", frozenset(("gated", "unauthorized"))),
    (
        "fix_profile",
        frozenset(("not_found", "not_a_model", "checksum", "size", "unsafe_path", "command", "conflict")),
    ),
    ("report_bug", frozenset(("bug",))),
)


def last_sequence(tail: bytes) -> Optional[int]:
    """The `seq` of the last whole event in *tail*, the end of an events file; None if there is none."""
    for line in reversed(tail.split(b"\n")):
        try:
            return int(json.loads(line)["seq"])
        except (ValueError, KeyError, TypeError):
            continue
    return None
