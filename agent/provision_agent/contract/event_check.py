"""Whether a line of an events file is an event that this program reads: types and bounds, before anyone believes it.

Pure, shared by both halves. What is not in the table passes as data, bounded in size and depth, so that an older
reader of a newer run still tells what it knows. A message never quotes a value: it may be anything.
"""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from typing import Any, Callable, Dict, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from . import protocol
from .status import GROUPS

MAX_EVENT_BYTES = 256 * 1024
"""A longer line is no event; the agent's longest have a few kB."""
MAX_TEXT = 64 * 1024
MAX_DEPTH = 12
MAX_DIGITS = 19
LARGEST_COUNT = (1 << 53) - 1
"""The largest whole number that every reader of JSON holds exactly."""
LARGEST_S = 1e11
LARGEST_PER_S = 1e15
AGENT_VERDICTS = ("complete", "incomplete", "failed", "timeout", "cancelled")
"""How the instance can say that a run ended; every other verdict is the watching side's."""
OUR_NAMES = (frozenset(protocol.COLLECTOR_EVENTS) - frozenset(protocol.AGENT_EVENTS)) | {
    "instance-gone",
    "instance_gone",
}
"""Events that only the watching side tells: from an instance they mean nothing."""

_ITEM_EVENTS = [
    "queued",
    "started",
    "sized",
    "progress",
    "stalled",
    "retried",
    "waiting",
    "switched",
    "finished",
    "written",
    "passed",
    "ready",
    "failed",
    "skipped",
]
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_RUN_ID = re.compile(protocol.RUN_ID_PATTERN)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)

Check = Callable[[Any], str]
"""Says what should stand there; empty when *value* is that."""


class Misfit(Exception):
    """A line that no agent of any version writes. `str()` says what does not fit, in this program's own words."""


def parse_event(line: bytes) -> Optional[Dict[str, Any]]:
    """The JSON object in *line*; None for a torn line, which a killed agent leaves behind.

    Raises:
        Misfit: it is too long or nested too deep, it has a number that is none, or it is JSON and no object.
    """
    if len(line) > MAX_EVENT_BYTES:
        raise Misfit(f"a line is longer than {MAX_EVENT_BYTES // 1024} KiB")
    try:
        event = _DECODER.decode(line.decode("utf-8"))
    except RecursionError:
        raise Misfit(_TOO_DEEP) from None
    except ValueError:
        return None
    if not isinstance(event, dict):
        raise Misfit(f"a line is {_kind(event)}, and an object belongs there")
    return event


def check_event(event: Mapping[str, Any]) -> None:
    """Return when *event*, of either side, can be read.

    Raises:
        Misfit: a field that is read has another type or is out of bounds, one is missing, or there is too much in it.
    """
    _check_size(event, MAX_DEPTH)
    name = event.get("event")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Misfit("`event` is no name of an event")
    needed, fields = _shape_of(name)
    for field in (*_HEAD, *needed):
        if field not in event:
            raise Misfit(f"`{field}` is missing in `{name}`")
    for field, check in fields.items():
        if field in event:
            _require(event[field], check, field, name)


def _require(value: Any, check: Check, field: str, name: str) -> None:
    wanted = check(value)
    if wanted:
        raise Misfit(f"`{field}` of `{name}` is {_kind(value)}, and {wanted} belongs there")


