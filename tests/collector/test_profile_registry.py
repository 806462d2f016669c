"""A field of the language is declared once: its model says where in the plan it goes, what it is and how it is written."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator

import pytest
from provision_agent.contract import plan
from provision_agent.contract.steps import LEVELS, STEPS
from provision_collector.profile.fields import Level
from provision_collector.profile.model import Document
from provision_collector.profile.model_base import Part
from provision_collector.profile.model_parts import ItemLimits, Limits
from provision_collector.profile.notes import NOT_IN_PLAN, classes_in, fields_of

SET_BY_THE_COMPILER = {
    "Plan.workspace_fallback",
    "Plan.steps",
    "Plan.secrets",
    "Plan.default_secrets",
    "Plan.format",
}
"""What no key of a profile says."""
SET_BY_A_LOCK = {"Python.versions", "Python.locked"}
SET_BY_AN_AUDIT = {"Plan.repair"}


def pairs(part: type[Part], record: type) -> Iterator[tuple[type[Part], type]]:
    """A model and the dataclass that it becomes, with all inside them."""
    yield part, record
    types = typing.get_type_hints(record)
    for field in fields_of(part):
        place = getattr(field.part, "of_plan", "") or field.plan_name
        if field.part is not None and place in types:
            inner = next(filter(dataclasses.is_dataclass, classes_in(types[place])))
            yield from pairs(field.part, inner)  # type: ignore[arg-type]


PAIRS = dict(pairs(Document, plan.Plan))


@pytest.mark.parametrize("part", PAIRS, ids=lambda part: part.__name__)
def test_every_key_of_a_profile_reaches_the_plan_or_says_that_it_does_not(part: type[Part]) -> None:
    known = {field.name for field in dataclasses.fields(PAIRS[part])}
    of_every_download = fields_of(ItemLimits) if part is Limits else ()
    lost = [
        field.key
        for field in fields_of(part)
        if field.plan_name not in known and field not in of_every_download and not field.has(NOT_IN_PLAN)
    ]

    assert lost == []


@pytest.mark.parametrize("part", PAIRS, ids=lambda part: part.__name__)
def test_every_field_of_the_plan_has_a_key_or_is_set_by_the_tool(part: type[Part]) -> None:
    names = {f"{PAIRS[part].__name__}.{field.name}" for field in dataclasses.fields(PAIRS[part])}
    given = {f"{PAIRS[part].__name__}.{field.plan_name}" for field in fields_of(part)}
    given |= {f"{PAIRS[part].__name__}.{getattr(field.part, 'of_plan', '')}" for field in fields_of(part)}

    assert names - given - SET_BY_THE_COMPILER - SET_BY_A_LOCK - SET_BY_AN_AUDIT == set()


def test_every_step_is_a_key_of_profiles_and_of_plans() -> None:
    keys = {field.key: field.plan_name for field in fields_of(Document)}

    assert {step: keys.get(step) for step in STEPS} == {step: step for step in STEPS}
    assert set(STEPS) <= {field.name for field in dataclasses.fields(plan.Plan)}


def test_the_levels_of_the_language_are_those_of_the_contract() -> None:
    assert typing.get_args(Level) == LEVELS
