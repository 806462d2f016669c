"""What nodes need, into the environment of a run: as one install where that can be, and what is left one by one."""

from __future__ import annotations

from typing import Callable, Optional, Sequence

from ...contract.failures import Failure
from ...contract.plan import Plan
from ...run.context import Context
from . import packages, together
from .last_look import LastLook
from .locked_install import LockedInstalls
from .together import File, Outcome
from .venv import Venv


class NodeInstalls:
    """The installs of some nodes. Not for two threads at once.

    Args:
        venv: The environment; None: there is none.
        by_lock: As for `packages.install`.
        known: What is known of the environment from an earlier look.
    """

    def __init__(
        self,
        plan: Plan,
        venv: Optional[Venv],
        context: Context,
        *,
        by_lock: Optional[LockedInstalls],
        known: Optional[LastLook],
    ) -> None:
        self._plan = plan
        self._venv = venv
        self._context = context
        self._by_lock = by_lock
        self._known = None if plan.repair else known
        self._outcome = Outcome()

    def install_together(
        self, files: Sequence[File], *, on_placed: Callable[[], object] = lambda: None
    ) -> None:
        """Install those of *files* that go together; `install` says what became of each. See `together.install`."""
        python, known = self._plan.python, self._known
        if python is None or self._venv is None or self._plan.repair:
            return
        new = [file for file in files if known is None or not known.knows(file.item, file.path)]
        if len(new) < 2:
            return
        try:
            about = (new, self._venv, self._context, python)
            self._outcome = together.install(*about, by_lock=self._by_lock, on_placed=on_placed)
        except Failure as failure:  # each by itself says what that means for it
            self._context.output(self._context.redact(f"not installed together: {failure.message}"))

    def install(self, file: File) -> None:
        """Install *file*, unless it is installed.

        Raises:
            Failure: as `packages.install_requirements`; `missing` without an environment.
        """
        python, known, outcome = self._plan.python, self._known, self._outcome
        if python is None or self._venv is None:
            raise Failure("missing", "there is no environment to install into", case="no_environment")
        if known is not None and known.skips(file.item, file.path, file.level):
            return
        if outcome.failure is not None and file.item in outcome.begun:
            raise outcome.failure
        if file.item not in outcome.done:
            packages.install_requirements(
                file.path,
                self._venv,
                self._context,
                python,
                file.item,
                file.level,
                reads_bytes=self._plan.repair,
                by_lock=self._by_lock,
                is_started=file.item in outcome.begun,
            )
        if known is not None:
            known.did(file.item, file.path)
