"""The views for programs: every event as one JSON line, or nothing until it has failed."""

from __future__ import annotations

import json
from typing import TextIO

from .summary import fitted, summary
from .values import Object
from .view import View


class JsonView(View):
    """JSON Lines, each flushed; the outcome is the last. ASCII only, so that any terminal can show it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def event(self, event: Object) -> None:
        if event.get("event") != "outcome":  # it is written once, and last
            self._write(event)

    def outcome(self, outcome: Object) -> None:
        self._write({"event": "outcome", "from": "collector", **outcome})

    def _write(self, event: Object) -> None:
        self._stream.write(json.dumps(event, separators=(",", ":")) + "\n")
        self._stream.flush()


class QuietView(View):
    """Says nothing, but why it failed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def event(self, event: Object) -> None:
        return

    def outcome(self, outcome: Object) -> None:
        if outcome.get("exit_code") == 0:
            return
        for words in summary(outcome):
            for line in fitted(words):
                self._stream.write(f"{line}\n")
        self._stream.flush()
