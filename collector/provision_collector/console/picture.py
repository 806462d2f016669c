"""A picture at the foot of a terminal, drawn anew as it changes; what is printed meanwhile stands above it.

Drawn a few times a second and only when it has changed, from a thread of its own: a slow terminal never
holds up what it shows. `close` leaves the terminal as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import ceil
from typing import TextIO

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

DRAWS_PER_S = 5
CLOSE_TIMEOUT_S = 2.0


def terminal(stream: TextIO) -> Console:
    """The console of a picture on *stream*, a terminal: what is printed means nothing but itself."""
    return Console(file=stream, force_terminal=True, markup=False, emoji=False, highlight=False)


class Picture:
    """Draws *lines*, asked for with the columns and lines that there are, on *console*, between `open` and `close`."""

    def __init__(self, console: Console, lines: Callable[[int, int], list[Text]]) -> None:
        self.console = console
        self._lines = lines
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

    def open(self) -> None:
        """Begin to draw."""
        self._live.start()
        self._thread.start()

    def close(self) -> None:
        """Take the picture away; safe to repeat."""
        self._is_closing.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)
        self._live.stop()

    def draw(self) -> None:
        """Bring the picture up to date, if it has changed."""
        width, height = self.console.size
        lines = self._lines(width, height - 1)
        if lines == self._drawn and width == self._drawn_width:
            return
        if width < self._drawn_width:
            self._erase_wrapped(width)
        self._live.update(Group(*lines), refresh=True)
        self._drawn, self._drawn_width = lines, width

    def print(self, text: Text) -> None:
        """Print *text* above the picture."""
        self.console.print(text, soft_wrap=True)  # a long path or URL stays in one piece, to be copied

    def _keep_drawing(self) -> None:
        while not self._is_closing.wait(1 / DRAWS_PER_S):
            self.draw()

    def _erase_wrapped(self, width: int) -> None:
        """A terminal that got narrower has wrapped the old picture: it is taller now than was drawn."""
        extra = sum(max(ceil(line.cell_len / width) - 1, 0) for line in self._drawn)
        erase = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * extra
        self.console.control(Control(ControlType.CARRIAGE_RETURN, *erase))
