"""Wheels unpacked as they come, some at once, so that an install only has to link what is in them.

uv lets one process at a time into an environment, from its first wheel to its last file, and one large library keeps one
core busy for seconds. So wheels are unpacked into uv's cache beside it, by installs into folders that nobody reads.
"""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ...contract.failures import Failure
from ...contract.pylock import LockedFile
from ...host import process
from ...run.context import Context
from .wheel_store import WheelStore, path_of

WORTH_BYTES = 4 << 20
"""Smaller ones that an install waits for are unpacked in a moment by itself."""
BATCH_BYTES = 32 << 20
"""What is worth a start of uv, while more is to come."""
LANES = max(2, min(8, os.cpu_count() or 1))
"""So many processes of uv unpack at once: each may be down to one library, and one core."""
WITHIN_S = 1800.0
LOOK_AGAIN_S = 0.05


class Chosen(NamedTuple):
    """The wheel that was chosen for a package."""

    name: str
    """Of the package, normalised."""
    pin: str
    wheel: LockedFile
    path: str
    """Where it is, or will be."""

    @property
    def key(self) -> str:
        """No other wheel has it."""
        return path_of(self.wheel)


def install_argv(uv: str, python: str, folder: str, pins: Iterable[str]) -> List[str]:
    """The command that installs *pins* from the wheels in *folder*, and asks nobody."""
    argv = [uv, "pip", "install", "--python", python, "--offline", "--no-index", "--no-deps"]
    return [*argv, "--find-links", folder, *pins]


