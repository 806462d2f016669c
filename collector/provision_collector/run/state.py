"""What this machine knows of one run: its files, the events of both sides, and the state folded from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from provision_agent.contract.event_bodies import RunFinished, SecretsNeeded, SourcesGiven, SourcesNeeded
from provision_agent.contract.events import Event
from provision_agent.contract.job_bodies import JobStarted
from provision_agent.contract.parsing import ParseError
from provision_agent.contract.plan_jobs import job_file
from provision_agent.contract.status import RunState

from ..errors import LocalMachineError, ProvisionError
from ..instance import Flag
from ..mirror import Mirror
from .events import EventTail, LocalEvents, not_of_an_agent
from .outcome import Outcome
from .registry import RunFiles
from .spec import ReadSoFar

FOLDS_IN_A_ROW = 200
"""So many events are folded before others have their turn on the event loop: about a millisecond."""

MAX_LIVE = 16
"""So many events wait in memory for who is a little behind; who is further behind reads them from the mirror."""


class Live(NamedTuple):
    """Events that stand between two bytes of the mirror."""

    begin: int
    end: int
    events: list[Event]
    is_taken: bool = False
    """By a reader: the next events stand for themselves."""

    def and_then(self, more: Live) -> Live:
        """These and *more*, where no reader was here between the two; else *more* alone."""
        if self.is_taken or self.end != more.begin or len(self.events) + len(more.events) > MAX_LIVE:
            return more
        return Live(self.begin, more.end, self.events + more.events)


NOTHING_LIVE = Live(-1, -1, [])


class LocalRun:
    """One run so far. Any number of readers may iterate `events`; each is woken when something has changed.

    Args:
        run: Its id, as far as it is known.
        planned: Knows the keys of the plan's items, where this side has the plan.
        so_far: What an earlier process had read of it: neither read nor told again.
    """

    def __init__(
        self,
        run: str,
        *,
        planned: Callable[[str], bool] | None = None,
        so_far: ReadSoFar | None = None,
    ) -> None:
        self.run = run
        self.files: RunFiles | None = None
        known = so_far or ReadSoFar(0, {})
        self.state = (
            RunState(run, planned=planned)
            if so_far is None
            else RunState.from_json(so_far.state, planned=planned)
        )
        """The one fold of the agent's events in this process: who shows or counts reads it."""
        self.outcome: Outcome | None = None
        self.needed: set[str] = set(known.needed)
        """Names of secrets that the instance asked for so far."""
        self.needed_sources: SourcesNeeded | None = None
        """The signed addresses that the instance asked for last, while it has got none."""
        self.jobs: tuple[str, ...] = ()
        """The names of those of its jobs whose logs are mirrored."""
        self.job_begun = Flag()
        """Set once one of these jobs was begun: the run's own limit does not count any more."""
        self.own_warnings: list[str] = []
        """What this side warned of."""
        self._local = LocalEvents(run)
        self._tail: EventTail | None = None
        self._final_sizes: Mapping[str, int] | None = known.sizes
        self._live = NOTHING_LIVE
        """What arrived last, if it was little."""
        self._begin = self._told_to = known.read_to
        self._passed_seq = known.passed_seq
        self._known_seq = self.state.seq
        self._absorbing = asyncio.Lock()
        self._change = Flag()

    @property
    def is_finished(self) -> bool:
        """The run has its verdict; its last bytes may still be on their way."""
        return self.state.verdict is not None

    async def bind(self, run: str, files: RunFiles) -> None:
        """It turned out which run it is: what its agent tells is read from its mirror from now on.

        Args:
            run: The run's id.
            files: Where its mirrors lie; their folder is made.

        Raises:
            LocalMachineError: the folder cannot be made.
        """
        try:
            await asyncio.to_thread(files.core.parent.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise LocalMachineError(f"cannot write to `{files.core.parent}`: {error.strerror}") from None
        self.files = files
        self.run = self._local.run = run
        self.state.run = run
        self._tail = self._new_tail(files)
        self.changed()

    def _new_tail(self, files: RunFiles) -> EventTail:
        return EventTail(files.events, offset=self._begin, passed_seq=self._passed_seq)

    def write_own_events(self) -> None:
        """Write this side's events to their file from now on: whoever holds the mirrors is its one writer, too."""
        assert self.files is not None
        self._local.bind(self.files.collector)

    def mirror_jobs(self, names: tuple[str, ...]) -> None:
        """The logs of the jobs with these *names* are mirrored; one may have begun before this process read of it."""
        self.jobs = names
        if any(item.item in names for item in self.state.items["jobs"].values()):
            self.job_begun.set()

    def emit(self, event: str, **fields: object) -> None:
        """Tell an event of this side."""
        self._local.emit(event, **fields)
        if event == "warning":
            self.own_warnings.append(str(fields["message"]))
        self.changed()

    async def absorb(self, at: int = -1, new: bytes = b"") -> None:
        """Read what has arrived of the agent's events, and fold it into the state; much of it in turns with others.

        Args:
            at: Where in the mirror *new* was written, just now; what is at hand need not be read.
            new: The bytes that were.
        """
        assert self._tail is not None
        begin = self._tail.offset
        live = None if self._absorbing.locked() else self._tail.feed(at, new)
        if live is not None:
            for event in live:
                self._take(event)
            if live:
                self._live = self._live.and_then(Live(begin, self._tail.offset, live))
                self.changed()
            return
        self._live = NOTHING_LIVE  # who waits reads the file, too
        async with self._absorbing:
            while events := await self._tail.read_later():
                for number, event in enumerate(events, 1):
                    self._take(event)
                    if number % FOLDS_IN_A_ROW == 0:
                        await asyncio.sleep(0)
            self.changed()

    def so_far(self) -> ReadSoFar | None:
        """What a later process need not read again, once all is told that `events` gave; None while that cannot be said."""
        if self.needed_sources is not None or self._tail is None:
            return None
        with self.state.lock:
            state = self.state.to_json()
        return ReadSoFar(self._told_to, state, tuple(sorted(self.needed)), self._final_sizes)

    def _take(self, event: Event) -> None:
        if event.seq <= self._known_seq:
            return  # an earlier process folded it
        try:
            self.state.fold(event)
        except ParseError as error:
            raise not_of_an_agent(error) from None
        if isinstance(event.body, JobStarted) and event.body.item in self.jobs:
            self.job_begun.set()
        if isinstance(event.body, SecretsNeeded):
            self.needed.update(event.body.names)
        if isinstance(event.body, SourcesNeeded):
            self.needed_sources = event.body
        if isinstance(event.body, SourcesGiven):
            self.needed_sources = None
        if isinstance(event.body, RunFinished):
            self._final_sizes = event.body.sizes or {}

    def is_fed(self, mirrors: Sequence[Mirror]) -> bool:
        """The run has ended and *mirrors* hold all that it wrote."""
        sizes = self._final_sizes
        return sizes is not None and all(
            mirror.is_full or mirror.offset >= sizes.get(mirror.name, 0) for mirror in mirrors
        )

    def is_complete(self) -> bool:
        """The run has ended and its files here hold all that it wrote, whoever feeds them."""
        if self._final_sizes is None or self.files is None:
            return False
        files = {"core": self.files.core, "errors": self.files.errors}
        present = {name: path for name, path in files.items() if path.exists()}
        present |= {job_file(name): self.files.job(name) for name in self.jobs}
        sizes = self._final_sizes
        return all(_size(path) >= sizes.get(name, 0) for name, path in present.items())

    def end(self, outcome: Outcome) -> None:
        """The last word: *outcome*, as the outcome event."""
        self.outcome = outcome
        self.emit("outcome", **{key: value for key, value in outcome.items() if key != "run"})

    async def write_what_is_left(self, files: RunFiles) -> None:
        """Take *files* for a run that never got any; without a folder for them, the outcome is still told."""
        self.files = files
        with suppress(OSError):
            await asyncio.to_thread(files.core.parent.mkdir, parents=True, exist_ok=True)
            self._local.bind(files.collector)

    def changed(self) -> None:
        """Wake every reader."""
        change, self._change = self._change, Flag()
        change.set()

    async def events(self, *, is_abandoned: Callable[[], bool]) -> AsyncIterator[dict[str, object]]:
        """Every event from the first, the agent's and this side's, to the outcome or until *is_abandoned*.

        The agent's are read from the mirror: a slow reader costs no memory.
        """
        tail: EventTail | None = None
        seen = 0
        while True:
            change = self._change
            is_over = self.outcome is not None
            if tail is None and self.files is not None:
                tail = self._new_tail(self.files)
            is_moving = True
            while is_moving:
                self._told_to = tail.offset if tail is not None else self._told_to
                ours = [event for event in self._local.all[seen:] if event["event"] != "outcome"]
                theirs = await self._readable(tail)
                seen += len(ours)
                for own in ours:
                    yield dict(own)
                for event in theirs:
                    yield {**event.data, "run": self.run}
                is_moving = bool(theirs)
            if is_over:
                yield dict(self._local.all[-1])
                return
            if is_abandoned() and self.outcome is None:
                return
            await change.wait()

    async def _readable(self, tail: EventTail | None) -> list[Event]:
        """What follows at *tail*: who is as far as the watcher gets the events that it has parsed."""
        live = self._live
        if tail is not None and tail.offset == live.begin and live.events:
            tail.skip_to(live.end)
            self._live = live._replace(is_taken=True)
            return live.events
        if tail is None or tail.offset == live.end:
            return []
        events = await _read(tail)
        if tail.offset == self._live.end:
            self._live = self._live._replace(is_taken=True)
        return events


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def _read(tail: EventTail) -> list[Event]:
    try:
        return await tail.read_later()
    except ProvisionError:
        return []  # events that cannot be read: the outcome says so
