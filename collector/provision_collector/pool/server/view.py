"""What polling shows of a run: a fold of its stream, so that it and the stream tell the same story. Pure.

A stream may hold what an earlier release took from an instance without a look. Such an event is left out and the run
is shown as `broken`; no event of one run is the end of a list or of a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from provision_agent.contract.event_check import Misfit, check_event
from provision_agent.contract.protocol import VERDICTS
from provision_agent.contract.status import fold, new_status, transfer_totals

STATES = ("accepted", "connecting", "running", "usable", "broken")
"""Those of a run that is going; a finished one's is its verdict."""
ENDED = tuple(dict.fromkeys((*VERDICTS, "usage", "profile", "local", "bug")))

View = dict[str, Any]


def new_view(run: str) -> View:
    """The view of a run of which the stream tells nothing yet."""
    more: View = {
        "last_event_id": 0,
        "collector_seq": 0,
        "contact": None,
        "reconnects": 0,
        "secrets_needed": [],
        "gaps": [],
        "outcome": None,
        "broken": None,
    }
    return {**new_status(run), **more, "seq": 0}


def view_of(run: str, events: Iterable[Mapping[str, Any]]) -> View:
    """The view after *events* of a stream, whichever release wrote it."""
    view = new_view(run)
    for event in events:
        try:
            _check(event)
        except Misfit as misfit:
            view["last_event_id"] += 1
            break_(view, str(misfit))
        else:
            tell(view, event)
    return view


def tell(view: View, event: Mapping[str, Any]) -> None:
    """Take *event*, the next of the stream, into *view*. Never raises: what cannot be taken breaks this view only."""
    view["last_event_id"] += 1
    try:
        _tell(view, event)
    except Exception as bug:
        break_(view, f"{type(bug).__name__} at `{str(event.get('event'))[:64]}`")


def break_(view: View, why: str) -> None:
    """Show the run as broken, because of *why*; the first reason stays."""
    if view["broken"] is None:
        view["broken"] = (
            f"event {view['last_event_id']} of this run cannot be read and is left out: {why}; "
            "`stop` and `release` still end the run"
        )


def state_of(view: View) -> str:
    """The word for the run now: a verdict, `broken`, or how far it is."""
    return "broken" if view["broken"] is not None and not is_over(view) else str(view["state"])


def speed_of(view: View) -> float:
    """Bytes per second that the run downloads now."""
    try:
        return transfer_totals(view)[0]
    except (TypeError, ValueError, LookupError, OverflowError):
        return 0.0


def _check(event: Mapping[str, Any]) -> None:
    """Raise Misfit unless *event* of a stream, of either side, can be taken."""
    if not event:
        raise Misfit("a line is no event")
    if event.get("from") != "collector":
        check_event(event)
    elif type(event.get("seq")) is not int or not isinstance(event.get("event"), str):
        raise Misfit("`seq` or `event` is missing")
    elif event["event"] == "outcome":
        errors = event.get("errors")
        is_ours = event.get("verdict") in ENDED and isinstance(event.get("next"), str)
        if (
            not is_ours
            or not isinstance(errors, list)
            or not all(isinstance(error, dict) for error in errors)
        ):
            raise Misfit("`outcome` is none of a server's")


def _tell(view: View, event: Mapping[str, Any]) -> None:
    if event.get("from") == "collector":
        view["collector_seq"] = event["seq"]
        _COLLECTOR.get(str(event["event"]), _nothing)(view, event)
        return
    state = view["state"]
    fold(view, event)
    if event["event"] == "run_finished":
        view["state"] = state  # the end is the outcome, here as in the stream
    elif event["event"] == "run_started":
        view["secrets_needed"] = []
    elif event["event"] == "secrets_needed":
        view["secrets_needed"] = list(event.get("names") or [])


def is_over(view: View) -> bool:
    """Whether the outcome is there."""
    return view["outcome"] is not None


def seconds_left(view: View, now_unix: float) -> float | None:
    """Until the run's deadline; None when there is none yet or the run is over."""
    if is_over(view) or not view.get("deadline_s") or not view.get("started"):
        return None
    started = datetime.fromisoformat(str(view["started"]).replace("Z", "+00:00")).timestamp()
    return max(started + float(view["deadline_s"]) - now_unix, 0.0)


def summary_of(view: View, now_unix: float) -> dict[str, Any]:
    """The few numbers of a run that a list shows. Never raises: a view without numbers is `broken`."""
    try:
        return _summary_of(view, now_unix)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        break_(view, f"its numbers do not add up ({type(error).__name__})")
        return {
            **_summary_of(new_view(str(view["run"])), now_unix),
            "state": "broken",
            "broken": view["broken"],
        }


def _summary_of(view: View, now_unix: float) -> dict[str, Any]:
    speed, landed, left = transfer_totals(view)
    files = list(view["downloads"].values())
    return {
        "state": state_of(view),
        "broken": view["broken"],
        "verdict": view["outcome"]["verdict"] if is_over(view) else None,
        "next": view["outcome"]["next"] if is_over(view) else None,
        "contact": view["contact"],
        "files": {
            "settled": sum(1 for file in files if file["state"] in ("done", "skipped")),
            "all": len(files),
        },
        "bytes": landed,
        "bytes_left": left,
        "bytes_per_s": 0.0 if is_over(view) else speed,
        "usable_after_s": view["usable_after_s"],
        "duration_s": view.get("duration_s"),
        "seconds_left": seconds_left(view, now_unix),
        "errors": len(view["outcome"]["errors"] if is_over(view) else view["errors"]),
    }


def _nothing(view: View, event: Mapping[str, Any]) -> None:
    pass


def _connecting(view: View, event: Mapping[str, Any]) -> None:
    view["contact"] = str(event.get("cause"))
    if view["state"] == "accepted":
        view["state"] = "connecting"


def _connected(view: View, event: Mapping[str, Any]) -> None:
    view["contact"] = "connected"
    if view["state"] == "accepted":
        view["state"] = "connecting"


def _connection_lost(view: View, event: Mapping[str, Any]) -> None:
    view["reconnects"] += view["contact"] == "connected"
    view["contact"] = str(event.get("cause"))


def _secrets_needed(view: View, event: Mapping[str, Any]) -> None:
    view["secrets_needed"] = list(event.get("names") or [])


def _agent_restarted(view: View, event: Mapping[str, Any]) -> None:
    view["secrets_needed"] = []


def _warning(view: View, event: Mapping[str, Any]) -> None:
    view["warnings"].append(event.get("message"))


def _gap(view: View, event: Mapping[str, Any]) -> None:
    view["gaps"].append({"file": event.get("file"), "bytes": event.get("bytes")})


def _outcome(view: View, event: Mapping[str, Any]) -> None:
    outside = ("format", "ts", "seq", "event", "from")
    view["outcome"] = {key: value for key, value in event.items() if key not in outside}
    view["state"] = view["verdict"] = event["verdict"]


_COLLECTOR = {
    "connecting": _connecting,
    "connected": _connected,
    "connection_lost": _connection_lost,
    "secrets_needed": _secrets_needed,
    "agent_restarted": _agent_restarted,
    "gap": _gap,
    "warning": _warning,
    "outcome": _outcome,
}
