"""What the follower's JSON frames say, as dataclasses: the door for what comes from the instance while it is followed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from provision_agent.contract import frames
from provision_agent.contract.messages import MAX_PATH_CHARS
from provision_agent.contract.parsing import ParseError, bounded, parse, read_object

from .mirror import FileFacts

MAX_LOG_BYTES = (1 << 63) - 1

T = TypeVar("T")


@dataclass(frozen=True)
class Begun(FileFacts):
    """`RESUMED`: how a log stands to its mirror, and the file that is sent."""

    resumed: bool = False
    edited: bool = True
    """It does not begin with what the mirror holds."""
    missing: bool = False
    """There is no such file."""
    unread: int = bounded(0, low=0, high=MAX_LOG_BYTES)
    """Bytes that are still to come."""
    before_bytes: int = bounded(0, low=0, high=MAX_LOG_BYTES)
    """In older files, which cannot be had."""
    obstacle: str = bounded("", max_chars=64)
    """Why it can never be read: one of `frames.OBSTACLES`."""


@dataclass(frozen=True)
class Begins(FileFacts):
    """`GENERATION`: the log began anew, or was born, as the file with these facts."""

    generation: int = bounded(-1, low=0)
    """Required; -1, which follows none, where it is missing."""
    why: str = bounded("", max_chars=256)
    lost_bytes: int | None = bounded(None, low=0, high=MAX_LOG_BYTES)
    """Of the generation before; None: nobody knows how many."""


@dataclass(frozen=True)
class Beat:
    """`BEAT`, by the number of the file: its size, what is unread of it, and what was written too late to be sent."""

    sizes: tuple[int, ...] = bounded(low=0, high=MAX_LOG_BYTES, max_entries=frames.MAX_FILES)
    unread: tuple[int, ...] = bounded((), low=0, high=MAX_LOG_BYTES, max_entries=frames.MAX_FILES)
    late: tuple[int, ...] = bounded((), low=0, high=MAX_LOG_BYTES, max_entries=frames.MAX_FILES)


@dataclass(frozen=True)
class Holders:
    """`STATUS`: whose processes live in the workspace, and for which run."""

    run: str | None = bounded(None, max_chars=64)
    keeper: bool = False
    agent: bool = False


@dataclass(frozen=True)
class Failed:
    """`ERROR`: why the follower cannot go on."""

    cause: str = bounded("", max_chars=64)
    message: str = "the follower failed"
    folder: str = bounded("", max_chars=MAX_PATH_CHARS)


def read_frame(kind: type[T], frame: frames.Frame) -> T:
    """The JSON of *frame* as *kind*, one of the dataclasses of this module. Raises ParseError."""
    return parse(
        kind, read_object(frame.payload or b"{}", max_bytes=frames.MAX_PAYLOAD_BYTES, what="a frame"), "frame"
    )


def check_beat(beat: Beat, files: int) -> None:
    """Raises ParseError unless *beat* is of so many *files*."""
    for counts in (beat.sizes, beat.unread or beat.sizes, beat.late or beat.sizes):
        if len(counts) != files:
            raise ParseError(f"a beat of {len(counts)} files, and {files} are followed")
