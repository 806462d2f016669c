"""The sources of one file, in order: which one to ask next, and what its failures mean.

Mirrors have the same content. The substitute is something else, taken only when every source says no, and said so.
"""

from __future__ import annotations

import functools
import time
from typing import List, Optional, Tuple

from ..contract import redaction, source_kinds
from ..contract.failures import Failure
from ..contract.plan import Download
from ..contract.retry import Schedule
from ..run.context import Report
from ..run.outages import Outages, tried
from .engine.transfer import Changed, Unranged
from .hosts import Hosts
from .http.errors import Expired
from .http.transport import origin_of
from .sources import addresses
from .sources.lookup import Answer
from .time_budget import Allowance

EXPIRED_AT_MOST = 3
"""How often in a row a fresh link is asked for without a byte in between."""
ANOTHER_FILE_AFTER = 2
"""So often a server must be out of reach before the substitute, which is another file, is taken."""


class Source:
    """One URL that may have the file, with what went wrong there so far."""

    def __init__(self, url: str, *, is_cache: bool = False) -> None:
        self.url = url
        self.is_cache = is_cache
        """It may have the file: what goes wrong there is no trouble of the item's."""
        self.answer: Optional[Answer] = None
        """What it said in the preflight; used once, it may expire."""
        self.failure: Optional[Failure] = None
        """Why it is not asked any more."""
        self.failures = 0
        """In a row, without progress."""
        self.expired = 0
        self.unreached = 0
        """How often in a row it could not be reached."""
        self.unreached_since = 0.0
        self.is_single = False
        """It cannot be trusted with ranges: whole file or nothing."""
        self._beyond = ""
        """The server that it led to and that could not be reached."""
        self._serving = ""

    @functools.cached_property
    def host(self) -> str:
        """Whom to ask; '' for what is no URL."""
        return self._origin[0]

    @property
    def hosts(self) -> Tuple[str, ...]:
        """The host that is written, the one to ask, and the one that redirects led to: rules for any of them hold."""
        return tuple(filter(None, (source_kinds.host_of(self.url), self.host, self._serving)))

    @property
    def places(self) -> Tuple[str, ...]:
        """The servers that must be reached for it, as ``host:port``."""
        host, port = self._origin
        own = f"{host}:{port}" if port else ""
        return tuple(dict.fromkeys(filter(None, (own, self._beyond))))

    @functools.cached_property
    def _origin(self) -> Tuple[str, int]:
        try:
            origin = origin_of(addresses.address_of(self.url))
        except (Failure, ValueError):
            return "", 0
        return origin.host, origin.port

    def reached(self, answer: Answer, outages: Outages) -> None:
        """It has given its *answer*."""
        self._serving = answer.host
        outages.end(*self.places)

    def made_progress(self) -> None:
        """Failures count only in a row."""
        self.failures = self.expired = self.unreached = 0

    def not_reached(self, failure: Failure, outages: Outages, *, now: float) -> float:
        """It could not be reached: when others have been told, the seconds until it is tried again."""
        self._beyond = failure.place or self._beyond
        self.unreached += 1
        if self.unreached == 1:
            self.unreached_since = now
        elif now - self.unreached_since >= outages.patience_s:
            self.failure = tried(failure, now - self.unreached_since)  # though others may reach that server
        outages.end(*self.places[:-1])
        return outages.note((self.places or ("",))[-1], failure, failures=self.unreached)


