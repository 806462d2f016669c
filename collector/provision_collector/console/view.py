"""What every view of a run can do: show each event, then the outcome, and clean up after itself."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self

from provision_agent.contract.status import RunState

from .values import Object


class View(abc.ABC):
    """Use it as a context manager: whatever it did to the terminal is undone at the end."""

    def follow(self, state: RunState) -> None:
        """From now on show *state*, which the run that is watched folds; without this call a view folds for itself."""
        return

    @abc.abstractmethod
    def event(self, event: Object) -> None:
        """Show the next event of the agent, or of this side (``"from": "collector"``)."""

    @abc.abstractmethod
    def outcome(self, outcome: Object) -> None:
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


class Views(View):
    """Several at once, such as the live one on the terminal and plain lines where stdout goes."""

    def __init__(self, live: View, plain: View) -> None:
        self._views = (live, plain)

    def __enter__(self) -> Self:
        for view in self._views:
            view.__enter__()
        return self

    def follow(self, state: RunState) -> None:
        for view in self._views:
            view.follow(state)

    def event(self, event: Object) -> None:
        for view in self._views:
            view.event(event)

    def outcome(self, outcome: Object) -> None:
        for view in self._views:
            view.outcome(outcome)

    def close(self) -> None:
        for view in self._views:
            view.close()
