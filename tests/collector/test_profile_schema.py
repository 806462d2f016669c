"""The published JSON Schema is the generated one, takes what the loader takes, and helps an editor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from provision_agent.contract import events, version
from provision_agent.contract.parsing import ParseError
from provision_collector.cli.profiles import as_json_file
from provision_collector.profile import Profile, named_profiles, profiles_folder
from provision_collector.profile.schema import events_schema, profile_schema

GOLDEN = Path(__file__).parent / "golden"
VALIDATOR = jsonschema.Draft202012Validator(profile_schema())

FILES = {**named_profiles(), "everything": GOLDEN / "everything.yaml"}

SHAPES = {
    "durations and sizes as numbers or text": "limits: {run: 60, attempt: 0.5, connect: 1h30m, lookup: '30', rate: 300MiB/s, stall: {below: 5 kB}}",
    "keywords": "limits: {file: auto, files: auto, connections: auto, rate: none}",
    "variables in place of words and numbers": 'variables: {l: critical, n: "2", h: 12}\nlimits: {files: "${n}", run: "${n}m"}\nfiles: [{path: "${l}", content: "", level: "${l}"}]',
    "one value for a list of one": "checks: [{name: a, glob: '*'}]\npython: {layers: [{torch: {version: 2.9.1}}]}",
    "numbers for arguments": "commands: [{name: a, run: [serve, 8188], environment: {PORT: 1}}]",
    "each way to unpack": "downloads: [{url: https://h/a, path: a, unpack: true}, {url: 'hf://o/r/f', path: b, unpack: zip}]",
    "null that removes": "apt:\nlimits: {run: null, hosts: {h: null}, stall: null}\nvariables: {a: null}\nsecrets: {A: null}\nmarkers: {success: ~}\npython: {venv: ~}",
    "any JSON to wait for": "services: [{name: a, run: [b], ready: {url: http://h/, json: {a: [1, null, {b: true}]}}}]",
}  # fmt: skip

WRONG = {
    "an unknown key": "aptt: [git]",
    "an unknown key in an item": "files: [{path: a, content: b, mod: '0644'}]",
    "a missing key": "files: [{path: a}]",
    "an unknown level": "files: [{path: a, content: b, level: urgent}]",
    "a wrong shape": "apt: git",
    "a bad duration": "limits: {run: soon}",
    "a short hash": "downloads: [{url: https://h/a, path: a, sha256: abc}]",
    "another scheme": "downloads: [{url: 'ftp://h/a', path: a}]",
}


def shown_problems(data: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(data)]


def test_the_published_schema_is_the_generated_one() -> None:
    """`make schema` writes it."""
    published = (profiles_folder() / "profile.schema.json").read_text(encoding="utf-8")

    assert published == as_json_file(profile_schema())


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(profile_schema())
    jsonschema.Draft202012Validator.check_schema(events_schema())


@pytest.mark.parametrize("name", FILES)
def test_the_schema_takes_every_profile(name: str) -> None:
    assert shown_problems(yaml.safe_load(FILES[name].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("case", SHAPES)
def test_the_schema_and_the_loader_take_the_same_shapes(case: str) -> None:
    text = "version: 1\n" + SHAPES[case]
    Profile.from_text(text)

    assert shown_problems(yaml.safe_load(text)) == []


@pytest.mark.parametrize("case", WRONG)
def test_the_schema_refuses_what_an_editor_should_underline(case: str) -> None:
    assert shown_problems({"version": 1, **yaml.safe_load(WRONG[case])}) != []


def test_every_key_has_a_description_for_editors() -> None:
    schema = profile_schema()
    owners = {
        "profile": schema,
        **{name: part for name, part in schema["$defs"].items() if "properties" in part},
    }
    silent = [
        f"{name}.{key}"
        for name, part in owners.items()
        for key, value in part["properties"].items()
        if "description" not in value and "$ref" not in value
    ]

    assert silent == []


def test_null_is_taken_only_where_it_removes_what_a_base_has() -> None:
    item = {"url": "https://h/a", "path": "a", "limits": {"file": None}}

    assert shown_problems({"version": 1, "limits": {"file": None, "stall": {"for": None}}}) == []
    assert shown_problems({"version": 1, "downloads": [item]}) != []


EVENT = {"format": version.FORMAT, "ts": "2026-01-02T03:04:05.678Z", "run": "r1", "seq": 1}


def test_the_event_schema_takes_events_and_asks_for_their_fields() -> None:
    validator = jsonschema.Draft202012Validator(events_schema())
    queued = {**EVENT, "event": "download_queued", "item": "a", "key": "a", "level": "critical"}

    assert list(validator.iter_errors(queued)) == []
    assert list(validator.iter_errors({**EVENT, "event": "of_tomorrow", "new": 1})) == []
    assert [error.message for error in validator.iter_errors({**queued, "level": "urgent"})] != []
    assert [error.message for error in validator.iter_errors({**EVENT, "event": "gap", "bytes": None})] == [
        "'file' is a required property"
    ]


def test_the_event_schema_knows_every_event() -> None:
    text = json.dumps(events_schema())

    assert [
        name for name in (*events.AGENT_EVENTS, *events.COLLECTOR_EVENTS) if f'"{name}"' not in text
    ] == []


ODD_VALUES = (
    -1,
    0,
    256,
    1.5,
    2e15 + 0.5,
    "",
    "x",
    "x" * 300,
    "x" * 9000,
    True,
    None,
    ["a"],
    [1],
    {},
    {"a": -1},
    {"a": "b"},
)
NOT_IN_A_SCHEMA = ("service_ready.url",)
"""Whether a text is a URL of a host is the parser's own check."""


def taken_by_the_parser(data: dict[str, Any]) -> bool:
    try:
        events.parse_event(data)
    except ParseError:
        return False
    return True


@pytest.mark.parametrize("name", events.EVENTS)
def test_the_event_schema_and_the_parser_agree_about_every_value(name: str) -> None:
    [then] = [
        one["then"]["properties"]
        for one in events_schema()["allOf"]  # type: ignore[attr-defined]
        if one["if"]["properties"]["event"]["const"] == name
    ]
    needed = {"item": "a", "step": "a", "message": "m", "names": [], "after_s": 1, "verdict": "complete"}
    needed.update(urls=[], request="a")
    whole = {**EVENT, "event": name, **{key: value for key, value in needed.items() if key in then}}
    assert taken_by_the_parser(whole)

    for key in then.keys() - {"key"}:
        validator = jsonschema.Draft202012Validator(then[key])
        for value in ODD_VALUES:
            if f"{name}.{key}" not in NOT_IN_A_SCHEMA:
                shown = f"{key}: {str(value)[:20]!r}"
                assert validator.is_valid(value) == taken_by_the_parser({**whole, key: value}), shown
