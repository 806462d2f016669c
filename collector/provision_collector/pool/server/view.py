"""What polling shows of a run: a fold of its stream, so that it and the stream tell the same story. Pure.

A stream may hold what an earlier release took from an instance without a look. Such an event is left out and the run
is shown as `broken`; no event of one run is the end of a list or of a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from provision_agent.contract.events import parse_event
from provision_agent.contract.parsing import ParseError
from provision_agent.contract.status import RunState
from provision_agent.contract.verdicts import VERDICTS

STATES = ("accepted", "connecting", "running", "usable", "broken")
"""Those of a run that is going; a finished one's is its verdict."""
ENDED = tuple(VERDICTS)


class View:
    """What the stream of *run* has told so far; at first nothing."""

    def __init__(self, run: str) -> None:
        self.run_state = RunState(run)
        """The fold of the agent's events."""
        self.state = "accepted"
        self.last_event_id = 0
        self.collector_seq = 0
        self.contact: str | None = None
        self.reconnects = 0
        self.secrets_needed: list[str] = []
        self.gaps: list[dict[str, Any]] = []
        self.outcome: dict[str, Any] | None = None
        self.broken: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether the outcome is there."""
        return self.outcome is not None

    @property
    def word(self) -> str:
        """The word for the run now: a verdict, `broken`, or how far it is."""
        return "broken" if self.broken is not None and not self.is_over else self.state

    def tell(self, event: Mapping[str, Any]) -> None:
        """Take *event*, the next of the stream. Never raises: what cannot be taken breaks this view only."""
        self.last_event_id += 1
        try:
            if event.get("from") == "collector":
                self._take_own(event)
            else:
                self._take_agents(event)
        except ParseError as error:
            self.break_(str(error))
        except Exception as bug:
            self.break_(f"{type(bug).__name__} at `{str(event.get('event'))[:64]}`")

    def break_(self, why: str) -> None:
        """Show the run as broken, because of *why*; the first reason stays."""
        if self.broken is None:
            self.broken = (
                f"event {self.last_event_id} of this run cannot be read and is left out: {why}; "
                "`stop` and `release` still end the run"
            )

    def seconds_left(self, now_unix: float) -> float | None:
        """Until the run's deadline; None when there is none yet or the run is over."""
        told = self.run_state
        if self.is_over or not told.deadline_s or not told.started:
            return None
        started = datetime.fromisoformat(told.started).timestamp()
        return max(started + told.deadline_s - now_unix, 0.0)

    def summary(self, now_unix: float) -> dict[str, Any]:
        """The few numbers of a run that a list shows."""
        told = self.run_state
        totals = told.totals()
        files = told.items["downloads"].values()
        return {
            "state": self.word,
            "broken": self.broken,
            "verdict": self.outcome["verdict"] if self.outcome is not None else None,
            "next": self.outcome["next"] if self.outcome is not None else None,
            "contact": self.contact,
            "files": {
                "settled": sum(1 for file in files if file.state in ("done", "skipped")),
                "all": len(files),
            },
            "bytes": totals.landed_bytes,
            "bytes_left": totals.left_bytes,
            "bytes_per_s": 0.0 if self.is_over else totals.bytes_per_s,
            "usable_after_s": told.usable_after_s,
            "duration_s": told.duration_s,
            "seconds_left": self.seconds_left(now_unix),
            "errors": len(self.outcome["errors"] if self.outcome is not None else told.errors),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as ``GET /api/runs/{run}`` has it."""
        return {
            **self.run_state.to_json(),
            "state": self.state,
            "verdict": self.outcome["verdict"] if self.outcome is not None else None,
            "last_event_id": self.last_event_id,
            "collector_seq": self.collector_seq,
            "contact": self.contact,
            "reconnects": self.reconnects,
            "secrets_needed": self.secrets_needed,
            "gaps": self.gaps,
            "outcome": self.outcome,
            "broken": self.broken,
        }

    def _take_agents(self, event: Mapping[str, Any]) -> None:
        if not event:
            raise ParseError("a line is no event")
        known = parse_event(event)
        self.run_state.fold(known)
        if known.name != "run_finished":  # the end is the outcome, here as in the stream
            self.state = self.run_state.state if self.run_state.state != "accepted" else self.state
        if known.name in ("run_started", "secrets_needed"):
            names = known.data.get("names")
            self.secrets_needed = [str(name) for name in names] if isinstance(names, list) else []

    def _take_own(self, event: Mapping[str, Any]) -> None:
        if type(event.get("seq")) is not int or not isinstance(event.get("event"), str):
            raise ParseError("`seq` or `event` is missing")
        self.collector_seq = event["seq"]
        if event["event"] in _TAKEN:
            _TAKEN[event["event"]](self, event)

    def _connecting(self, event: Mapping[str, Any]) -> None:
        self.contact = str(event.get("cause"))
        self._reach()

    def _connected(self, event: Mapping[str, Any]) -> None:
        self.contact = "connected"
        self._reach()

    def _reach(self) -> None:
        if self.state == "accepted":
            self.state = "connecting"

    def _connection_lost(self, event: Mapping[str, Any]) -> None:
        self.reconnects += self.contact == "connected"
        self.contact = str(event.get("cause"))

    def _secrets_needed(self, event: Mapping[str, Any]) -> None:
        self.secrets_needed = list(event.get("names") or [])

    def _agent_restarted(self, event: Mapping[str, Any]) -> None:
        self.secrets_needed = []

    def _warning(self, event: Mapping[str, Any]) -> None:
        self.run_state.warnings.append(str(event.get("message")))

    def _gap(self, event: Mapping[str, Any]) -> None:
        self.gaps.append({"file": event.get("file"), "bytes": event.get("bytes")})

    def _outcome(self, event: Mapping[str, Any]) -> None:
        errors = event.get("errors")
        is_ours = event.get("verdict") in ENDED and isinstance(event.get("next"), str)
        if (
            not is_ours
            or not isinstance(errors, list)
            or not all(isinstance(error, dict) for error in errors)
        ):
            raise ParseError("`outcome` is none of a server's")
        outside = ("format", "ts", "seq", "event", "from")
        self.outcome = {key: value for key, value in event.items() if key not in outside}
        self.state = str(event["verdict"])


_TAKEN: dict[str, Callable[[View, Mapping[str, Any]], None]] = {
    "connecting": View._connecting,
    "connected": View._connected,
    "connection_lost": View._connection_lost,
    "secrets_needed": View._secrets_needed,
    "agent_restarted": View._agent_restarted,
    "gap": View._gap,
    "warning": View._warning,
    "outcome": View._outcome,
}


def view_of(run: str, events: Iterable[Mapping[str, Any]]) -> View:
    """The view after *events* of a stream, whichever release wrote it."""
    view = View(run)
    for event in events:
        view.tell(event)
    return view
