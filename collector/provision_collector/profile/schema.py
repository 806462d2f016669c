"""JSON Schemas, generated: of profiles (for editors) and of events (for programs that read them)."""

from __future__ import annotations

from typing import Any

from provision_agent.contract import events, version
from provision_agent.contract.steps import LEVELS

from .model import Document

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{", "description": "Text with a ${variable} in it."}
_NULL: Schema = {"type": "null"}
_EXTENDS: Schema = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "A built-in name, a relative path, or a list. Scalars override, lists append, items with the same path or name replace, null removes.",
}
_MERGED = ("Limits", "ItemLimits", "Stall", "HostLimits", "Python", "Secret", "Markers")
"""Mappings that `extends` merges key by key, where null removes what the base has."""


def profile_schema() -> Schema:
    """The JSON Schema of a profile as it stands in a file: with `extends`, `${}` and null."""
    schema = _for_editors(Document.model_json_schema(by_alias=True))
    definitions = schema.pop("$defs")
    layer = definitions["Layer"]
    definitions["Layer"] = {"anyOf": [layer["properties"]["packages"], layer]}
    definitions["variable"] = _VARIABLE
    for name in _MERGED:
        definitions[name]["properties"] = _removable(definitions[name]["properties"])
    properties = {"version": schema["properties"].pop("version"), "extends": _EXTENDS, **schema["properties"]}
    return {
        "$schema": DIALECT,
        "title": "provision profile",
        "description": Document.__doc__,
        "type": "object",
        "properties": _removable(properties),
        "anyOf": [{"required": ["version"]}, {"required": ["extends"]}],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _for_editors(node: Any) -> Any:
    """pydantic's schema without its noise, and with `${variable}` wherever only some strings will do."""
    if isinstance(node, list):
        return [_for_editors(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _for_editors(value) for key, value in node.items() if not _is_noise(key, value)}
    if not {"pattern", "enum"}.intersection(kept):
        return kept
    about = {key: kept.pop(key) for key in ("description", "default") if key in kept}
    return {"anyOf": [kept, {"$ref": "#/$defs/variable"}], **about}


def _is_noise(key: str, value: Any) -> bool:
    is_generated_title = key == "title" and isinstance(value, str)
    return is_generated_title or (key == "default" and (value is None or isinstance(value, (list, dict))))


def _removable(properties: Schema) -> Schema:
    """*properties*, each of which may also be null; entries of open mappings too."""
    return {name: _or_null(_open_or_null(schema)) for name, schema in properties.items()}


def _open_or_null(schema: Schema) -> Schema:
    """Entries of an open mapping may be null; pydantic writes them in either of two ways."""
    changed = dict(schema)
    if isinstance(schema.get("additionalProperties"), dict):
        changed["additionalProperties"] = _or_null(schema["additionalProperties"])
    if "patternProperties" in schema:
        changed["patternProperties"] = _removable(schema["patternProperties"])
    return changed


def _or_null(schema: Schema) -> Schema:
    about = {key: value for key, value in schema.items() if key in ("description", "default")}
    rest = {key: value for key, value in schema.items() if key not in about}
    choices = rest["anyOf"] if set(rest) == {"anyOf"} else [rest]
    return {"anyOf": choices if _NULL in choices else [*choices, _NULL], **about}


def events_schema() -> Schema:
    """The JSON Schema of one event, the agent's or this side's. Further fields and events may come."""
    known = {**events.AGENT_EVENTS, **events.COLLECTOR_EVENTS}
    return {
        "$schema": DIALECT,
        "title": "provision event",
        "description": "One line of a run's events. Ignore fields and events that you do not know.",
        "type": "object",
        "properties": {
            "format": {"const": version.FORMAT},
            "ts": {"type": "string", "format": "date-time", "description": "UTC, with milliseconds."},
            "run": {"type": "string", "pattern": f"^{version.RUN_ID_PATTERN}$"},
            "seq": {"type": "integer", "minimum": 1, "description": "Per writer, from 1, without a gap."},
            "event": {"type": "string"},
            "from": {"const": "collector", "description": "Written by this side, not by the agent."},
        },
        "required": ["format", "ts", "run", "seq", "event"],
        "allOf": [_one_event(name, fields) for name, fields in known.items()],
    }


def _one_event(name: str, fields: tuple[str, ...]) -> Schema:
    then: Schema = {
        "required": list(fields),
        "properties": {field: _FIELDS.get(field, {}) for field in fields},
    }
    return {"if": {"properties": {"event": {"const": name}}, "required": ["event"]}, "then": then}


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number", "minimum": 0}
_MAYBE_COUNT: Schema = {"type": ["integer", "null"], "minimum": 0}

_FIELDS: dict[str, Schema] = {
    **dict.fromkeys(
        ("item", "key", "class", "message", "hint", "name", "plan_hash", "reason", "file"), _TEXT
    ),
    **dict.fromkeys(("ok", "failed", "skipped", "attempt", "restarts", "exit_code"), _COUNT),
    **dict.fromkeys(("wait_s", "duration_s", "for_s", "after_s", "retry_in_s", "waited_s"), _SECONDS),
    "level": {"enum": list(LEVELS)},
    "step": _TEXT,
    "retriable": {"type": "boolean"},
    "total_bytes": _MAYBE_COUNT,
    "bytes": _MAYBE_COUNT,
    "names": {"type": "array", "items": _TEXT},
    "verdict": _TEXT,
}
"""Shapes of the fields whose name says what they hold; the others may hold anything."""
