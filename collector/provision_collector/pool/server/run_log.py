"""What was told of one run, by this server and those before it: its stream, and the view that follows from it.

An event counts when it stands in the stream; clients and the view see it then and not before.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from provision_agent.contract import events, version

from .stream import StreamWriter, read_events
from .view import View, view_of

RETRY_S = 2.0
_KNOWN = frozenset((*events.AGENT_EVENTS, *events.COLLECTOR_EVENTS))
"""Names that are counted; an instance may make up any number of others."""

log = structlog.get_logger()


class Story:
    """The story of *run* in the file at *path*, new or taken up.

    Every event carries *labels*, whatever labels it brings; *told* counts the events by name.
    """

    def __init__(self, run: str, path: Path, *, labels: Mapping[str, str], told: Counter[str]) -> None:
        self.run = run
        self._labels = {"labels": dict(labels)} if labels else {}
        self.stream = StreamWriter(path)
        self.view: View = view_of(run, read_events(path))
        self._told = told

    @property
    def is_begun(self) -> bool:
        """Whether anything was told yet."""
        return self.stream.last_id > 0

    def knows(self, event: Mapping[str, Any]) -> bool:
        """Whether *event*, which its run tells again from the beginning, was told already."""
        if event.get("from") == "collector":
            return bool(event["event"] == "run_accepted")  # the first word is the server's own
        return int(event["seq"]) <= self.view.run_state.seq

    def say(self, event: str, /, **facts: Any) -> None:
        """Tell an event of this server's own. Raises OSError when it cannot be written."""
        self._write(self._own(event, facts))

    async def say_surely(self, event: str, /, **facts: Any) -> None:
        """As `say`, but wait for a full disk to get room."""
        await self.tell_surely(self._own(event, facts))

    async def tell_surely(self, event: Mapping[str, Any]) -> None:
        """Tell an event of the run; a full disk is waited for: nobody has seen the event, so it can wait."""
        while True:
            try:
                self._write(event)
                return
            except OSError as error:
                log.warning("stream_not_written", run=self.run, why=error.strerror)
                await asyncio.sleep(RETRY_S)

    def end(self) -> None:
        """Nothing more is told by this process. Safe to repeat."""
        self.stream.end()

    def _own(self, event: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        ts = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"format": version.FORMAT, "ts": ts, "run": self.run, "seq": 0, "event": event}
        return {**facts, **head, "from": "collector"}

    def _write(self, event: Mapping[str, Any]) -> None:
        if event.get("from") == "collector":  # one sequence over all servers that told this story
            event = {**event, "seq": self.view.collector_seq + 1}
        self.stream.append({**event, **self._labels})
        name = str(event["event"])
        self._told[name if name in _KNOWN else "other"] += 1
        self.view.tell(event)
