"""The live view: a picture of the run at the foot of the terminal; what must not be missed is printed above it."""

from __future__ import annotations

import threading

from provision_agent.contract.status import RunState
from rich.console import Console
from rich.text import Text

from . import units
from .frame import frame
from .lines import MARKS, Line, Tone, line_of
from .picture import Picture
from .progress import Progress
from .summary import WIDTH, fitted, summary
from .text import wrapped
from .values import Object
from .view import View

_STYLES: dict[Tone, str] = {"good": "green", "bad": "bold red", "warn": "yellow", "plain": ""}
_TOLD = frozenset(
    (
        "facts_found",
        "preflight_passed",
        "download_switched",
        "run_usable",
        "unchanged",
        "service_ready",
        "service_restarted",
        "job_started",
        "job_finished",
        "lifetime_ending",
        "restart_pending",
        "warning",
        "deadline_at_risk",
        "secrets_needed",
        "sources_needed",
        "agent_restarted",
        "access_lost",
        "service_reached",
        "gap",
    )
)
"""Told above the picture, besides every failure; the picture itself says the rest."""


class LiveView(View):
    """Draws on *console*, a terminal. Events may come from any one thread."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self.picture = Picture(console, self._lines)

    def __enter__(self) -> LiveView:
        self.picture.open()
        return self

    def follow(self, state: RunState) -> None:
        with self._lock:
            self._progress.follow(state)

    def event(self, event: Object) -> None:
        name = str(event.get("event"))
        with self._lock:
            self._progress.take(event)
            with self._progress.state.lock:
                line = line_of(event, self._progress) if name in _TOLD or name.endswith("_failed") else None
                at = units.clock(self._progress.offset_s)
        if line is not None:
            self._tell(at, line)

    def outcome(self, outcome: Object) -> None:
        self.close()
        for words in summary(outcome):
            for line in fitted(words, min(self.picture.console.width, WIDTH)):
                self.picture.print(Text(line, style=_STYLES[words.tone]))

    def close(self) -> None:
        self.picture.close()

    def _lines(self, width: int, height: int) -> list[Text]:
        with self._lock, self._progress.state.lock:
            return frame(self._progress, width, height)

    def _tell(self, at: str, line: Line) -> None:
        before = f"{at} {MARKS[line.tone]} "
        width = max(self.picture.console.width - len(before), 20)
        for text in wrapped(line.text, width):
            self.picture.print(Text.assemble((before, _STYLES[line.tone] or "dim"), text))
            before = " " * len(before)
        for text in wrapped(f"next: {line.hint}", width) if line.hint else ():
            self.picture.print(Text.assemble(before, (text, "dim")))
