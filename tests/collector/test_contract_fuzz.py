"""Whatever comes from outside: the doors of the contract give what was declared or raise their own error, soon and small."""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import time
import tracemalloc
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provision_agent.contract import events, findings, frames, messages, parsing, plan, status, status_json
from provision_agent.contract.parsing import NO_OTHER_BOUNDS, Bounds, ParseError, parse, to_json

EXAMPLES, SOAK_EXAMPLES = 600, 100_000
ROUNDS = 10
"""In which the soak goes: each starts anew, so that one sees how far it is, and it does not get slower."""
SLOWEST_S = 1.0
WORDS = (
    *("r", "run-1", "critical", "required", "started", "failed", "there", "complete", "running", "done"),
    *("ok", "2026-01-31T10:00:00.000Z", "x" * 64, "a" * 64, "../x", "${run_id}", "${", "$${", "\ud800", "\0"),
    *(
        "hf://a/b",
        "http://127.0.0.1:8188/x",
        "http://[",
        "download_progress",
        "step_finished",
        "run_finished",
    ),
)
NUMBERS = (0, 1, 2, -1, 2**53, 2**63, 10**400, 1e308, -0.0, float("nan"), float("inf"), 0.5)

JUNK_SHARE = 0.02


def junk(rng: Random, depth: int = 0) -> Any:
    """Any JSON, and a few values that Python writes and JSON does not have."""
    dice = rng.randrange(7 if depth < 4 else 5)
    if dice < 2:
        return rng.choice((None, True, False))
    if dice == 2:
        return number(rng)
    if dice < 5:
        return text(rng)
    inner = [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    return inner if dice == 5 else {text(rng): value for value in inner}


def text(rng: Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(WORDS)
    return "".join(
        chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x11000)))) for _ in range(rng.randrange(9))
    )


def number(rng: Random) -> Any:
    dice = rng.randrange(4)
    return rng.choice(NUMBERS) if dice == 0 else rng.randrange(100) if dice < 3 else rng.uniform(-10, 1e6)


def kinds_of(*modules: types.ModuleType) -> list[type]:
    """Every dataclass that is written in *modules*."""
    found = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    names = {module.__name__ for module in modules}
    return [kind for kind in found if dataclasses.is_dataclass(kind) and kind.__module__ in names]


def near(hint: Any, rng: Random, bounds: Bounds = NO_OTHER_BOUNDS) -> Any:
    """Something near to what *hint* wants: mostly of its type and within its bounds, never surely."""
    if rng.random() < JUNK_SHARE:
        return junk(rng)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return {
            key: near(each, rng, limits)
            for key, each, limits, is_needed in shape(hint)
            if is_needed or rng.random() < 0.5
        }
    if origin is typing.Union:
        return None if rng.random() < 0.2 else near(arguments[0], rng, bounds)
    if origin is tuple:
        return [near(arguments[0], rng, bounds) for _ in range(rng.randrange(3))]
    if origin is dict:
        return {text(rng): near(arguments[1], rng, bounds) for _ in range(rng.randrange(3))}
    if hint is str and (bounds.one_of or bounds.pattern):
        fitting = [word for word in WORDS if re.fullmatch(bounds.pattern or ".*", word)]
        return rng.choice(bounds.one_of or fitting or WORDS)
    if hint in (int, float):
        high = 1000 if bounds.high is None else bounds.high
        return rng.choice((rng.randrange(int(bounds.low or 0), int(min(high, 1000)) + 1), bounds.low or 0))
    return {str: text, bool: lambda rng: rng.random() < 0.5}.get(hint, junk)(rng)


@cache
def shape(kind: type) -> list[tuple[str, Any, Bounds, bool]]:
    """The keys of a dataclass in JSON, what belongs there, and whether it must be there."""
    hints = typing.get_type_hints(kind)
    return [
        (
            field.metadata.get("alias", field.name),
            hints[field.name],
            field.metadata.get("bounds", NO_OTHER_BOUNDS),
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    ]


def made(make: Callable[[Random], Any]) -> st.SearchStrategy[Any]:
    """What *make* draws, one for each seed."""
    return st.integers(0, 2**32).map(lambda seed: make(Random(seed)))


def fuzzed(check: Callable[[Any], None], strategy: st.SearchStrategy[Any], examples: int) -> None:
    """*check* raises nothing but `ParseError`, and takes little time, for *examples* of *strategy*."""

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(data: Any) -> None:
        gc.disable()  # what is collected here was left by many other examples
        began = time.process_time()
        try:
            check(data)
        except ParseError:
            pass
        finally:
            took_s = time.process_time() - began
            gc.enable()
        assert took_s < SLOWEST_S

    one()


def read_back(kind: type) -> Callable[[Any], None]:
    def check(data: Any) -> None:
        found = messages.read_message(kind, json.dumps(data).encode())
        assert parse(kind, json.loads(json.dumps(to_json(found), allow_nan=False))) == found

    return check


def any_message(data: tuple[type, Any]) -> None:
    kind, told = data
    for read in (
        read_back(kind),
        lambda told: messages.read_answer(kind, {**told, "format": 2}),
        lambda told: findings.read_sources({**told, "format": 2}),
    ):
        with suppress(ParseError):
            read(told)


def a_plan(data: Any) -> None:
    found = plan.Plan.from_json({**data, "format": 2, "name": "x"})
    assert plan.Plan.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))).hash == found.hash
    found.knows("x")
    found.bind(workspace="/w", home="/h", run_id="r")