class Unpacking:
    """The wheels of one run on their way into uv's cache. Safe to use from several threads; `close` it.

    Args:
        store: Brings them.
        folder: For links to them, and for what nobody reads; what was in it goes.
    """

    def __init__(self, store: WheelStore, folder: str, context: Context) -> None:
        self._store, self._folder, self._context = store, folder, context
        self._lock = threading.Lock()
        self._links: List[Dict[str, str]] = []
        """Of each folder of links, the keys of its wheels by package: there are never two of one package in it."""
        self._coming: Dict[str, Chosen] = {}
        """What is to be unpacked, by key."""
        self._going: Set[str] = set()
        """The keys of what is being unpacked."""
        self._urgent: Set[str] = set()
        self._busy = 0
        self._began: Optional[Tuple[str, str, Mapping[str, str]]] = None
        self._is_closed = threading.Event()
        self._lanes = ThreadPoolExecutor(LANES, thread_name_prefix="unpack")
        self._thread = threading.Thread(target=self._go_on, name="unpacking", daemon=True)

    def want(self, wheels: Iterable[Chosen]) -> None:
        """*wheels* are coming: they are unpacked when they are here, once somebody calls `begin`."""
        with self._lock:
            for each in wheels:
                if each.key not in self._links_of(each.name):
                    self._coming[each.key] = each

    def begin(self, uv: str, python: str, environment: Mapping[str, str], urgent: Sequence[Chosen]) -> None:
        """Unpack what comes, and first what is *urgent*.

        Args:
            python: Of an environment that is there.
            environment: Variables for uv. Without a cache nothing is unpacked.
        """
        with self._lock:
            self._urgent = {each.key for each in urgent}
            for each in urgent:
                if each.wheel.size_bytes is not None and each.wheel.size_bytes < WORTH_BYTES:
                    self._coming.pop(each.key, None)
            is_first, self._began = self._began is None, (uv, python, environment)
        if is_first and "UV_NO_CACHE" not in environment and not self._is_closed.is_set():
            shutil.rmtree(self._folder, ignore_errors=True)
            self._thread.start()

    def is_past(self, wheel: LockedFile) -> bool:
        """Was *wheel* unpacked, or is that left to its install?"""
        key = path_of(wheel)
        with self._lock:
            return not (self._thread.is_alive() and (key in self._coming or key in self._going))

    def linked(self, wheels: Iterable[Chosen]) -> Dict[str, List[Chosen]]:
        """*wheels*, which are here, by the folder in which there is a link to each."""
        found: Dict[str, List[Chosen]] = {}
        for each in wheels:
            found.setdefault(self._linked(each), []).append(each)
        return found

    def close(self) -> None:
        """End what still goes on, and take the folder away."""
        self._is_closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._lanes.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _links_of(self, name: str) -> List[str]:
        return [links[name] for links in self._links if name in links]

    def _linked(self, chosen: Chosen) -> str:
        with self._lock:
            number = next(
                (at for at, links in enumerate(self._links) if links.get(chosen.name) in (None, chosen.key)),
                len(self._links),
            )
            if number == len(self._links):
                self._links.append({})
            self._links[number][chosen.name] = chosen.key
        folder = os.path.join(self._folder, str(number))
        os.makedirs(folder, exist_ok=True)
        link = os.path.join(folder, chosen.wheel.file_name)
        if not os.path.islink(link):
            os.symlink(os.path.abspath(chosen.path), link)
        return folder

    def _go_on(self) -> None:
        while not (self._is_closed.is_set() or self._context.is_over()):
            for batch in self._batches():
                self._lanes.submit(self._unpack, batch)
            self._is_closed.wait(LOOK_AGAIN_S)
        self._is_closed.set()  # whoever unpacks is ended, too

    def _batches(self) -> List[List[Chosen]]:
        """What is to be unpacked now, for as many processes as may begin; it is going on from here."""
        with self._lock:
            coming, urgent, free = list(self._coming.values()), self._urgent, LANES - self._busy
        settled = self._store.settled([each.wheel for each in coming])
        sizes = {each.key: _size(each) for each in coming if each.wheel.file_name in settled.paths}
        small = {key for key, size in sizes.items() if size < WORTH_BYTES and key in urgent}
        here = [each for each in coming if each.key in sizes and each.key not in small]
        is_coming = {each.key for each in coming if each.wheel.file_name not in settled.paths}
        is_coming -= {each.key for each in coming if each.wheel.file_name in settled.failures}
        first = [each for each in here if each.key in urgent]
        batches = _shared_out(first, sizes, free, is_all=is_coming.isdisjoint(urgent))
        kept_free = 0 if is_coming.isdisjoint(urgent) else 1
        later = [each for each in here if each.key not in urgent]
        batches += _shared_out(later, sizes, free - len(batches) - kept_free, is_all=not is_coming)
        with self._lock:
            for each in coming:
                if each.wheel.file_name in settled.failures or each.key in small:
                    self._coming.pop(each.key, None)
            for batch in batches:
                self._busy += 1
                self._going.update(each.key for each in batch)
                for each in batch:
                    self._coming.pop(each.key, None)
        return batches

    def _unpack(self, batch: Sequence[Chosen]) -> None:
        nowhere = os.path.join(self._folder, f"unread-{batch[0].wheel.sha256}")
        try:
            assert self._began is not None
            uv, python, environment = self._began
            for folder, wheels in self.linked(batch).items():
                argv = install_argv(uv, python, folder, [each.pin for each in wheels])
                done = process.run(
                    [*argv, "--link-mode", "symlink", "--target", nowhere],
                    timeout_s=self._context.bounded(WITHIN_S),
                    directory=self._context.workspace,
                    environment=environment,
                    cancelled=self._is_closed,
                )
                if done.status != 0:
                    raise Failure("command", done.said(3))
        except (Failure, OSError) as error:
            if not self._is_closed.is_set():
                self._context.output(self._context.redact(f"left to the install, not unpacked: {error}"))
        finally:
            with self._lock:
                self._busy -= 1
                self._going.difference_update(each.key for each in batch)
            shutil.rmtree(nowhere, ignore_errors=True)


def _size(chosen: Chosen) -> int:
    """Of a wheel that is here; 0 where it has gone."""
    try:
        return os.path.getsize(chosen.path)
    except OSError:
        return 0


def _shared_out(
    wheels: Sequence[Chosen], sizes: Mapping[str, int], lanes: int, *, is_all: bool
) -> List[List[Chosen]]:
    """*wheels*, the largest first, in as many batches as there are *lanes*; none where it is not worth it yet.

    Args:
        is_all: Nothing is to come that could go with them.
    """
    total_bytes = sum(sizes[each.key] for each in wheels)
    if lanes <= 0 or not wheels or (total_bytes < BATCH_BYTES and not is_all):
        return []
    share_bytes = max(BATCH_BYTES, total_bytes / lanes)
    batches: List[List[Chosen]] = [[]]
    for each in sorted(wheels, key=lambda each: -sizes[each.key]):
        if sum(sizes[one.key] for one in batches[-1]) >= share_bytes:
            batches.append([])
        batches[-1].append(each)
    return batches
