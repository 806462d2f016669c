"""All downloads of a run: which file goes first, how many at once, and what became of each.

Critical files come before required ones before optional ones, and inside a level the longest first, so that the
last one to end is a short one. A file that fails stops no other. Two items with one URL are fetched once.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import dataclass, replace
from typing import Callable, Container, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..contract.failures import Failure, disk_failure
from ..contract.plan import Download
from ..contract.plan_parts import Limits
from ..contract.steps import LEVELS
from ..host.beneath import Folder
from ..run.context import Context
from ..run.writing import folder_for
from . import existing, preflight, site_cache
from .engine.pool import Pool
from .engine.tuner import Tuner
from .file import Fetch, Shared
from .hosts import Hosts, Rate
from .http.idle import IdleConnections
from .names import Names, NameTaken
from .preflight import Preflight
from .sources.hub_cache import HubCaches
from .sources.lookup import Sources
from .time_budget import Stopped

LOOK_AGAIN_S = 0.1
STOP_WITHIN_S = 10.0


@dataclass(frozen=True)
class Result:
    """What became of one item: ``ok``, ``skipped`` (it was there already), ``failed``, or ``unfinished`` when all was stopped."""

    state: str
    failure: Optional[Failure]
    bytes_downloaded: int
    level: str


class Line(NamedTuple):
    """What all files of a run share, whatever they are for: the connections, and what is known of hosts and line."""

    access: Sources
    hosts: Hosts
    tuner: Tuner
    pool: Pool

    @classmethod
    def of(cls, limits: Limits, sources: Sources) -> Line:
        """A new one."""
        hosts, tuner = Hosts(limits.hosts), Tuner(limits.files, limits.connections)
        return cls(sources, hosts, tuner, Pool(sources, hosts, Rate(limits.rate_bytes_per_s), tuner))


class Downloads:
    """Fetches *items*. Call `preflight` (if wanted), `start`, `wait`, and `stop` in every case.

    Args:
        line: Of other downloads of the run, which these go beside: they end when that line's owner is stopped, or when
            their own context is over. None: they have one of their own.
        sooner: Keys of those that go before the longer ones of their level.
    """

    def __init__(
        self,
        items: Sequence[Download],
        limits: Limits,
        context: Context,
        sources: Sources,
        *,
        line: Optional[Line] = None,
        sooner: Container[str] = (),
    ) -> None:
        self._context = context
        self._sooner = sooner
        self._limits = limits
        self._is_guest = line is not None
        if line is None:
            sources.idle = IdleConnections()
            line = Line.of(limits, sources)
        self.line = line
        self._access, self._hosts, self._tuner, self._pool = line
        self._results: Dict[str, Result] = {}
        self._changed = threading.Condition()
        self._drivers: List[threading.Thread] = []
        self._conductor: Optional[threading.Thread] = None
        self._running: List[Fetch] = []
        self._is_stopped = False
        self._is_queued = False
        self._waiting: List[Fetch] = []
        self._is_all_there = False
        """No more will come to those that wait."""
        self._fetches: Dict[str, Fetch] = {}
        self._names = Names(context.workspace)
        shared = Shared(context, self._access, self._hosts, self._pool, self._names)
        self._hub_caches = HubCaches(items, context)
        for order, item in enumerate(items):
            self._access.add(item)
            if item.key not in self._fetches:
                self._fetches[item.key] = fetch = Fetch(item, shared, order=order)
                cached = site_cache.url_at(limits.cache, item)
                if cached is not None:
                    fetch.selector.ask_first(cached)

    def preflight(self, *, also_bytes: int = 0, begin: Optional[Callable[[], None]] = None) -> Preflight:
        """Ask every source about every file, and look whether all of them fit on the disk.

        Args:
            also_bytes: What else will need room in the workspace, such as an environment.
            begin: Called before a file that surely may begins while others are still asked about; None: nothing is
                fetched before `start`.
        """
        self._queue()

        def begin_early(fetch: Fetch) -> None:
            if begin is not None and self._has_name_of_its_own(fetch):
                begin()
                self._begin_early(fetch)

        return preflight.look_up(
            list(self._fetches.values()),
            context=self._context,
            access=self._access,
            hosts=self._hosts,
            also_bytes=also_bytes,
            begin=None if begin is None else begin_early,
        )

    def start(self) -> None:
        """Begin to fetch, in threads."""
        self._queue()
        with self._changed:
            begun = {fetch.key for fetch in (*self._waiting, *self._running)} | set(self._results)
            waiting = [fetch for fetch in self._fetches.values() if fetch.key not in begun]
            waiting.sort(key=self._urgency)
            for fetch in sorted(waiting, key=lambda fetch: not fetch.has_file()):
                path = fetch.foreseen_path() if fetch.refusal is None else None
                if path is not None:
                    self._names.want(path, fetch.item)
            for order, fetch in enumerate(waiting):
                fetch.rank = (fetch.rank[0], order)
            self._waiting = sorted([*self._waiting, *waiting], key=self._urgency)
            self._is_all_there = True
            self._conduct_in_a_thread()
            self._changed.notify_all()

    def wait(self, level: Optional[str] = None) -> bool:
        """Wait until every item of *level* (None: of all) is settled; False when the run ended first.

        An item is, when those that want the same final name are.
        """
        wanted = [fetch.item for fetch in self._fetches.values() if level in (None, fetch.item.level)]
        with self._changed:
            while any(not self._is_settled(item) for item in wanted):
                if self._is_over():
                    return False
                self._changed.wait(min(0.25, max(0.0, self._context.remaining_s())))
        return True

    def results(self) -> Dict[str, Result]:
        """What became of the items that are settled, by key; of all of them after `stop`."""
        with self._changed:
            found = dict(self._results)
            is_stopped = self._is_stopped
        for key, fetch in self._fetches.items() if is_stopped else ():
            if key not in found:
                failure = Failure(
                    "timed_out", "the run ended before it was finished; what has landed is kept"
                )
                found[key] = Result("unfinished", failure, fetch.bytes_downloaded, fetch.item.level)
        return found

    @property
    def bytes_downloaded(self) -> int:
        """What came over the network so far."""
        return sum(fetch.bytes_downloaded for fetch in self._fetches.values())

    def stop(self) -> None:
        """End everything that still goes on; parts and journals stay for the next run."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            drivers = list(self._drivers)
        if not self._is_guest:
            self._pool.stop(within_s=STOP_WITHIN_S)
            if self._access.idle is not None:
                self._access.idle.close()
        end = time.monotonic() + STOP_WITHIN_S
        for driver in drivers:
            driver.join(max(0.0, end - time.monotonic()))

    # -- the order

    def _queue(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            for fetch in self._fetches.values():
                fetch.report("queued")

    def _urgency(self, fetch: Fetch) -> Tuple[int, bool, int, int]:
        level, is_later = LEVELS.index(fetch.item.level), fetch.key not in self._sooner
        return level, is_later, -(preflight.size_of(fetch) or 0), fetch.rank[1]

    def _has_name_of_its_own(self, fetch: Fetch) -> bool:
        """Can no other item want its file or its final name? Else those that want it are put in order first."""
        path = os.path.normpath(fetch.item.path)
        for other in self._fetches.values():
            folder = os.path.normpath(other.item.path) if other.item.path.endswith("/") else None
            is_rival = folder == os.path.dirname(path) or os.path.normpath(other.item.path) == path
            if other is not fetch and (is_rival or other.item.url == fetch.item.url):
                return False
        return not fetch.item.path.endswith("/") and fetch.item.substitute is None

    def _begin_early(self, fetch: Fetch) -> None:
        with self._changed:
            if not self._is_stopped and not self._is_all_there:
                self._waiting.append(fetch)
                self._waiting.sort(key=self._urgency)
                self._conduct_in_a_thread()
                self._changed.notify_all()

    def _conduct_in_a_thread(self) -> None:
        """Have somebody start those that wait; the lock is held."""
        if self._conductor is None:
            self._conductor = threading.Thread(target=self._conduct, name="downloads", daemon=True)
            self._drivers.append(self._conductor)
            self._conductor.start()

    def _conduct(self) -> None:
        """Start a driver for each file when there is room for it."""
        with self._changed:
            while not self._is_over() and (self._waiting or not self._is_all_there):
                fetch = self._next(self._waiting)
                if fetch is None:
                    self._changed.wait(LOOK_AGAIN_S)
                    continue
                self._waiting.remove(fetch)
                self._running.append(fetch)
                driver = threading.Thread(
                    target=self._drive, args=(fetch,), name=f"file-{fetch.rank[1]}", daemon=True
                )
                self._drivers.append(driver)
                driver.start()

    def _next(self, waiting: List[Fetch]) -> Optional[Fetch]:
        """The most urgent file that may begin now."""
        waiting_for = {
            place
            for each in self._running
            if each.selector.is_waiting
            for place in each.selector.current.places
        }
        busy = [each for each in self._running if each.is_transferring and not each.selector.is_waiting]
        if len(busy) >= self._tuner.files and not self._has_idle_connections(busy):
            return None
        hosts = [fetch.selector.current.hosts for fetch in busy]
        for fetch in waiting:
            has_twin = any(twin in self._running and not twin.is_waiting for twin in self._twins(fetch))
            holder = self._names.holder(fetch.item)
            is_held_up = holder is not None and not self._names.has_landed(holder)
            has_others = bool(fetch.item.mirrors) or fetch.selector.substitute is not None
            if not has_others and waiting_for.intersection(fetch.selector.current.places):
                continue  # nobody can reach it, and one file is enough to try
            is_free = not (has_twin or is_held_up)
            if is_free and self._hosts.may_begin(fetch.selector.current.hosts, hosts):
                return fetch
        return None

    def _has_idle_connections(self, busy: List[Fetch]) -> bool:
        """Files that need no more connections should not keep the next one waiting, unless the user counts files."""
        return self._limits.files is None and len(busy) < 2 * self._tuner.files and self._pool.is_hungry()

    def _twins(self, fetch: Fetch) -> List[Fetch]:
        """The other items with the same URL and no other hash."""
        return [
            other
            for other in self._fetches.values()
            if other is not fetch
            and other.item.url == fetch.item.url
            and len({other.item.sha256, fetch.item.sha256} - {None}) < 2
        ]

    def _is_over(self) -> bool:
        return self._is_stopped or self._context.is_over()

    # -- one file

    def _is_settled(self, item: Download) -> bool:
        return all(key in self._results for key in (item.key, *self._names.rivals(item)))

    def _drive(self, fetch: Fetch) -> None:
        failure: Optional[Failure] = None
        state = "failed"
        try:
            state = self._from_twin(fetch) or fetch.run()
            self._hub_caches.landed(fetch.item)
        except Stopped:
            return self._settle(fetch, None)
        except NameTaken as error:
            failure = error
            self._fail_too(self._fetches[error.holder.key], error)
        except Failure as error:
            failure = error
        except OSError as error:
            failure = disk_failure(error, fetch.label)
        except Exception as error:  # no thread may end silently: `wait` would wait for ever
            failure = Failure("bug", f"{type(error).__name__}: {error}")
        if failure is not None and self._is_over():
            return self._settle(fetch, None)
        if failure is not None:
            fetch.report("failed", url=fetch.public_url, **failure.as_fields())
        return self._settle(fetch, Result(state, failure, fetch.bytes_downloaded, fetch.item.level))

    def _settle(self, fetch: Fetch, result: Optional[Result]) -> None:
        with self._changed:
            self._running.remove(fetch)
            self._names.settle(fetch.item, has_landed=result is not None and result.state != "failed")
            if result is not None:
                self._results[fetch.key] = result
            self._changed.notify_all()

    def _fail_too(self, holder: Fetch, failure: NameTaken) -> None:
        """The item whose file has the name that another one wants: which of the two is meant, nobody can say."""
        with self._changed:
            before = self._results[holder.key]
            self._results[holder.key] = replace(before, state="failed", failure=failure)
        if before.state != "failed":
            holder.report("failed", url=holder.public_url, **failure.as_fields())

    def _from_twin(self, fetch: Fetch) -> Optional[str]:
        """The file that another item has fetched already, linked or copied; None when there is none."""
        there = (twin for twin in self._twins(fetch) if twin.path is not None and not twin.is_substituted)
        twin = next(there, None)
        if twin is None or twin.path is None or fetch.refusal is not None:
            return None
        if fetch.item.path.endswith("/") or fetch.item.unpack != "no":
            return None
        final = os.path.join(self._context.workspace, fetch.item.path)
        record = existing.record_of(self._context, twin.item)
        if not record or os.path.lexists(final) or self._names.holder(fetch.item) is not None:
            return None
        is_proven = fetch.item.sha256 is not None and fetch.item.sha256 == record.sha256
        if not is_proven and (fetch.item.sha256 or record.url not in existing.sources_of(fetch.item)):
            return None
        began_at = time.monotonic()
        fetch.report("started", url=fetch.public_url)
        with folder_for(self._context, final) as folder:
            _link_or_copy(twin.path, folder, os.path.basename(final))
        made = existing.remember(self._context, fetch.item, final, sha256=record.sha256, url=fetch.item.url)
        duration_s = round(time.monotonic() - began_at, 3)
        fetch.report("finished", bytes=made.size, sha256=made.sha256, duration_s=duration_s, copied=True)
        return "ok"


def _link_or_copy(source: str, folder: Folder, name: str) -> None:
    try:
        os.link(source, name, dst_dir_fd=folder.descriptor)
    except OSError:
        temporary = f"{name}.copy.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(source, "rb") as old, os.fdopen(folder.open(temporary, flags, 0o644), "wb") as new:
            shutil.copyfileobj(old, new)
        folder.replace(temporary, name)
