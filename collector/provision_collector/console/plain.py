"""The plain view: one line for each event that matters, with the time since the start, for pipes and logs.

A line is written whole and flushed; what is told often (progress) comes at most every ten seconds.
"""

from __future__ import annotations

from typing import TextIO

from provision_agent.contract.status import RunState

from . import units
from .lines import MARKS, TICKERS, line_of
from .progress import Progress
from .summary import fitted, summary
from .values import Object
from .view import View

TICKER_EVERY_S = 10.0


class PlainView(View):
    """Writes to *stream*; nothing in it is meant for a terminal only."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress = progress
        self._stream = stream
        self._ticked_s = {"connecting": -TICKER_EVERY_S}  # a booting instance is said at once

    def follow(self, state: RunState) -> None:
        self._progress.follow(state)

    def event(self, event: Object) -> None:
        self._progress.take(event)
        if event.get("event") in TICKERS and not self._is_time(str(event["event"])):
            return
        with self._progress.state.lock:
            line = line_of(event, self._progress)
        if line is None:
            return
        at = units.clock(self._progress.offset_s)
        self._say(f"{at}  {MARKS[line.tone]} {line.text}")
        if line.hint:
            self._say(f"{' ' * len(at)}    next: {line.hint}")

    def outcome(self, outcome: Object) -> None:
        for words in summary(outcome):
            for line in fitted(words):
                self._say(line)

    def _is_time(self, name: str) -> bool:
        key = name if name in self._ticked_s else "all others"
        if self._progress.offset_s - self._ticked_s.get(key, 0.0) < TICKER_EVERY_S:
            return False
        self._ticked_s[key] = self._progress.offset_s
        return True

    def _say(self, line: str) -> None:
        self._stream.write(f"{line.rstrip()}\n")
        self._stream.flush()