def a_state(data: Any) -> None:
    found = status.RunState.from_json({**data, "run": "r"})
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert status.RunState.from_json(told).to_json() == found.to_json()
    found.totals()


def an_event(data: Any) -> None:
    head = {"format": 2, "ts": "2026-01-31T10:00:00.000Z", "run": "r", "seq": 1, "event": "warning"}
    line = json.dumps({**head, **data}).encode()
    read = events.read_event(line)
    if read is not None:
        state = status.RunState("r")
        state.fold(events.parse_event(read))
        json.dumps(state.to_json(), allow_nan=False)


def a_follow_request(data: Any) -> None:
    line = json.dumps({"nonce": "n", "files": [], **data}).encode()
    try:
        found = frames.read_follow_request(line)
    except frames.ProtocolError:
        return
    assert frames.read_follow_request(found.to_line()) == found


def raw_bytes(data: bytes) -> None:
    parsing.read_object(data, max_bytes=1 << 20)


MESSAGES = kinds_of(messages, findings)


def a_message(rng: Random) -> Any:
    kind = rng.choice(MESSAGES)
    told = near(kind, rng)
    return kind, told if isinstance(told, dict) else {}


def told_of(hint: Any, rng: Random) -> dict[str, Any]:
    found = near(hint, rng)
    return found if isinstance(found, dict) else {}


def told_state(rng: Random) -> dict[str, Any]:
    groups = {
        group: {text(rng): near(status_json.type_of_items(group), rng)} for group in status.GROUPS.values()
    }
    return {**told_of(status_json.StateTold, rng), **groups}


def told_event(rng: Random) -> dict[str, Any]:
    name = rng.choice(sorted(events.EVENTS))
    return {"event": name, **told_of(events.EVENTS[name].body, rng)}


def told_files(rng: Random) -> dict[str, Any]:
    names = frames.FollowedFile._fields[1:]
    files = [
        {"path": text(rng), **{name: number(rng) for name in names if rng.random() < 0.5}}
        for _ in range(rng.randrange(3))
    ]
    request = {"nonce": text(rng), "workspace": text(rng), "heartbeat_s": number(rng), "files": files}
    return {key: junk(rng) if rng.random() < JUNK_SHARE else value for key, value in request.items()}


DOORS: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]] = {
    "messages": (any_message, made(a_message)),
    "plan": (a_plan, made(lambda rng: told_of(plan.Plan, rng))),
    "state": (a_state, made(told_state)),
    "event": (an_event, made(told_event)),
    "follow": (a_follow_request, made(told_files)),
    "bytes": (raw_bytes, st.binary(max_size=200) | made(lambda rng: json.dumps(junk(rng)).encode())),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("door", DOORS)
def test_what_fits_nowhere_is_refused_and_nothing_else_happens(door: str) -> None:
    fuzzed(*DOORS[door], EXAMPLES)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(1, ROUNDS + 1))
@pytest.mark.parametrize("door", DOORS)
def test_what_fits_nowhere_is_refused_however_long_one_tries(door: str, part: int) -> None:
    fuzzed(*DOORS[door], SOAK_EXAMPLES // ROUNDS)


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[]," * 7_000_000 + b"0]",
        b"[" + b"{}," * 7_000_000 + b"0]",
        b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000,
        b"[" * 5_000_000,
        b"[" + b"1" * 5_000_000 + b"]",
        b"[1e" + b"9" * 5_000_000 + b"]",
    ],
    ids=["many lists", "many objects", "deep objects", "deep lists", "long number", "long exponent"],
)
def test_a_text_that_would_need_much_memory_is_refused_before_it_is_read(text: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ParseError):
            messages.read_message(messages.StatusRequest, text)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(text) + (1 << 20)
    finally:
        tracemalloc.stop()
