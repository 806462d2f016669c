"""Any valid profile becomes a plan that survives JSON, and the same profile always becomes the same plan."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provision_agent.contract.plan import Plan
from provision_collector.profile import Profile, compile_plan

# what YAML can hold: no surrogates, none of the control characters that it forbids
TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff\x85"), max_size=20
)
LITERAL = TEXT.map(lambda text: text.replace("${", "$${"))
WORD = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
PATH = st.lists(WORD, min_size=1, max_size=3).map("/".join)
LEVEL = st.sampled_from(["critical", "required", "optional"])
DURATION = st.one_of(st.integers(1, 10**6), st.sampled_from(["30s", "1.5h", "500ms", "1h30m"]))
SIZE = st.one_of(st.integers(0, 1 << 50), st.sampled_from(["100MiB", "6.9GB", "5 kB"]))


def item(required: dict[str, Any], optional: dict[str, Any]) -> Any:
    return st.fixed_dictionaries(required, optional={**optional, "level": LEVEL})


def unique(items: Any, key: str) -> Any:
    return st.lists(items, max_size=3, unique_by=lambda one: one[key])


LIMITS = {
    "file": st.one_of(st.just("auto"), DURATION),
    "attempt": DURATION,
    "stall": st.fixed_dictionaries({}, optional={"below": SIZE, "for": DURATION}),
    "attempts": st.integers(1, 9),
    "connections": st.one_of(st.just("auto"), st.integers(1, 16)),
}
SECTIONS = {
    "strict": st.booleans(),
    "limits": st.fixed_dictionaries({}, optional={**LIMITS, "run": DURATION, "rate": st.one_of(st.just("none"), SIZE)}),
    "downloads": unique(
        item(
            {"url": WORD.map(lambda name: f"https://h/{name}"), "path": PATH.map(lambda path: f"d/{path}.x")},
            {
                "size": SIZE,
                "sha256": st.from_regex(r"[0-9a-f]{63}g", fullmatch=True).map(lambda digits: digits[:-1] + "a"),
                "limits": st.fixed_dictionaries({}, optional=LIMITS),
                "unpack": st.sampled_from([True, False, "zip", "tar"]),
            },
        ),
        "path",
    ),
    "files": unique(item({"path": PATH.map(lambda path: f"f/{path}.x"), "content": LITERAL}, {"mode": st.just("0600")}), "path"),
    "commands": unique(
        item(
            {"name": WORD, "run": st.lists(LITERAL, min_size=1, max_size=3)},
            {"environment": st.dictionaries(st.just("A_B"), LITERAL), "timeout": DURATION},
        ),
        "name",
    ),
    "checks": unique(item({"name": WORD, "glob": st.lists(PATH, min_size=1, max_size=2)}, {"min_size": SIZE}), "name"),
    "services": unique(
        item({"name": WORD, "run": st.lists(LITERAL, min_size=1, max_size=2)}, {"restart": st.sampled_from(["never", "on_failure"])}),
        "name",
    ),
}  # fmt: skip
PROFILES = st.fixed_dictionaries({"version": st.just(1)}, optional=SECTIONS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PROFILES)
def test_a_plan_survives_json(data: dict[str, Any]) -> None:
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    plan = compile_plan(Profile.from_text(text))

    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))

    assert again == plan
    assert again.hash == plan.hash == compile_plan(Profile.from_text(text)).hash


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, TEXT)
def test_text_from_the_command_line_reaches_the_instance_unchanged(
    value: str, before: str, after: str
) -> None:
    template = before.replace("${", "$${").rstrip("$") + "${x}" + after.replace("${", "$${")
    text = yaml.safe_dump({"version": 1, "files": [{"path": "f", "content": template}]}, allow_unicode=True)

    plan = compile_plan(Profile.from_text(text, overrides={"x": value}))

    bound = plan.bind(workspace="/w", home="/h", run_id="r")
    assert bound.files[0].content == before.rstrip("$") + value + after