def _check_size(value: Any, depth: int) -> None:
    """Raise Misfit where *value* is deeper or longer than an event may be, or holds what is no text or no number."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise Misfit(f"a text has more than {MAX_TEXT} characters")
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise Misfit("a text has half a character (a lone surrogate)") from None
    elif isinstance(value, dict):
        if depth == 0:
            raise Misfit(_TOO_DEEP)
        for key, part in value.items():
            _check_size(key, 0)
            _check_size(part, depth - 1)
    elif isinstance(value, list):
        if depth == 0:
            raise Misfit(_TOO_DEEP)
        for part in value:
            _check_size(part, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Misfit(_NO_NUMBER)


# -- what stands in a field


def _text(most: int) -> Check:
    def check(value: Any) -> str:
        is_fit = isinstance(value, str) and len(value) <= most
        return "" if is_fit else f"a text of at most {most} characters"

    return check


def _maybe(check: Check) -> Check:
    return lambda value: "" if value is None else check(value)


def _count(value: Any) -> str:
    is_fit = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT
    return "" if is_fit else f"a whole number from 0 to {LARGEST_COUNT}"


def _amount(most: float) -> Check:
    def check(value: Any) -> str:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return "" if is_number and 0 <= value <= most else f"a number from 0 to {most:.0f}"

    return check


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _mapping(value: Any) -> str:
    return "" if isinstance(value, dict) else "an object"


def _dictionary(check: Check, most: int, word: str) -> Check:
    def check_all(value: Any) -> str:
        is_fit = isinstance(value, dict) and len(value) <= most
        return "" if is_fit and not any(map(check, value.values())) else f"an object of at most {most} {word}"

    return check_all


def _names(value: Any) -> str:
    is_fit = isinstance(value, list) and len(value) <= 256 and not any(map(_SHORT, value))
    return "" if is_fit else "a list of at most 256 names"


def _time(value: Any) -> str:
    is_fit = isinstance(value, str) and len(value) <= 40 and _TIME.fullmatch(value) is not None
    if is_fit:
        try:
            # a day and an hour that exist, and an offset that leaves the year as it is
            parts = [int(part) for part in re.split("[-T:]", value[:19])]
            is_fit = 1970 <= datetime(*parts).year < 9999  # type: ignore[arg-type]
            is_fit = is_fit and (value[-1] == "Z" or (value[-5:-3] < "24" and value[-2:] < "60"))
        except ValueError:
            is_fit = False
    return "" if is_fit else "a time as 2026-01-31T23:59:59.000Z"


def _run_id(value: Any) -> str:
    return "" if isinstance(value, str) and _RUN_ID.fullmatch(value) else "the id of a run"


def _sequence(value: Any) -> str:
    return "" if not _count(value) and value >= 1 else f"a whole number from 1 to {LARGEST_COUNT}"


def _address(value: Any) -> str:
    is_fit = isinstance(value, str) and len(value) <= 8192
    if is_fit:
        try:
            parts = urlsplit(value)
            is_fit = parts.port != 0 and bool(parts.hostname)
        except ValueError:
            is_fit = False
    return "" if is_fit else "a URL"


def _verdict(value: Any) -> str:
    is_fit = isinstance(value, str) and value in AGENT_VERDICTS
    return "" if is_fit else f"one of {', '.join(AGENT_VERDICTS)}"


_SHORT = _text(256)
_LINE = _text(8192)
_LONG = _text(MAX_TEXT)
_SECONDS = _amount(LARGEST_S)

_HEAD: Dict[str, Check] = {
    "format": _count,
    "ts": _time,
    "run": _run_id,
    "seq": _sequence,
}
_FAILURE: Dict[str, Check] = {
    "level": _maybe(_SHORT),
    "class": _maybe(_SHORT),
    "message": _maybe(_LONG),
    "hint": _maybe(_LONG),
    "retriable": _maybe(_flag),
}
_ITEM: Dict[str, Check] = dict(
    _FAILURE,
    item=_LINE,
    bytes=_maybe(_count),
    total_bytes=_maybe(_count),
    resumed_bytes=_maybe(_count),
    bytes_per_s=_maybe(_amount(LARGEST_PER_S)),
    wait_s=_maybe(_SECONDS),
    for_s=_maybe(_SECONDS),
    duration_s=_maybe(_SECONDS),
    host=_maybe(_LINE),
    url=_maybe(_LONG),
    commit=_maybe(_SHORT),
    sha256=_maybe(_SHORT),
    pid=_maybe(_count),
    reason=_maybe(_LONG),
    attempt=_maybe(_count),
    substitute=_maybe(_flag),
)
_STEP: Dict[str, Check] = dict(
    _FAILURE,
    step=_SHORT,
    ok=_maybe(_count),
    failed=_maybe(_count),
    skipped=_maybe(_count),
    duration_s=_maybe(_SECONDS),
)
_OTHERS: Dict[str, Tuple[Tuple[str, ...], Dict[str, Check]]] = {
    "run_started": (
        (),
        {
            "name": _maybe(_SHORT),
            "plan_hash": _maybe(_SHORT),
            "deadline_s": _maybe(_SECONDS),
            "resumed": _maybe(_flag),
            "restarts": _maybe(_count),
            "labels": _maybe(_dictionary(_LINE, 256, "texts")),
            "workspace": _maybe(_LINE),
        },
    ),
    "facts_found": ((), {"facts": _maybe(_mapping)}),
    "preflight_passed": ((), {"bytes_to_fetch": _maybe(_count)}),
    "preflight_failed": ((), dict(_FAILURE, item=_maybe(_LINE))),
    "warning": (("message",), {"message": _LONG}),
    "deadline_at_risk": (
        (),
        {"remaining_s": _maybe(_SECONDS), "needed_s": _maybe(_SECONDS), "timeout_s": _maybe(_SECONDS)},
    ),
    "secrets_needed": (("names",), {"names": _names}),
    "run_usable": (("after_s",), {"after_s": _SECONDS}),
    "run_finished": (
        ("verdict",),
        {
            "verdict": _verdict,
            "duration_s": _maybe(_SECONDS),
            "bytes_downloaded": _maybe(_count),
            "sizes": _maybe(_dictionary(_count, 16, "sizes in bytes")),
            "errors_log": _maybe(_LINE),
        },
    ),
}
"""Fields by event; the first part are those without which it says nothing. Those that follow a rule are in `_shape_of`."""


def _shape_of(name: str) -> Tuple[Tuple[str, ...], Dict[str, Check]]:
    """The fields that *name* needs, and the checks of all of its fields that are read."""
    return _SHAPES.get("step_…" if name.startswith("step_") else name, ((), _HEAD))


def _shapes() -> Dict[str, Tuple[Tuple[str, ...], Dict[str, Check]]]:
    shapes = {name: (needed, dict(_HEAD, **fields)) for name, (needed, fields) in _OTHERS.items()}
    shapes["step_…"] = (("step",), dict(_HEAD, **_STEP))
    for kind in GROUPS:
        more = {"url": _maybe(_address)} if kind == "service" else {}
        for what in _ITEM_EVENTS:
            shapes[f"{kind}_{what}"] = (("item",), dict(_HEAD, **dict(_ITEM, **more)))
    return shapes


# -- parts


def _kind(value: Any) -> str:
    """What *value* is, in words that hold nothing of it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, (int, float)):
        return "another number"
    return "an object" if isinstance(value, dict) else "a list"


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise Misfit(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise Misfit(_NO_NUMBER)
    return value


def _constant(name: str) -> float:
    raise Misfit(_NO_NUMBER)


_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"
_NO_NUMBER = "a number is not finite"
_SHAPES = _shapes()
_DECODER = json.JSONDecoder(parse_int=_whole, parse_float=_fraction, parse_constant=_constant)
