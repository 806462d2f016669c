"""The end of the instance, as far as a run has to do with it: have it measured, and say when it is near."""

from __future__ import annotations

import threading
from typing import Set

from ..contract.failures import Failure
from ..contract.lifetime_told import ENDED, MAX, SOON_S
from ..contract.plan import Plan
from ..lifetime.begin import Starter, begin, told_of
from .context import Context

LOOK_EVERY_S = 2.0
BEGINS_WITHIN_S = 60.0


class Ending:
    """Begins beside the run's work. `stop` before the verdict is written."""

    def __init__(self, plan: Plan, context: Context) -> None:
        self._plan = plan
        self._context = context
        self._said: Set[str] = set()
        self._begun = threading.Event()
        self._stopped = threading.Event()
        threading.Thread(target=self._work, name="ending", daemon=True).start()

    def stop(self) -> None:
        """Report nothing more. What was begun goes on without the run."""
        self._begun.wait(BEGINS_WITHIN_S)
        self._stopped.set()

    def _work(self) -> None:
        self._begin()
        self._begun.set()
        is_told = False
        while self._plan.lifetime is not None and not self._stopped.wait(LOOK_EVERY_S):
            told = told_of(self._context.workspace)
            if told is None:
                continue
            if not told.is_running and told.state != ENDED:
                self._begin()  # all of it was killed
            elif not is_told and told.max_in_s is not None and told.max_in_s <= SOON_S:
                is_told = True
                self._report("lifetime_ending", reason=MAX, in_s=round(max(0.0, told.max_in_s), 1))

    def _begin(self) -> None:
        context = self._context
        try:
            begin(self._plan, context.run_id, context.secrets, Starter(context.workspace, self._report))
        except Failure as failure:
            message = f"nothing on the instance will end it by itself: {failure.message}; {failure.hint}"
            if message not in self._said:
                self._said.add(message)
                self._report("warning", message=message)

    def _report(self, event: str, **fields: object) -> None:
        if not self._stopped.is_set():
            self._context.report(event, **fields)
