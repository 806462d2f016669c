"""docs/EVENTS.md: every event with its fields, from the schema that both halves check events with."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Iterator

from provision_agent.contract import event_types
from provision_agent.contract.event_bodies import Body
from provision_agent.contract.event_head import Head
from provision_agent.contract.event_types import EventType
from provision_agent.contract.events import EVENTS, MAX_DEPTH, MAX_EVENT_BYTES
from provision_agent.contract.parsing import MAX_ENTRIES, MAX_INTEGER, MAX_TEXT_CHARS, NO_OTHER_BOUNDS, Bounds
from provision_agent.contract.steps import GROUPS

from .markdown import code, head, table

_TEXT = (
    "One JSON object a line. Ignore fields and events that you do not know: both are only ever added. Fields in **bold** are always "
    "there; the others where they apply. How to read them: [SCRIPTING.md](SCRIPTING.md); their JSON Schema: "
    "`provision profiles schema --events`."
)
_WRITERS = {
    event_types.AGENT: "the instance",
    event_types.COLLECTOR: "this side",
    event_types.BOTH: "both",
}
_KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def document() -> str:
    """The text of docs/EVENTS.md."""
    lines = head("Events", "contract/events.py", _TEXT)
    lines += ["## In every event", ""]
    lines += table(("field", "type and bounds"), ((_name(each), each.type) for each in _fields(Head)))
    lines += [
        f"A line has at most {MAX_EVENT_BYTES // 1024} KiB and {MAX_DEPTH} levels. Where nothing else is said, a text has at most "
        f"{MAX_TEXT_CHARS} characters, a list or object {MAX_ENTRIES} entries, and a whole number is at most {MAX_INTEGER}.",
        "Events of this side carry `from: collector` as well.",
        "",
        "## Of a run",
        "",
        *_table(name for name, kind in EVENTS.items() if not kind.group),
    ]
    for group in GROUPS.values():
        lines += [f"## Of {group}", "", *_table(name for name, kind in EVENTS.items() if kind.group == group)]
    lines += ["## The fields", ""]
    lines += table(("field", "type and bounds", "where it differs"), _field_rows())
    return "\n".join(lines)


class _Field(typing.NamedTuple):
    key: str
    type: str
    is_always: bool


def _table(names: Iterable[str]) -> list[str]:
    return table(
        ("event", "written by", "meaning", "fields"),
        (
            (code(name), _WRITERS[EVENTS[name].writer], EVENTS[name].text, _names(EVENTS[name]))
            for name in names
        ),
    )


def _names(kind: EventType) -> str:
    return " ".join(_name(each) for each in _fields_of(kind)) or "none"


def _name(field: _Field) -> str:
    return f"**{code(field.key)}**" if field.is_always else code(field.key)


def _fields_of(kind: EventType) -> Iterator[_Field]:
    """Those of its body, and of every event's those that this one always has; of a download that is its `key`."""
    body = list(_fields(kind.body))
    own = {field.key for field in body}
    shared = (field for field in _fields(Head) if field.key in kind.always and field.key not in own)
    for field in (*body, *shared):
        yield field._replace(is_always=field.key in kind.always)


def _field_rows() -> Iterator[tuple[str, str, str]]:
    """Every field once for each of its types; the events of the rarer types are named."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, kind in EVENTS.items():
        for field in _fields_of(kind):
            found.setdefault(field.key, {}).setdefault(field.type, []).append(name)
    for key in sorted(found):
        by_type = sorted(found[key].items(), key=lambda each: -len(each[1]))
        for at, (type_, names) in enumerate(by_type):
            yield code(key), type_, ", ".join(map(code, names)) if at else ""


def _fields(body: type[Body] | type[Head]) -> Iterator[_Field]:
    hints = typing.get_type_hints(body)
    for field in dataclasses.fields(body):
        limits = field.metadata.get("bounds", NO_OTHER_BOUNDS)
        is_always = bool(field.metadata.get("always")) or field.default is dataclasses.MISSING
        key = str(field.metadata.get("alias", field.name))
        yield _Field(key, _type(hints[field.name], limits), is_always)


def _type(hint: object, limits: Bounds) -> str:
    arguments = [each for each in typing.get_args(hint) if each is not type(None)]
    origin = typing.get_origin(hint)
    if origin is typing.Union:
        return _type(arguments[0], limits)
    if origin is tuple:
        return f"list of {_type(arguments[0], limits)}{_most(limits)}"
    if origin is dict:
        return f"object of {_type(arguments[1], limits)}{_most(limits)}"
    if hint is object:
        return "any JSON"
    assert isinstance(hint, type)
    return _KINDS[hint] + _bounds(hint, limits)


def _most(limits: Bounds) -> str:
    return f"; at most {limits.max_entries} entries" if limits.max_entries != MAX_ENTRIES else ""


def _bounds(kind: type, limits: Bounds) -> str:
    if limits.one_of:
        return f": {' '.join(map(code, limits.one_of))}"
    if limits.pattern is not None:
        return f" as {code(limits.pattern)}"
    if kind is str:
        return f", at most {limits.max_chars} characters" if limits.max_chars != MAX_TEXT_CHARS else ""
    low, high = limits.low, limits.high
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    return f", at least {low:g}" if low is not None else ""
