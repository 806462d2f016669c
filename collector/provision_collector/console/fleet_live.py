"""The fleet on a terminal: a table at its foot, what must not be missed above it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple, Self, TextIO

from rich.text import Text

from .fleet_table import Row, fleet_lines, total_line
from .picture import Picture, terminal
from .progress import Progress
from .text import harmless, wrapped
from .values import Object

LINE_EVERY_S = 10.0


class Instance(NamedTuple):
    """One instance as the fleet has it now."""

    key: str
    name: str
    state: str
    """``waiting going usable held`` or a verdict."""
    why: str


class FleetProgress:
    """What every instance of a fleet has told so far. Thread-safe."""

    def __init__(self, instances: Callable[[], Iterable[Instance]]) -> None:
        self._instances = instances
        self._progress: dict[str, Progress] = {}
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._line_at = self._began

    @property
    def elapsed_s(self) -> float:
        """Since this fleet's call began."""
        return time.monotonic() - self._began

    def take(self, key: str, name: str, event: Object) -> None:
        """The next *event* of the instance *key*."""
        with self._lock:
            if event.get("event") == "run_accepted" or key not in self._progress:
                self._progress[key] = Progress(name)
            self._progress[key].take(event)

    def lines(self, width: int, height: int) -> list[str]:
        """The table as it is now."""
        with self._lock:
            return fleet_lines(self._rows(), width, height, self.elapsed_s)

    def line_if_due(self) -> str | None:
        """How far all are, at most every ten seconds: for whoever reads lines."""
        now = time.monotonic()
        if now - self._line_at < LINE_EVERY_S:
            return None
        self._line_at = now
        with self._lock:
            return total_line(self._rows())

    def _rows(self) -> list[Row]:
        return [self._row(instance) for instance in self._instances()]

    def _row(self, instance: Instance) -> Row:
        progress = self._progress.get(instance.key)
        state = instance.state
        if state == "going":
            is_in = progress is not None and bool(progress.state.started)
            state = "running" if is_in else "connecting"
        return Row(instance.name, state, progress, instance.why)


class FleetView:
    """Draws the table on *stream*, a terminal, while it is entered."""

    def __init__(self, progress: FleetProgress, stream: TextIO) -> None:
        self._progress = progress
        self._picture = Picture(terminal(stream), self._lines)

    def __enter__(self) -> Self:
        self._picture.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._picture.close()

    def tell(self, text: str) -> None:
        """Print *text* above the table."""
        for line in wrapped(harmless(text), max(self._picture.console.width, 20)):
            self._picture.print(Text(line))

    def _lines(self, width: int, height: int) -> list[Text]:
        return [Text(line, no_wrap=True) for line in self._progress.lines(width, height)]
