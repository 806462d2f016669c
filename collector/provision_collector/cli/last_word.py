"""The last word of a command that was told `--json`: one outcome object, whatever happened.

A command that ends well, or that prints an outcome of its own, says so (`is_said`); for every other end `main` comes
here. What is known of host, run and labels is noted as soon as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .output import say_json

if TYPE_CHECKING:
    from ..errors import ProvisionError
    from ..run.outcome import Outcome


@dataclass
class LastWord:
    """What this process has said of its end, and what it knows for it."""

    is_wanted: bool = False
    """`--json` was among the words."""
    is_said: bool = False
    """The object that tells the end is printed."""
    host: str = ""
    run: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def begin(self, words: Sequence[str]) -> None:
        """A command with these *words* begins."""
        options = words[: words.index("--")] if "--" in words else words
        self.is_wanted, self.is_said = "--json" in options, False
        self.host = self.run = ""
        self.labels = {}

    def concerns(
        self, *, host: str = "", run: str | None = None, labels: Mapping[str, str] | None = None
    ) -> None:
        """It became known whom the command is about."""
        self.host = host or self.host
        self.run = run or self.run
        self.labels = labels or self.labels

    def of(self, error: ProvisionError) -> None:
        """Print the outcome of a command that *error* ended; nothing where the end is told already."""
        if self.is_wanted and not self.is_said:
            self.say(self._outcome(error))

    def say(self, outcome: Mapping[str, object]) -> None:
        """Print *outcome* as the last line: ASCII only, so that any terminal can show it."""
        self.is_said = True
        say_json({"event": "outcome", **outcome})

    def _outcome(self, error: ProvisionError) -> Outcome:
        from provision_agent.contract.status import RunState

        from ..run.outcome import outcome_of

        return outcome_of(
            RunState(self.run),
            host=self.host,
            verdict=error.verdict,
            exit_code=error.exit_code,
            labels=self.labels,
            logs={},
            gaps=[],
            reconnects=0,
            error=error,
        )


LAST_WORD = LastWord()
"""Of this process, which runs one command."""
