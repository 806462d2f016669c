"""Does every file exist, may we have it, and is there room for all of them?

All sources are asked at once, each within its item's `lookup_s`; one that does not answer in time costs no more
than that, and the file is fetched without knowing its size. Files may begin while others are still asked about; what
is free on the disk is looked at before the first of them does.
"""

from __future__ import annotations

import glob
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..contract.failures import Failure
from ..contract.steps import LEVELS
from ..host.folders import nearest_folder
from ..run.context import Context
from ..run.log_lines import size_text
from . import existing, landing
from .engine.part_file import PART, landed_bytes, reserved_bytes
from .file import Fetch
from .hosts import Hosts
from .source_selector import Source
from .sources.lookup import Sources

MARGIN_BYTES = 64 << 20
MARGIN_SHARE = 0.01
"""What must stay free besides the files themselves: logs, state, the file system's own needs."""


@dataclass(frozen=True)
class Room:
    """What is needed on one file system, with a margin, and what is free."""

    path: str
    needed_bytes: int
    free_bytes: int


@dataclass
class Preflight:
    """What is known before the first large byte."""

    bytes_to_fetch: int = 0
    unknown_sizes: int = 0
    """Files that come on top, of which nobody tells the size."""
    disks: List[Room] = field(default_factory=list)
    failures: Dict[str, Failure] = field(default_factory=dict)
    """By item: every source says no, or there is no room for it."""
    too_big: Optional[Failure] = None
    """What is critical and required does not fit together."""


def look_up(
    fetches: Sequence[Fetch],
    *,
    context: Context,
    access: Sources,
    hosts: Hosts,
    also_bytes: int,
    begin: Optional[Callable[[Fetch], None]] = None,
) -> Preflight:
    """Ask about every file at once; answers stay with the fetches' sources for the first use.

    Args:
        also_bytes: What else will need room in the workspace.
        begin: Given each file that may begin while others are still asked about; None: none may.
    """
    absent = [fetch for fetch in fetches if fetch.refusal is None and not _is_recorded(fetch, context)]
    ground = _Ground(absent, context, also_bytes)
    early = _Early(absent, ground, begin)
    questions = [
        threading.Thread(target=_ask, args=(fetch, access, hosts, context, early), daemon=True)
        for fetch in absent
    ]
    for question in questions:
        question.start()
    end = time.monotonic() + max([fetch.item.limits.lookup_s for fetch in absent], default=0.0) + 0.5
    for question in questions:
        while question.is_alive() and time.monotonic() < end and not context.cancelled.is_set():
            question.join(min(0.25, max(0.0, end - time.monotonic())))
    begun = early.end()
    found = Preflight()
    for fetch in fetches:
        failure = fetch.refusal or (None if fetch.key in begun else _refusal_of_all(fetch, context))
        if failure is not None:
            found.failures[fetch.key] = failure
    _add_up(found, [fetch for fetch in absent if fetch.key not in found.failures], ground, also_bytes)
    return found


def _refusal_of_all(fetch: Fetch, context: Context) -> Optional[Failure]:
    """Why nobody has the file; None while somebody may, or while it seems to be there already."""
    if fetch.selector.substitute or any(source.failure is None for source in fetch.selector.sources):
        return None
    try:
        size = os.stat(os.path.join(context.workspace, fetch.item.path)).st_size
    except OSError:
        return fetch.selector.worst()
    is_likely = fetch.item.size_bytes == size or (
        fetch.item.size_bytes is None and (fetch.item.sha256 or context.is_offline)
    )
    return None if is_likely else fetch.selector.worst()


def size_of(fetch: Fetch) -> Optional[int]:
    """The size of a file, as the plan or a source that answered has it."""
    if fetch.item.size_bytes is not None or fetch.told_bytes is not None:
        return fetch.item.size_bytes if fetch.item.size_bytes is not None else fetch.told_bytes
    answers = (source.answer for source in fetch.selector.sources if source.answer is not None)
    return next((answer.size_bytes for answer in answers if answer.size_bytes is not None), None)


def _ask(fetch: Fetch, access: Sources, hosts: Hosts, context: Context, early: _Early) -> None:
    deadline = time.monotonic() + fetch.item.limits.lookup_s
    for source in list(fetch.selector.sources):
        if _ask_source(fetch, source, access, hosts, context, deadline):
            break
    size = size_of(fetch)
    if size is not None and not context.cancelled.is_set():
        fetch.report("sized", total_bytes=size)
        fetch.told_bytes = size
        early.consider(fetch, size)


