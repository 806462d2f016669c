"""The sources of one repository, in order: which one to ask next, and when to give up.

A server that cannot be reached is tried for as long as the run is patient, together with all else that wants it.
"""

from __future__ import annotations

import re
from typing import Callable, List, Optional, Tuple
from urllib.parse import urlsplit

from ..contract import retry
from ..contract.failures import Failure
from ..contract.plan import Repo
from ..contract.redaction import public_url
from ..run.context import Context
from ..run.outages import Outages

_PORTS = {"http": 80, "https": 443, "ssh": 22, "git": 9418}


class Source:
    """One URL that may have the repository."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.failure: Optional[Failure] = None
        """Why it is not asked any more."""

    @property
    def places(self) -> Tuple[str, ...]:
        """Its server, as ``host:port``; none for a folder."""
        place = place_of(self.url)
        return (place,) if place else ()


class Rounds:
    """Asks the sources of one repository in turn, several rounds while that may help.

    Args:
        attempt: Brings the repository from one URL, or raises `Failure`.
        rounds: For sources that answer, but not well.
        outages: For those that cannot be reached.
        say: Is told what went wrong on the way.
    """

    def __init__(
        self,
        repo: Repo,
        attempt: Callable[[str], bool],
        context: Context,
        *,
        rounds: retry.Schedule,
        outages: Outages,
        say: Callable[[str], None],
    ) -> None:
        self._repo = repo
        self._attempt = attempt
        self._context = context
        self._attempts = retry.Attempts(rounds)
        self._outages = outages
        self._say = say
        self._sources = [Source(url) for url in (repo.url, *repo.mirrors)]

    def run(self) -> bool:
        """What the attempt returns at the first source that has it.

        Raises:
            Failure: the last one's, or at once what no other source can mend.
        """
        return retry.call(
            self._round,
            self._attempts,
            errors=Failure,
            wait=self._context.wait,
            may_help=self._may_help,
            before_wait=lambda failure, wait_s: self._report(failure, wait_s, self._attempts.failures),
        )

    def _round(self) -> bool:
        left = list(self._sources)
        last: Optional[Failure] = None
        while True:
            source = self._next(left)
            if source is None:
                raise _reason(self._sources, last)
            try:
                is_new = self._attempt(source.url)
            except Failure as failure:
                last = failure
                self._say(f"{public_url(source.url)}: {failure.message}")
                self._note(source, failure)
                if not failure.meaning.helps_elsewhere or self._context.cancelled.is_set():
                    raise
                if not failure.retriable:
                    source.failure = failure
                if not failure.place:
                    left.remove(source)
            else:
                self._outages.end(*source.places)
                return is_new

    def _next(self, left: List[Source]) -> Optional[Source]:
        """The next one of this round; None when the round is over."""
        answering = [each for each in self._sources if each.failure is None and each not in left]

        def pause(wait_s: float) -> None:
            if answering:
                left.clear()  # those may do better in the next round: that is not worth a wait for others
            elif self._context.wait(wait_s):
                message = "the run ended while its source could not be reached"
                raise Failure("timed_out", message, retriable=True)

        return self._outages.first(left, pause)

    def _note(self, source: Source, failure: Failure) -> None:
        if failure.class_ != "unreachable" or not source.places:
            self._outages.end(*source.places)
            return
        failure.place = source.places[0]
        wait_s = self._outages.note(failure.place, failure)
        if self._outages.patience_s > 0:
            self._report(failure, wait_s, self._outages.failures(failure.place))

    def _may_help(self, failure: Failure) -> bool:
        may_any = any(source.failure is None for source in self._sources)
        return failure.meaning.helps_elsewhere and may_any and not self._context.is_over()

    def _report(self, failure: Failure, wait_s: float, failures: int) -> None:
        fields = {"attempt": failures + 1, "wait_s": round(wait_s, 3), "class": failure.class_}
        self._context.report("repo_retried", item=self._repo.path, level=self._repo.level, **fields)


def place_of(url: str) -> str:
    """The server of a git *url*, as ``host:port``; empty for a folder."""
    scp = re.fullmatch(r"(?:[^@/:]+@)?([^/:@]+):(?!//).*", url)
    if scp:
        return f"{scp[1].lower()}:22"
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return ""
    return f"{parts.hostname}:{port}" if parts.hostname and port else ""


def _reason(sources: List[Source], last: Optional[Failure]) -> Failure:
    failures = [source.failure for source in sources if source.failure is not None]
    if last is not None and len(failures) < len(sources):
        return last
    return failures[-1] if failures else Failure("not_found", "it has no source that can be asked")
