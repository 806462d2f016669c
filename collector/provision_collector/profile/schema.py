"""JSON Schemas, generated: of profiles (for editors) and of events (for programs that read them).

Nothing is listed here: a profile's keys are those of `model`, an event's fields are those of `contract.events`.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from provision_agent.contract.event_types import COLLECTOR, EventType
from provision_agent.contract.events import EVENTS
from provision_agent.contract.parsing import NO_OTHER_BOUNDS, Bounds
from provision_agent.contract.version import FORMAT, RUN_ID_PATTERN
from pydantic import BaseModel

from .compose import LISTS, REMOVE
from .described import describe
from .library import profiles_folder
from .model import Document
from .model_base import Part
from .notes import Annotation, fields_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOR_EDITORS = "# yaml-language-server: $schema="
"""How a YAML file tells editors its schema."""

Schema = dict[str, object]

_NULL: Schema = {"type": "null"}
_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{", "description": "Text with a ${variable} in it."}
EXTENDS: Schema = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "The profiles that this one is laid over: built-in names or relative paths. Single values override, lists append, an item with the same name or path replaces, `{name: X, remove: true}` and null remove.",
}
_REMOVAL: Schema = {
    "type": "object",
    "description": "Takes away the item of this name, or of this path, that a base has.",
    "properties": {
        "name": {"type": "string", "description": "The name of the item."},
        "path": {"type": "string", "description": "The path of an item that has no name."},
        "url": {"type": "string", "description": "The URL too, for a download into a folder."},
        REMOVE: {"const": True, "description": "It is not wanted here."},
    },
    "required": [REMOVE],
    "anyOf": [{"required": ["name"]}, {"required": ["path"]}],
    "additionalProperties": False,
}


def schema_path() -> Path:
    """The file of the profile's schema, as it is installed."""
    return profiles_folder() / "profile.schema.json"


def for_editors(text: str) -> str:
    """The YAML *text* with a first line that tells editors the schema, unless it has one."""
    has_one = any(line.startswith(FOR_EDITORS) for line in text.splitlines()[:10])
    return text if has_one else f"{FOR_EDITORS}{schema_path()}\n{text}"


# -- profiles