class SourceSelector:
    """Holds the source in `current` use. Used by the file's driver; the preflight fills in answers before."""

    def __init__(self, item: Download, report: Report) -> None:
        self._schedule = Schedule(item.limits.attempts)
        self._report = report
        self.sources = [Source(url) for url in (item.url, *item.mirrors)]
        self.current = self.sources[0]
        self.substitute = item.substitute
        self.is_waiting = False
        """None of its sources can be reached; the server is tried again, here or by another file."""

    def ask_first(self, cache_url: str) -> None:
        """A cache may have the file at *cache_url*; called before any source is asked."""
        self.sources.insert(0, Source(cache_url, is_cache=True))
        self.current = self.sources[0]

    def choose(self, outages: Outages, allowance: Allowance) -> Optional[Source]:
        """The source in use while it is any good, else the next one; None when all have failed.

        Waits while none can be reached, as long as the run is patient; raises as `Allowance.check`.
        """

        def pause(wait_s: float) -> None:
            if self.substitute is None or not self._give_way(outages):
                if not (self.is_waiting or self.current.unreached):
                    why = f"{self.current.host} cannot be reached"
                    self._report("waiting", host=self.current.host, wait_s=0.0, reason=why)
                self.is_waiting = True
                allowance.sleep(wait_s)

        try:
            source = outages.first(self._from(self.current), pause)
        finally:
            self.is_waiting = False
        if source is not None:
            self._switch(source)
        return source

    def _give_way(self, outages: Outages) -> bool:
        """To the substitute, once every source was tried again in vain."""
        left = [source for source in self.sources if source.failure is None]
        if any(outages.failures(*source.places) < ANOTHER_FILE_AFTER for source in left):
            return False
        for source in left:
            source.failure = outages.last(*source.places)
        return True

    def take_substitute(self) -> Optional[str]:
        """Go over to the explicitly different file; returns its path, None if there is none."""
        taken, self.substitute = self.substitute, None
        if taken is None:
            return None
        self.sources = [Source(taken.url)]
        self._switch(self.sources[0], substitute=True)
        return taken.path

    def worst(self) -> Failure:
        """What to say about a file that nobody has: the first source's word, and what the others said."""
        in_order = sorted(self.sources, key=lambda source: source.is_cache)
        failures = [(source.host, source.failure) for source in in_order if source.failure is not None]
        (_, first), others = failures[0], failures[1:]
        if not others:
            return first
        also = "; ".join(f"{host}: {failure.class_}" for host, failure in others)
        return Failure(
            first.class_,
            f"{first.message} (then {also})",
            case=first.case,
            about=first.about,
            retriable=any(failure.retriable for _, failure in failures),
            **first.facts,
        )

    def judge(
        self,
        source: Source,
        failure: Failure,
        *,
        is_crowded: bool,
        hosts: Hosts,
        allowance: Allowance,
        outages: Outages,
    ) -> None:
        """Decide what *failure* means for *source*, and wait if it is to be asked again.

        Args:
            is_crowded: It came while several connections were tried at once; fewer may do.

        Raises:
            Failure: no source can help.
        """
        if source.is_cache and failure.meaning.helps_elsewhere:
            source.failure = failure
            allowance.check()
            return
        if failure.class_ == "unreachable" and failure.retriable and not is_crowded:
            wait_s = source.not_reached(failure, outages, now=time.monotonic())
            allowance.check()
            if source.failure is None:
                told = {"attempt": source.unreached, "wait_s": round(wait_s, 3), "class": failure.class_}
                self._report("retried", **told)
            return
        outages.end(*source.places)
        allowance.check()
        if not failure.meaning.helps_elsewhere:
            raise failure
        if failure.class_ == "rate_limited":
            host = str(failure.facts.get("host", source.host))
            hosts.pause(host, failure.wait_s or 0.0)
            allowance.await_host(host, self._report)
        elif isinstance(failure, Expired) and source.expired < EXPIRED_AT_MOST:
            source.expired += 1
        elif isinstance(failure, Unranged) and not source.is_single:
            source.is_single = True
        elif not failure.retriable:
            source.failure = failure
        else:
            self._retry(source, failure, is_crowded=is_crowded, allowance=allowance)

    def _retry(self, source: Source, failure: Failure, *, is_crowded: bool, allowance: Allowance) -> None:
        if isinstance(failure, Changed) and source.failures > 0:
            source.is_single = True  # it contradicts itself: one answer at least is of one content
        source.failures += 0 if is_crowded else 1
        wait_s = self._schedule.wait_s(source.failures)
        if wait_s is None:
            source.failure = failure
            return
        attempt = max(source.failures, 1)
        self._report("retried", attempt=attempt, wait_s=round(wait_s, 3), **{"class": failure.class_})
        behind = [each for each in self._from(source)[1:] if each.failure is None]
        if failure.class_ == "stalled" and behind:
            self._switch(behind[0])
        else:
            allowance.sleep(wait_s)

    def _from(self, source: Source) -> List[Source]:
        at = self.sources.index(source)
        return self.sources[at:] + self.sources[:at]

    def _switch(self, source: Source, *, substitute: bool = False) -> None:
        if source is not self.current:
            self.current = source
            self._report("switched", url=redaction.public_url(source.url), substitute=substitute)