def _ask_source(
    fetch: Fetch, source: Source, access: Sources, hosts: Hosts, context: Context, deadline: float
) -> bool:
    """Ask one source; False when the next one is to be asked: it has not got the file, or cannot be reached."""
    turn = hosts.lookups(source.host)
    if not turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
        return True
    try:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or hosts.paused_s(source.host) > 0:
            return True
        if context.outages.last(*source.places) is not None:
            return False
        limits = fetch.item.limits
        answer = access.ask(
            source.url, within_s=left_s, connect_s=limits.connect_s, stop=context.cancelled.is_set
        )
        name = answer.name or "" if fetch.item.path.endswith("/") else fetch.item.path
        landing.check_head(answer, name, access.secret_values)
        source.answer = answer
        source.reached(answer, context.outages)
    except Failure as error:
        failure = _sized(error, fetch, context)
        if source.is_cache:
            source.failure = failure
            return False
        if failure.class_ == "rate_limited":
            hosts.pause(str(failure.facts.get("host")), failure.wait_s or 0.0)
        if not failure.retriable:
            source.failure = failure
        if failure.class_ == "unreachable" and failure.retriable:
            context.outages.note(failure.place or source.host, failure)
            return False
        return failure.retriable
    finally:
        turn.release()
    return True


def _sized(failure: Failure, fetch: Fetch, context: Context) -> Failure:
    """*failure*; of a file that nobody may be asked for, with the size that it should have."""
    size = size_of(fetch) or max(0, existing.record_of(context, fetch.item).size)
    if failure.class_ != "offline" or not size:
        return failure
    sized = failure.saying(f"{failure.message} ({size_text(size)})")
    sized.facts["size_bytes"] = size
    return sized


def _is_recorded(fetch: Fetch, context: Context) -> bool:
    """Cheaply: an earlier run verified the file and it has not been touched since."""
    record = existing.record_of(context, fetch.item)
    try:
        found = os.stat(record.path)
    except OSError:
        return False
    return record.fits(found) and fetch.item.sha256 in (None, record.sha256)


def _with_margin(landing: int) -> int:
    return landing + int(landing * MARGIN_SHARE) + (MARGIN_BYTES if landing else 0)


class _Disk:
    """What is to land on one file system, and how much of it that leaves free."""

    def __init__(self, folder: str) -> None:
        space = os.statvfs(folder)
        self.folder = folder
        self.free_bytes = space.f_bavail * space.f_frsize
        self.bytes = 0
        self.begun_bytes = 0
        """Of what has begun early."""

    def needed_bytes(self, more_bytes: int = 0) -> int:
        """With the margin, if *more_bytes* came too."""
        return _with_margin(self.bytes + more_bytes)

    def has_room(self, more_bytes: int) -> bool:
        return self.needed_bytes(more_bytes) <= self.free_bytes


class _Place(NamedTuple):
    """Where a file is to be, and what was there before anything began."""

    disk: _Disk
    final_bytes: Optional[int]
    reserved_bytes: int
    landed_bytes: int

    def missing_bytes(self, size: int) -> int:
        """What it will take of the disk besides what it has."""
        return 0 if self.final_bytes == size else max(0, size - self.reserved_bytes)

    def bytes_to_fetch(self, size: int) -> int:
        """What has to come over the network."""
        return 0 if self.final_bytes == size else max(0, size - self.landed_bytes)


class _Ground:
    """The file systems that the files land on, and what is there of each file: looked at once, before any begins."""

    def __init__(self, absent: Sequence[Fetch], context: Context, also_bytes: int) -> None:
        self._by_device: Dict[int, _Disk] = {}
        self.workspace = self._disk(context.workspace) if also_bytes else None
        self._places: Dict[str, _Place] = {}
        self._in_folders: Dict[str, _Place] = {}
        """By path, what lies as a part in the folder of an item whose name only a server knows."""
        for fetch in absent:
            final = os.path.join(context.workspace, fetch.item.path)
            disk = self._disk(os.path.dirname(final))
            self._places[fetch.key] = _place_at(final, disk)
            if fetch.item.path.endswith("/"):
                found = (path[: -len(PART)] for path in glob.glob(f"{glob.escape(final)}*{PART}"))
                self._in_folders.update((path, _place_at(path, disk)) for path in found)
        self._root = context.workspace
        if self.workspace is not None:
            self.workspace.begun_bytes = also_bytes

    def place(self, fetch: Fetch) -> _Place:
        """What was there of *fetch*, by the name that is known of it now."""
        named = fetch.foreseen_path() if fetch.item.path.endswith("/") else None
        here = self._places[fetch.key]
        return here if named is None else self._in_folders.get(os.path.join(self._root, named), here)

    @property
    def disks(self) -> List[_Disk]:
        return list(self._by_device.values())

    def _disk(self, path: str) -> _Disk:
        folder = nearest_folder(path)
        device = os.stat(folder).st_dev
        if device not in self._by_device:
            self._by_device[device] = _Disk(folder)
        return self._by_device[device]


def _place_at(final: str, disk: _Disk) -> _Place:
    return _Place(disk, _size_at(final), reserved_bytes(final), landed_bytes(final))


def _size_at(final: str) -> Optional[int]:
    try:
        return os.stat(final).st_size
    except OSError:
        return None


