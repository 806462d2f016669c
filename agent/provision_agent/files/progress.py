"""How far the items of a session are: bytes and files of each, until all its files are settled."""

from __future__ import annotations

import threading
import time
from typing import Dict, List, Protocol, Sequence, Set

from ..contract.failures import Failure
from ..contract.file_messages import FILE, FileTold, ItemTold
from .records import DONE, FAILED, LEFT, LISTED, PROGRESS, UploadTold

TELL_EVERY_S = 0.5
SPEED_OVER_S = 3.0


class Account(Protocol):
    """Takes what is learnt of the items of a session; `records.UploadLog` is one."""

    def tell(self, told: UploadTold) -> None:
        """Take *told*."""

    def touch(self) -> None:
        """Somebody is there."""


class Nobody:
    """An `Account` that nobody reads."""

    def tell(self, told: UploadTold) -> None:
        """Nothing."""

    def touch(self) -> None:
        """Nothing."""


class _Item:
    def __init__(self, told: ItemTold) -> None:
        self.told = told
        self.left = told.entries
        self.bytes = 0
        self.sent_bytes = 0
        self.failed: List[Failure] = []
        self.is_settled = False


class Progress:
    """Tells *account*, at most every half a second of each item. Thread-safe."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._lock = threading.Lock()
        self._items: Dict[str, _Item] = {}
        self._counted: Dict[int, int] = {}
        self._settled: Set[int] = set()
        self._told_at: Dict[str, float] = {}
        self._speed = Speed()

    def begin(self, items: Sequence[ItemTold]) -> None:
        """These are to come; one without files is there already."""
        with self._lock:
            for told in items:
                self._items[told.item] = _Item(told)
                self._account.tell(UploadTold(LISTED, told.item, files=told.files, total_bytes=told.bytes))
            for item in list(self._items.values()):
                self._settle_if_complete(item)

    def landed(self, file: FileTold, count: int, sent: int = 0, *, is_sent: bool = True) -> None:
        """*count* more bytes of *file* are there; *sent* of them came over the wire."""
        with self._lock:
            item = self._items.get(file.item)
            if item is None:
                return
            self._counted[file.n] = self._counted.get(file.n, 0) + count
            item.bytes += count
            item.sent_bytes += sent
            if is_sent:
                self._speed.add(sent)
            self._tell_progress(item)

    def forget(self, file: FileTold) -> None:
        """What landed of *file* counts for nothing."""
        with self._lock:
            item = self._items.get(file.item)
            if item is not None:
                item.bytes -= self._counted.pop(file.n, 0)

    def done(self, file: FileTold) -> None:
        """*file* is there."""
        with self._lock:
            item = self._items.get(file.item)
            if item is None or file.n in self._settled:
                return
            if file.kind == FILE:
                item.bytes += file.size_bytes - self._counted.pop(file.n, 0)
            self._settle(item, file.n)

    def fail(self, file: FileTold, failure: Failure) -> None:
        """*file* cannot be had."""
        with self._lock:
            item = self._items.get(file.item)
            if item is not None and file.n not in self._settled:
                item.failed.append(failure)
                self._settle(item, file.n)

    def fail_item(self, key: str, failure: Failure) -> None:
        """Nothing of the item *key* can be had."""
        with self._lock:
            item = self._items.get(key)
            if item is not None and not item.is_settled:
                item.failed.insert(0, failure)
                item.left = 0
                self._settle_if_complete(item)

    def touch(self) -> None:
        """Somebody is there."""
        self._account.touch()

    def leave(self) -> None:
        """The session is over."""
        with self._lock:
            if any(not item.is_settled for item in self._items.values()):
                self._account.tell(UploadTold(LEFT))

    def _settle(self, item: _Item, number: int) -> None:
        self._settled.add(number)
        item.left -= 1
        self._settle_if_complete(item)

    def _settle_if_complete(self, item: _Item) -> None:
        if item.left > 0 or item.is_settled:
            self._tell_progress(item)
            return
        item.is_settled = True
        told = item.told
        if not item.failed:
            self._account.tell(
                UploadTold(
                    DONE,
                    told.item,
                    files=told.files,
                    bytes=max(item.bytes, 0),
                    total_bytes=told.bytes,
                    sent_bytes=item.sent_bytes,
                )
            )
            return
        first, more = item.failed[0], len(item.failed) - 1
        others = f"; and {more} more of its files" if more else ""
        self._account.tell(
            UploadTold(
                FAILED,
                told.item,
                class_=first.class_,
                message=f"{first.message}{others}"[:8000],
                case=first.case,
                about=first.about,
            )
        )

    def _tell_progress(self, item: _Item) -> None:
        now, key = time.monotonic(), item.told.item
        if item.is_settled or now - self._told_at.get(key, 0.0) < TELL_EVERY_S:
            return
        self._told_at[key] = now
        self._account.tell(
            UploadTold(
                PROGRESS,
                key,
                bytes=max(item.bytes, 0),
                total_bytes=item.told.bytes,
                sent_bytes=item.sent_bytes,
                bytes_per_s=round(self._speed.bytes_per_s(), 1),
            )
        )


class Speed:
    """Bytes per second over the last few seconds."""

    def __init__(self) -> None:
        self._marks: List[List[float]] = []

    def add(self, count: int) -> None:
        """So many bytes came just now."""
        now = time.monotonic()
        if self._marks and now - self._marks[-1][0] < 0.1:
            self._marks[-1][1] += count
        else:
            self._marks.append([now, float(count)])
        while self._marks and now - self._marks[0][0] > SPEED_OVER_S:
            self._marks.pop(0)

    def bytes_per_s(self) -> float:
        """At present."""
        if len(self._marks) < 2:
            return 0.0
        took_s = self._marks[-1][0] - self._marks[0][0]
        return sum(mark[1] for mark in self._marks[1:]) / took_s if took_s > 0 else 0.0
