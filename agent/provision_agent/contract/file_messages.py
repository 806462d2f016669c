"""What the halves say to each other about files: what is to be transferred, and what became of each file.

Requests are one JSON line on the agent's stdin; the rest are payloads of `file_frames`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, Optional, Tuple

from .cases import MAX_PARTICULARS
from .failures import FAILURES, Failure
from .parsing import MAX_INTEGER, bounded
from .plan_files import Output
from .version import FORMAT, RUN_ID_PATTERN

MAX_PATH_CHARS = 4096
MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
MAX_FILES = 500_000
"""In one session."""
MAX_IN_FRAME = 1000
FILE, FOLDER, LINK = "file", "folder", "link"
OK, HAVE, FAILED, AGAIN = "ok", "have", "failed", "again"
"""What became of a file: it was sent, it was there, it cannot be had, it came damaged and is wanted once more."""


def _wanted_path(value: str) -> str:
    return "" if value == "" or is_safe(value) else "a relative path without `..`"


def is_safe(path: str) -> bool:
    """Whether *path* is relative and stays below where it begins, whatever folders there are."""
    parts = path.split("/")
    return (
        "\0" not in path
        and len(path.encode("utf-8", "surrogateescape")) <= MAX_PATH_BYTES
        and all(
            part not in ("", ".", "..") and len(part.encode("utf-8", "surrogateescape")) <= MAX_NAME_BYTES
            for part in parts
        )
    )


def link_leads_out(path: str, target: str) -> bool:
    """Whether the link at *path* leads out of the folder that *path* is relative to, perhaps by way of other links.

    Every ``..`` must stand at its beginning: after a name that is itself a link, it would mean another place.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    return (
        not target or "\0" in target or target.startswith("/") or ups > path.count("/") or ".." in parts[ups:]
    )


@dataclass(frozen=True)
class FileTold:
    """One file, folder or link that the sender has; `path` is relative to its item's place, empty for a single file."""

    n: int = bounded(low=0, high=2**32 - 1)
    item: str = bounded(max_chars=8192)
    """What it belongs to: the position of an upload in its plan, as digits; of what is copied by hand, empty."""
    path: str = bounded(max_chars=MAX_PATH_CHARS, check=_wanted_path)
    kind: str = bounded(FILE, one_of=(FILE, FOLDER, LINK))
    size_bytes: int = bounded(0, low=0, high=MAX_INTEGER)
    mtime_ns: int = bounded(0, low=-(2**63), high=2**63)
    mode: int = bounded(0o644, low=0, high=0o7777)
    target: str = bounded("", max_chars=MAX_PATH_CHARS)
    """Of a link."""


@dataclass(frozen=True)
class FilesTold:
    """Some of the files."""

    files: Tuple[FileTold, ...] = bounded(max_entries=MAX_IN_FRAME)


@dataclass(frozen=True)
class ItemTold:
    """An item: how much it is; nothing, of an empty folder."""

    item: str = bounded(max_chars=8192)
    entries: int = bounded(0, low=0)
    """Of `FileTold`: files, folders and links."""
    files: int = bounded(0, low=0)
    bytes: int = bounded(0, low=0)


@dataclass(frozen=True)
class AllTold:
    """Everything is listed."""

    items: Tuple[ItemTold, ...] = bounded((), max_entries=MAX_IN_FRAME)


@dataclass(frozen=True)
class Wanted:
    """A file that the receiver wants from `offset` on; `proof` is the sha256 of what it has before that.

    `has` is the sha256 of a whole file that is there: if the sender's is the same, no byte is sent.
    """

    n: int = bounded(low=0)
    offset: int = bounded(0, low=0)
    proof: str = bounded("", max_chars=64)
    has: str = bounded("", max_chars=64)


@dataclass(frozen=True)
class WantedFiles:
    """What the receiver wants."""

    wanted: Tuple[Wanted, ...] = bounded(max_entries=MAX_IN_FRAME)


