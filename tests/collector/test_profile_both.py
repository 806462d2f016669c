"""The schema and the loader agree: on any profile that is right, and on any that one slip made wrong."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from harness.samples import examples, sampled
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from provision_collector.errors import ProfileError
from provision_collector.profile import Profile
from provision_collector.profile.schema import profile_schema
from test_profile_plan import PROFILES

VALIDATOR = jsonschema.Draft202012Validator(profile_schema())
FREE = ("environment", "json", "variables", "hosts")
"""Mappings whose keys are the writer's own."""
SLIPS = ("an unknown key", "a list for a word", "a missing item key", "an unknown level")
MODEST = settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def mappings(value: Any, name: str = "") -> Iterator[dict[str, Any]]:
    """Every mapping of a profile whose keys the language knows."""
    if isinstance(value, dict) and name not in FREE:
        yield value
        for key, inner in value.items():
            yield from mappings(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from mappings(inner, name)


def is_loaded(data: dict[str, Any]) -> bool:
    try:
        Profile.from_text(yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
    except ProfileError:
        return False
    return True


@sampled
@MODEST
@given(PROFILES)
def test_what_the_loader_takes_the_schema_takes(data: dict[str, Any]) -> None:
    assert is_loaded(data)
    assert VALIDATOR.is_valid(data), next(VALIDATOR.iter_errors(data)).message


@sampled
@pytest.mark.parametrize("slip", SLIPS)
@MODEST
@given(data=PROFILES, choice=st.randoms(use_true_random=False))
def test_one_slip_is_refused_by_both(slip: str, data: dict[str, Any], choice: Any) -> None:
    wrong = copy.deepcopy(data)
    places = list(mappings(wrong))
    items = [place for place in places if {"path", "name"} & place.keys()]
    if slip == "an unknown key":
        choice.choice(places)["no_such_key"] = 1
    elif slip == "a list for a word":
        wrong["name"] = ["a"]
    else:
        assume(items)
        item = choice.choice(items)
        if slip == "an unknown level":
            item["level"] = "urgent"
        else:
            del item["path" if "path" in item else "name"]

    assert not is_loaded(wrong)
    assert not VALIDATOR.is_valid(wrong)