class _Early:
    """Which files may begin while others are still asked about.

    Those of the most urgent level, because a connection or a disk that is full of others would keep them waiting; and
    only while all that has begun so far has room. What comes to light later is judged as if none had begun.
    """

    def __init__(
        self, absent: Sequence[Fetch], ground: _Ground, begin: Optional[Callable[[Fetch], None]]
    ) -> None:
        self._level = min((LEVELS.index(fetch.item.level) for fetch in absent), default=0)
        self._ground = ground
        self._begin = begin
        self._begun: Set[str] = set()
        self._is_over = False
        self._lock = threading.Lock()

    def consider(self, fetch: Fetch, size: int) -> None:
        """*fetch* has been asked about."""
        has_answer = any(source.answer is not None for source in fetch.selector.sources)
        if self._begin is None or not has_answer or LEVELS.index(fetch.item.level) != self._level:
            return
        place = self._ground.place(fetch)
        with self._lock:
            wanted = place.disk.begun_bytes + place.missing_bytes(size)
            if self._is_over or _with_margin(wanted) > place.disk.free_bytes:
                return
            place.disk.begun_bytes = wanted
            self._begun.add(fetch.key)
        self._begin(fetch)

    def end(self) -> Set[str]:
        """No more; the keys of those that might."""
        with self._lock:
            self._is_over = True
            return set(self._begun)


def _add_up(found: Preflight, absent: Sequence[Fetch], ground: _Ground, also_bytes: int) -> None:
    """Which files fit: first all that is critical and required, then as many of the optional ones as there is room for.

    One that is not critical and could not land even on the empty disk fails alone, whatever else there is.
    """
    if ground.workspace is not None:
        ground.workspace.bytes += also_bytes
    optional: List[Tuple[int, Fetch, _Disk]] = []
    counted: Set[str] = set()
    for fetch in sorted(absent, key=lambda each: LEVELS.index(each.item.level)):
        if fetch.item.url in counted:
            continue  # what has one URL is fetched once
        place = ground.place(fetch)
        disk, missing = place.disk, place.missing_bytes(size_of(fetch) or 0)
        found.unknown_sizes += size_of(fetch) is None
        to_fetch = place.bytes_to_fetch(size_of(fetch) or 0)
        if fetch.item.level == "critical":
            disk.bytes += missing
        elif _with_margin(missing) > disk.free_bytes:
            _leave_out(found, fetch, disk, missing, beside="")
            continue
        elif fetch.item.level == "optional":
            optional.append((missing, fetch, disk))
            to_fetch = 0
        else:
            disk.bytes += missing
        found.bytes_to_fetch += to_fetch
        counted.add(fetch.item.url)
    for disk in ground.disks:
        if disk.bytes and not disk.has_room(0) and found.too_big is None:
            found.too_big = _too_big(disk, absent)
    for missing, fetch, disk in sorted(optional, key=lambda each: each[0]):
        if missing and not disk.has_room(missing):
            if found.too_big is None:
                _leave_out(found, fetch, disk, missing, beside=" beside what is more important")
        else:
            disk.bytes += missing
            found.bytes_to_fetch += ground.place(fetch).bytes_to_fetch(size_of(fetch) or 0)
    for disk in ground.disks:
        found.disks.append(Room(disk.folder, disk.needed_bytes(), disk.free_bytes))


def _leave_out(found: Preflight, fetch: Fetch, disk: _Disk, missing: int, *, beside: str) -> None:
    """*fetch* is not begun: there is no room for it."""
    needed = disk.needed_bytes(missing) if beside else _with_margin(missing)
    message = (
        f"`{fetch.item.label}` ({size_text(missing)}) has no room on `{disk.folder}`{beside}: "
        f"{size_text(needed)} would be needed, {size_text(disk.free_bytes)} are free"
    )
    failure = Failure("disk_full", message, needed_bytes=needed, free_bytes=disk.free_bytes, path=disk.folder)
    fetch.refusal = found.failures[fetch.key] = failure


def _too_big(disk: _Disk, absent: Sequence[Fetch]) -> Failure:
    """Say the numbers: what is critical and required does not fit together, and the rest is left out already."""
    wanted, free, folder = disk.needed_bytes(), disk.free_bytes, disk.folder
    about = {"more": size_text(wanted - free)}
    dropped, short = [], wanted - free
    candidates = [fetch for fetch in absent if fetch.item.level == "required" and fetch.refusal is None]
    for fetch in sorted(candidates, key=lambda each: size_of(each) or 0, reverse=True):
        if short <= 0:
            break
        dropped.append(f"`{fetch.item.label}` ({size_text(size_of(fetch) or 0)})")
        short -= int((size_of(fetch) or 0) * (1 + MARGIN_SHARE))
    would_do = bool(dropped) and short <= 0
    if would_do:
        about["items"] = ", ".join(dropped)
    message = f"{size_text(wanted)} are needed on `{folder}`, {size_text(free)} are free"
    return Failure(
        "disk_full",
        message,
        case="more_room_or_optional" if would_do else "more_room",
        about=about,
        needed_bytes=wanted,
        free_bytes=free,
        path=folder,
    )
