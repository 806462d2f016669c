"""The sources of one file, in order: which one to ask next, and what its failures mean.

Mirrors have the same content. The substitute is something else, taken only when every source says no, and said so.
"""

from __future__ import annotations

from typing import List, Optional
from urllib.parse import urlsplit

from ..contract import redaction
from ..contract.failures import Failure
from ..contract.plan import Download
from ..contract.retry import Schedule
from ..run.context import Report
from .engine.transfer import Changed, Expired, Unranged
from .hosts import Hosts
from .sources import addresses
from .sources.lookup import Answer
from .time_budget import Allowance

EXPIRED_AT_MOST = 3
"""How often in a row a fresh link is asked for without a byte in between."""


class Source:
    """One URL that may have the file, with what went wrong there so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answer: Optional[Answer] = None
        """What it said in the preflight; used once, it may expire."""
        self.failure: Optional[Failure] = None
        """Why it is not asked any more."""
        self.failures = 0
        """In a row, without progress."""
        self.expired = 0
        self.is_single = False
        """It cannot be trusted with ranges: whole file or nothing."""

    @property
    def host(self) -> str:
        """Whom to ask; '' for what is no URL."""
        try:
            return urlsplit(addresses.address_of(self.url)).hostname or ""
        except (Failure, ValueError):
            return ""

    def made_progress(self) -> None:
        """Failures count only in a row."""
        self.failures = self.expired = 0


class SourceSelector:
    """Holds the source in `current` use. Used by the file's driver; the preflight fills in answers before."""

    def __init__(self, item: Download, report: Report) -> None:
        self._schedule = Schedule(item.limits.attempts)
        self._report = report
        self.sources = [Source(url) for url in (item.url, *item.mirrors)]
        self.current = self.sources[0]
        self.substitute = item.substitute

    def choose(self) -> Optional[Source]:
        """The source in use while it is any good, else the next one; None when all have failed."""
        for source in self._from(self.current):
            if source.failure is None:
                self._switch(source)
                return source
        return None

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
        failures = [(source.host, source.failure) for source in self.sources if source.failure is not None]
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
        self, source: Source, failure: Failure, *, is_crowded: bool, hosts: Hosts, allowance: Allowance
    ) -> None:
        """Decide what *failure* means for *source*, and wait if it is to be asked again.

        Args:
            is_crowded: It came while several connections were tried at once; fewer may do.

        Raises:
            Failure: no source can help.
        """
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