def profile_schema() -> Schema:
    """The JSON Schema of a profile as it stands in a file: with `extends`, `${}` and null."""
    describe()
    schema = _clean(Document.model_json_schema(by_alias=True))
    definitions, keys = _inside(schema, "$defs"), _inside(schema, "properties")
    layer = _inside(definitions, "Layer")
    definitions["Layer"] = {"anyOf": [_inside(layer, "properties")["packages"], layer]}
    definitions.update(variable=_VARIABLE, removal=_REMOVAL)
    for name in set(_merged(Document)):
        part = _inside(definitions, name)
        part["properties"] = _removable(_inside(part, "properties"))
    for owner in (keys, _inside(_inside(definitions, "Python"), "properties")):
        for name in set(LISTS).intersection(owner):
            _let_entries_remove(_inside(owner, name))
    return {
        "$schema": DIALECT,
        "title": "provision profile",
        "description": Document.__doc__,
        "type": "object",
        "properties": _removable({"version": keys.pop("version"), "extends": EXTENDS, **keys}),
        "anyOf": [{"required": ["version"]}, {"required": ["extends"]}],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _let_entries_remove(schema: Schema) -> None:
    """An entry of this list is what it is, or takes away one below."""
    for each in (schema, *(choice for choice in _choices(schema) if isinstance(choice, dict))):
        if "items" in each:
            is_removal = {"type": "object", "required": [REMOVE]}
            each["items"] = {"if": is_removal, "then": {"$ref": "#/$defs/removal"}, "else": each["items"]}


def _choices(schema: Schema) -> list[object]:
    choices = schema.get("anyOf")
    return choices if isinstance(choices, list) else []


def _merged(model: type[BaseModel]) -> Iterator[str]:
    """The parts that `extends` merges key by key, where null removes what the base has."""
    for field in fields_of(model):
        part = field.part
        if part is not None and issubclass(part, Part) and part.is_merged and not field.is_list:
            yield part.__name__
            yield from _merged(part)


def _clean(schema: Mapping[str, object]) -> Schema:
    """pydantic's schema without its noise, and with `${variable}` wherever only some strings will do."""
    kept = {key: _cleaned(value) for key, value in schema.items() if not _is_noise(key, value)}
    if not {"pattern", "enum"}.intersection(kept):
        return kept
    about: Schema = {key: kept.pop(key) for key in ("description", "default") if key in kept}
    return {"anyOf": [kept, {"$ref": "#/$defs/variable"}], **about}


def _cleaned(value: object) -> object:
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return _clean(value) if isinstance(value, dict) else value


def _is_noise(key: str, value: object) -> bool:
    is_generated_title = key == "title" and isinstance(value, str)
    return is_generated_title or (key == "default" and (value is None or isinstance(value, (list, dict))))


def _removable(properties: Schema) -> Schema:
    """*properties*, each of which may also be null; entries of open mappings too."""
    return {name: _or_null(_open_or_null(_inside(properties, name))) for name in properties}


def _open_or_null(schema: Schema) -> Schema:
    """Entries of an open mapping may be null; pydantic writes them in either of two ways."""
    changed = dict(schema)
    if isinstance(schema.get("additionalProperties"), dict):
        changed["additionalProperties"] = _or_null(_inside(schema, "additionalProperties"))
    if "patternProperties" in schema:
        changed["patternProperties"] = _removable(_inside(schema, "patternProperties"))
    return changed


def _or_null(schema: Schema) -> Schema:
    about = {key: value for key, value in schema.items() if key in ("description", "default")}
    rest = {key: value for key, value in schema.items() if key not in about}
    choices = rest.get("anyOf") if set(rest) == {"anyOf"} else None
    choices = choices if isinstance(choices, list) else [rest]
    return {"anyOf": choices if _NULL in choices else [*choices, _NULL], **about}


def _inside(schema: Schema, key: str) -> Schema:
    """The schema, or the schemas by name, under *key*."""
    inner = schema[key]
    assert isinstance(inner, dict)
    return inner


# -- events


def events_schema() -> Schema:
    """The JSON Schema of one event, the agent's or this side's. Further fields and events may come."""
    return {
        "$schema": DIALECT,
        "title": "provision event",
        "description": "One line of a run's events. Ignore fields and events that you do not know.",
        "type": "object",
        "properties": {
            "format": {"const": FORMAT},
            "ts": {"type": "string", "format": "date-time", "description": "UTC, with milliseconds."},
            "run": {"type": "string", "pattern": f"^{RUN_ID_PATTERN}$"},
            "seq": {"type": "integer", "minimum": 1, "description": "Per writer, from 1, without a gap."},
            "event": {"type": "string"},
            "from": {"const": COLLECTOR, "description": "Written by this side, not by the agent."},
        },
        "required": ["format", "ts", "run", "seq", "event"],
        "allOf": [_one_event(name, kind) for name, kind in EVENTS.items()],
    }


def _one_event(name: str, kind: EventType) -> Schema:
    key: Schema = {"key": {"type": "string"}} if "key" in kind.always else {}
    then = {
        "description": kind.text,
        "properties": {**_properties(kind.body), **key},
        "required": list(kind.always),
    }
    return {"if": {"properties": {"event": {"const": name}}, "required": ["event"]}, "then": then}


def _properties(record: type) -> Schema:
    """The fields of the dataclass *record*, by their keys in JSON."""
    types = typing.get_type_hints(record)
    return {
        str(field.metadata.get("alias", field.name)): _Shape(
            field.metadata.get("bounds", NO_OTHER_BOUNDS)
        ).of(types[field.name])
        for field in fields(record)
    }


@dataclass(frozen=True)
class _Shape:
    """Types within *bounds*, as schemas; they mean what `contract.parsing` accepts."""

    bounds: Bounds

    def of(self, annotation: Annotation) -> Schema:
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Union:
            inner = [self.of(each) for each in arguments if each is not type(None)]
            shape: Schema = inner[0] if len(inner) == 1 else {"anyOf": inner}
            return _or_null(shape) if type(None) in arguments and shape else shape
        if origin in (tuple, list):
            return {"type": "array", "items": self.of(arguments[0]), **self._most("maxItems")}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            entries = self.of(arguments[1])
            return {"type": "object", "additionalProperties": entries or True, **self._most("maxProperties")}
        if annotation is str:
            return {"type": "string", **self._text()}
        if annotation in (int, float):
            return {"type": "integer" if annotation is int else "number", **self._range()}
        return {"type": "boolean"} if annotation is bool else {}

    def _most(self, key: str) -> Schema:
        most = self.bounds.max_entries
        return {} if most == NO_OTHER_BOUNDS.max_entries else {key: most}

    def _text(self) -> Schema:
        bounds = self.bounds
        given: Schema = {"pattern": f"^(?:{bounds.pattern})$"} if bounds.pattern else {}
        if bounds.one_of:
            return {"enum": list(bounds.one_of), **given}
        most = bounds.max_chars
        return given if most == NO_OTHER_BOUNDS.max_chars else {"maxLength": most, **given}

    def _range(self) -> Schema:
        limits = {"minimum": self.bounds.low, "maximum": self.bounds.high}
        return {key: limit for key, limit in limits.items() if limit is not None}