@dataclass(frozen=True)
class CompleteFile:
    """All bytes of a file were sent: what it was at that moment. `changed`: it changed meanwhile, and what came is worth nothing."""

    n: int = bounded(low=0)
    sha256: str = bounded("", max_chars=64)
    size_bytes: int = bounded(0, low=0, high=MAX_INTEGER)
    mtime_ns: int = bounded(0, low=-(2**63), high=2**63)
    is_same: bool = False
    """What the receiver has is what the sender has."""
    changed: bool = False


@dataclass(frozen=True)
class Trouble:
    """Why a file, or (with a `key`) a whole item, cannot be transferred."""

    class_: str = bounded("bug", alias="class", one_of=tuple(FAILURES))
    message: str = bounded("", max_chars=8192)
    case: Optional[str] = bounded(None, max_chars=64)
    about: Dict[str, str] = bounded(factory=dict, max_entries=MAX_PARTICULARS)
    n: Optional[int] = bounded(None, low=0)
    item: Optional[str] = bounded(None, max_chars=8192)
    retriable: bool = False

    @classmethod
    def of(cls, failure: Failure, *, n: Optional[int] = None, item: Optional[str] = None) -> Trouble:
        """What *failure* is to the other side; of the file *n*, or of the whole *item*."""
        return cls(failure.class_, failure.message, failure.case, failure.about, n, item, failure.retriable)

    def failure(self) -> Failure:
        """What it is here."""
        return Failure(self.class_, self.message, case=self.case, about=self.about, retriable=self.retriable)


@dataclass(frozen=True)
class SettledFile:
    """What became of a file: one of `OK HAVE FAILED AGAIN`; the rest says why it failed."""

    n: int = bounded(low=0)
    state: str = bounded(one_of=(OK, HAVE, FAILED, AGAIN))
    class_: str = bounded("", alias="class", max_chars=64)
    message: str = bounded("", max_chars=8192)
    case: Optional[str] = bounded(None, max_chars=64)
    about: Dict[str, str] = bounded(factory=dict, max_entries=MAX_PARTICULARS)


@dataclass(frozen=True)
class SettledFiles:
    """What became of some files."""

    settled: Tuple[SettledFile, ...] = bounded(max_entries=MAX_IN_FRAME)


@dataclass(frozen=True)
class TakenBytes:
    """How many bytes of files the receiver has taken in this session."""

    bytes: int = bounded(low=0)


@dataclass(frozen=True)
class ReceiveRequest:
    """Take files: those of the uploads of a run, or, without a `run`, those that go to each of `to`."""

    nonce: str = bounded(max_chars=64)
    workspace: str = bounded("", max_chars=MAX_PATH_CHARS)
    run: str = bounded("", pattern=f"|{RUN_ID_PATTERN}")
    to: Tuple[str, ...] = bounded((), max_entries=1000, max_chars=MAX_PATH_CHARS)
    """Of the items 0, 1, …: a path in the workspace, absolute, or below the home folder (``~/…``); with a ``/`` at its end it is a folder."""
    format: int = FORMAT


@dataclass(frozen=True)
class SendItem:
    """A file or a folder that is to be sent from the instance."""

    item: str = bounded(max_chars=8192)
    path: str = bounded(max_chars=MAX_PATH_CHARS)
    """In the workspace, absolute, or below the home folder (``~/…``)."""
    include: Tuple[str, ...] = bounded((), max_entries=1000, max_chars=4096)
    exclude: Tuple[str, ...] = bounded((), max_entries=1000, max_chars=4096)


def items_of(outputs: Iterable[Output]) -> Tuple[SendItem, ...]:
    """What is asked for where *outputs* are wanted: each by its number, from 0 on."""
    return tuple(
        SendItem(str(number), output.path, output.include, output.exclude)
        for number, output in enumerate(outputs)
    )


@dataclass(frozen=True)
class SendRequest:
    """Send files. With `follow`, those that nobody writes any more, as they come, until the other side leaves."""

    nonce: str = bounded(max_chars=64)
    workspace: str = bounded("", max_chars=MAX_PATH_CHARS)
    items: Tuple[SendItem, ...] = bounded((), max_entries=1000)
    follow: bool = False
    results: bool = False
    """They are the outputs of a run: what has arrived holds the end of the instance back no longer."""
    format: int = FORMAT
