"""What is installed in one environment, asked of its own python and remembered until something changes it."""

from __future__ import annotations

from typing import Dict, Optional, Sequence

from ...host import answers, probe
from ...run.context import Context
from .venv import Venv

QUICK_S = 120.0
BYTES_S = 900.0


class Inventory:
    """The packages of *venv*. `forget_versions` when something has changed them."""

    def __init__(self, venv: Venv, context: Context) -> None:
        self.venv = venv
        self._context = context
        self._versions: Optional[Dict[str, str]] = None
        self._was_changed = False
        """Something was installed: whoever asks what is there asks whether it is whole, too."""
        self._harmed: Dict[bool, Dict[str, answers.Harm]] = {}

    def installed(self) -> Dict[str, str]:
        """Version of every installed distribution by its normalised name."""
        if self._versions is None and self._was_changed:
            self._look()
        if self._versions is None:
            told = probe.ask(
                self.venv.python,
                answers.Installed,
                timeout_s=self._context.bounded(QUICK_S),
                cancelled=self._context.cancelled,
            )
            self._versions = told.versions
        return self._versions

    def _look(self) -> None:
        """Versions and harm in one child: to start another costs as much as to ask."""
        told = probe.ask(
            self.venv.python,
            answers.Inventory,
            timeout_s=self._context.bounded(QUICK_S),
            cancelled=self._context.cancelled,
        )
        self._versions, self._harmed[False] = told.versions, told.harmed

    def site_packages(self) -> Sequence[str]:
        """The folders into which is installed."""
        return self._of_interpreter().site_packages

    def harmed(self, *, reads_bytes: bool = False) -> Dict[str, answers.Harm]:
        """What of all that is installed is not as its install left it, by the records of the packages themselves.

        Args:
            reads_bytes: Compare hashes, too; else that the files are there, their sizes and their modes.
        """
        if reads_bytes not in self._harmed:
            told = probe.ask(
                self.venv.python,
                answers.Damage,
                *(["--bytes"] if reads_bytes else []),
                timeout_s=self._context.bounded(BYTES_S if reads_bytes else QUICK_S),
                cancelled=self._context.cancelled,
            )
            self._harmed[reads_bytes] = told.harmed
        return self._harmed[reads_bytes]

    def python_version(self) -> str:
        """Of the environment's python, such as ``3.11.7``."""
        return self._of_interpreter().version

    def forget_versions(self) -> None:
        """Something else changed the environment: look again."""
        self._versions = None
        self._harmed = {}
        self._was_changed = True

    def forget_all(self) -> None:
        """The environment was made again, perhaps with another python."""
        self.forget_versions()
        self.venv.told.clear()

    def _of_interpreter(self) -> answers.Interpreter:
        python, told = self.venv.python, self.venv.told
        if python not in told:
            told[python] = probe.ask(
                python,
                answers.Interpreter,
                timeout_s=self._context.bounded(QUICK_S),
                cancelled=self._context.cancelled,
            )
        return told[python]
