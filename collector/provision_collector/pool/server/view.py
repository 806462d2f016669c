"""What polling shows of a run: what its stream has told so far. Pure.

The state of a run that is watched here is folded once, by its watcher: `watch` lends it to the view. A run that nobody
watches is folded from its stream. A stream may hold what an earlier release took from an instance without a look: such
an event is left out and the run is shown as `broken`; no event of one run is the end of a list or of a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from provision_agent.contract.events import JsonObject, parse_event
from provision_agent.contract.parsing import ParseError
from provision_agent.contract.status import RunState
from provision_agent.contract.status_parts import ItemState, Totals

from ..store.rows import ENDED, FileCount, Row, Summary


class View:
    """What the stream of *run* has told so far; at first nothing."""

    def __init__(self, run: str) -> None:
        self.run_state = RunState(run)
        """The agent's events, folded; of a watched run it may be ahead of the stream by what is just being written."""
        self.state = "accepted"
        self.last_event_id = 0
        self.agent_seq = 0
        """The `seq` of the agent's last event that was told."""
        self.collector_seq = 0
        self.contact: str | None = None
        self.reconnects = 0
        self.secrets_needed: list[str] = []
        self.gaps: list[JsonObject] = []
        self.outcome: JsonObject | None = None
        self.broken: str | None = None
        self.own_warnings: list[str] = []
        """What this side warned of."""
        self._watched: RunState | None = None
        self._folded_to = 0
        """The `seq` up to which `run_state` was folded when it was restored."""

    def restore(self, state: RunState, *, agent_seq: int, last_event_id: int) -> None:
        """Go on where a view was kept.

        Args:
            state: The agent's events, folded; it may be ahead of the stream.
            agent_seq: The `seq` of the agent's last event that was told.
            last_event_id: The id of the last event.
        """
        self.run_state, self._folded_to = state, state.seq
        self.agent_seq, self.last_event_id = agent_seq, last_event_id

    @property
    def is_over(self) -> bool:
        """Whether the outcome is there."""
        return self.outcome is not None

    @property
    def word(self) -> str:
        """The word for the run now: a verdict, `broken`, or how far it is."""
        return "broken" if self.broken is not None and not self.is_over else self.state

    @property
    def warnings(self) -> list[str]:
        """What the agent and this side warned of."""
        return [*self.run_state.warnings, *self.own_warnings]

    def watch(self, state: RunState) -> None:
        """Show *state*, which whoever watches the run folds, as soon as that is as far as the stream."""
        self._watched = state

    def tell(self, event: JsonObject) -> None:
        """Take *event*, the next of the stream. Never raises: what cannot be taken breaks this view only."""
        self.last_event_id += 1
        try:
            if event.get("from") == "collector":
                self._take_own(event)
            else:
                self._take_agents(event)
            self.state = state_after(self.state, (event,))
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

    def summary(self, now_unix: float) -> Summary:
        """The few numbers of a run that a list shows; it takes a while where there are many files."""
        told, outcome = self.run_state, self.outcome
        files = self.downloads()
        totals = Totals.of(files)
        errors = outcome["errors"] if outcome is not None else told.errors
        return Summary(
            state=self.word,
            broken=self.broken,
            verdict=str(outcome["verdict"]) if outcome is not None else None,
            next=str(outcome["next"]) if outcome is not None else None,
            contact=self.contact,
            files=FileCount(sum(1 for file in files if file.state in ("done", "skipped")), len(files)),
            bytes=totals.landed_bytes,
            bytes_left=totals.left_bytes,
            bytes_per_s=0.0 if self.is_over else totals.bytes_per_s,
            usable_after_s=told.usable_after_s,
            duration_s=told.duration_s,
            seconds_left=self.seconds_left(now_unix),
            errors=len(errors) if isinstance(errors, (list, dict)) else 0,
        )

    def downloads(self) -> list[ItemState]:
        """Those that are known now: to be counted in a thread, while others go on and come."""
        told = self.run_state
        with told.lock:
            return list(told.items["downloads"].values())

    def to_json(self) -> dict[str, object]:
        """Everything, as ``GET /api/runs/{run}`` has it; it takes a while where there are many items."""
        told = self.run_state
        with told.lock:
            state = told.to_json()
        return {
            **state,
            "state": self.word,
            "seq": self.agent_seq,
            "warnings": self.warnings,
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

    def _take_agents(self, event: JsonObject) -> None:
        if not event:
            raise ParseError("a line is no event")
        if self._watched is not None and self._watched.seq >= self.agent_seq:
            self.run_state = self._watched
        seq, name = event.get("seq"), event.get("event")
        if self.run_state is not self._watched:
            known = parse_event(event)
            if known.seq > self._folded_to:
                self.run_state.fold(known)
        self.agent_seq = seq if isinstance(seq, int) else self.agent_seq
        if name in ("run_started", "secrets_needed"):
            names = event.get("names")
            self.secrets_needed = [str(each) for each in names] if isinstance(names, list) else []

    def _take_own(self, event: JsonObject) -> None:
        seq, name = event.get("seq"), event.get("event")
        if type(seq) is not int or not isinstance(name, str):
            raise ParseError("`seq` or `event` is missing")
        self.collector_seq = seq
        if name in _TAKEN:
            _TAKEN[name](self, event)

    def _connecting(self, event: JsonObject) -> None:
        self.contact = str(event.get("cause"))

    def _connected(self, event: JsonObject) -> None:
        self.contact = "connected"

    def _connection_lost(self, event: JsonObject) -> None:
        self.reconnects += self.contact == "connected"
        self.contact = str(event.get("cause"))

    def _secrets_needed(self, event: JsonObject) -> None:
        names = event.get("names") or []
        if not isinstance(names, list):
            raise ParseError("`names` of `secrets_needed` is no list")
        self.secrets_needed = [str(name) for name in names]

    def _agent_restarted(self, event: JsonObject) -> None:
        self.secrets_needed = []

    def _warning(self, event: JsonObject) -> None:
        self.own_warnings.append(str(event.get("message")))

    def _gap(self, event: JsonObject) -> None:
        self.gaps.append({"file": event.get("file"), "bytes": event.get("bytes")})

    def _outcome(self, event: JsonObject) -> None:
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


_STATES = {"run_started": "running", "run_usable": "usable"}
_TAKEN: dict[str, Callable[[View, JsonObject], None]] = {
    "connecting": View._connecting,
    "connected": View._connected,
    "connection_lost": View._connection_lost,
    "secrets_needed": View._secrets_needed,
    "agent_restarted": View._agent_restarted,
    "gap": View._gap,
    "warning": View._warning,
    "outcome": View._outcome,
}


def state_after(state: str, events: Iterable[JsonObject]) -> str:
    """The word for a run whose word is *state* now, once *events* are told."""
    for event in events:
        name = str(event.get("event"))
        if event.get("from") != "collector":
            state = _STATES.get(name, state)  # the end is the outcome, here as in the stream
        elif name == "outcome" and event.get("verdict") in ENDED:
            state = str(event["verdict"])
        elif name in ("connecting", "connected") and state == "accepted":
            state = "connecting"
    return state


def view_of(run: str, events: Iterable[JsonObject]) -> View:
    """The view after *events* of a stream, whichever release wrote it."""
    view = View(run)
    for event in events:
        view.tell(event)
    return view


def broken_view_of(row: Row, why: str) -> View:
    """What polling shows of a run that could not be taken up."""
    view = View(row.run)
    view.break_(why)
    return view
