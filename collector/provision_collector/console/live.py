"""The live view: a picture of the run at the foot of the terminal; what must not be missed is printed above it.

Drawn a few times a second and only when it has changed, from a thread of its own: a slow terminal never
holds up the run. `close` leaves the terminal as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import ceil

from provision_agent.contract.status import RunState
from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from . import units
from .frame import frame
from .lines import MARKS, Line, Tone, line_of
from .progress import Progress
from .summary import WIDTH, fitted, summary
from .text import wrapped
from .values import Object
from .view import View

DRAWS_PER_S = 5
CLOSE_TIMEOUT_S = 2.0
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


def erase_wrapped(console: Console, drawn: Sequence[Text], width: int) -> None:
    """A terminal that got narrower has wrapped what was *drawn*: it is taller now, and has to be erased as such."""
    extra = sum(max(ceil(line.cell_len / width) - 1, 0) for line in drawn)
    erase = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * extra
    console.control(Control(ControlType.CARRIAGE_RETURN, *erase))


class LiveView(View):
    """Draws on *console*, a terminal. Events may come from any one thread."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._drawn: list[Text] = []
        self._drawn_width = 0
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            vertical_overflow="crop",
        )
        self._thread = threading.Thread(target=self._keep_drawing, name="live-view", daemon=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        self._thread.start()
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
            for line in fitted(words, min(self._console.width, WIDTH)):
                self._print(Text(line, style=_STYLES[words.tone]))

    def close(self) -> None:
        self._is_closing.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)
        self._live.stop()

    def draw(self) -> None:
        """Bring the picture up to date, if it has changed."""
        width, height = self._console.size
        with self._lock, self._progress.state.lock:
            lines = frame(self._progress, width, height - 1)
        if lines == self._drawn and width == self._drawn_width:
            return
        if width < self._drawn_width:
            erase_wrapped(self._console, self._drawn, width)
        self._live.update(Group(*lines), refresh=True)
        self._drawn, self._drawn_width = lines, width

    def _keep_drawing(self) -> None:
        while not self._is_closing.wait(1 / DRAWS_PER_S):
            self.draw()

    def _tell(self, at: str, line: Line) -> None:
        before = f"{at} {MARKS[line.tone]} "
        width = max(self._console.width - len(before), 20)
        for text in wrapped(line.text, width):
            self._print(Text.assemble((before, _STYLES[line.tone] or "dim"), text))
            before = " " * len(before)
        for text in wrapped(f"next: {line.hint}", width) if line.hint else ():
            self._print(Text.assemble(before, (text, "dim")))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)  # a long path or URL stays in one piece, to be copied
