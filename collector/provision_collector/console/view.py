"""What every view of a run is: told each event, then the outcome, and a context manager around both."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self


class View(abc.ABC):
    """Use it as a context manager: whatever it did to the terminal is undone at the end."""

    @abc.abstractmethod
    def event(self, event: Mapping[str, Any]) -> None:
        """Show the next event of the agent, or of this side (``"from": "collector"``)."""

    @abc.abstractmethod
    def outcome(self, outcome: Mapping[str, Any]) -> None:
        """Show how it ended; the last call."""

    def close(self) -> None:
        """Undo what was done to the terminal; safe to repeat."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
