"""The work order: its JSON, its hash, its variables."""

from __future__ import annotations

from dataclasses import replace

import pytest
from provision_agent.contract.plan import Download, Layer, Plan, Python, Service, Torch
from provision_agent.contract.plan_json import differences, without_defaults
from provision_agent.contract.plan_parts import HostLimits, PlanFormatError, SecretRule
from provision_agent.contract.source_kinds import host_limits
from provision_agent.contract.steps import STEP_NAMES

PLAN = Plan(
    name="x",
    downloads=(
        Download("https://example.org/a", "models/${run_id}.bin", mirrors=("https://example.com/a",)),
    ),
    python=Python(layers=(Layer(packages=("numpy",)), Layer(torch=Torch(versions=("2.9.1",))))),
    services=(Service("web", ("python", "main.py", "$${literal}"), environment={"A": "${workspace}/b"}),),
)


def test_a_plan_survives_its_json() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_what_the_tool_brings_itself_has_no_part_in_the_hash() -> None:
    built_in = host_limits()
    own = {"civitai.com": HostLimits(files=1, connections=3), "h": HostLimits(files=2)}
    plan = replace(PLAN, limits=replace(PLAN.limits, hosts=own))
    spelled_out = replace(PLAN, limits=replace(PLAN.limits, hosts={**built_in, **own}), format=1)

    assert plan.hash == spelled_out.hash
    assert replace(PLAN, limits=replace(PLAN.limits, hosts=built_in)).hash == PLAN.hash != plan.hash
    assert Plan("x", steps=STEP_NAMES).hash == Plan("x", steps=(*STEP_NAMES, "a_step_of_tomorrow")).hash
    assert Plan("x", apt=("a",)).hash != Plan("x", apt=("a",), steps=STEP_NAMES[1:]).hash
    assert differences(plan.work(), spelled_out.work()) == []


def test_equal_work_has_an_equal_hash_and_other_work_another() -> None:
    assert Plan.from_json(PLAN.to_json()).hash == PLAN.hash
    assert Plan(name="y").hash != Plan(name="x").hash


def test_the_instance_fills_in_what_only_it_knows() -> None:
    bound = PLAN.bind(workspace="/w", home="/root", run_id="r1")

    assert bound.workspace == "/w"
    assert bound.downloads[0].path == "models/r1.bin"
    assert bound.services[0].environment == {"A": "/w/b"}
    assert bound.services[0].run[2] == "${literal}"


def test_unknown_fields_are_ignored_and_wrong_ones_named() -> None:
    assert Plan.from_json(dict(PLAN.to_json(), later="thing")) == PLAN
    with pytest.raises(PlanFormatError, match=r"`downloads\[0\]\.path` of `plan` must be text"):
        Plan.from_json(dict(PLAN.to_json(), downloads=[{"url": "https://example.org", "path": 3}]))


def test_another_format_is_refused_by_naming_both() -> None:
    with pytest.raises(PlanFormatError, match="format 1 and 2, not 9"):
        Plan.from_json(dict(PLAN.to_json(), format=9))


def test_differences_name_the_place_and_both_values() -> None:
    old, new = PLAN.to_json(), dict(PLAN.to_json(), name="z", apt=["git"])

    assert differences(old, new) == ['apt[0]: null -> "git"', 'name: "x" -> "z"']
    assert differences(old, old) == []


def test_a_run_of_an_older_version_is_joined_though_its_plan_lacks_fields_and_rules_of_today() -> None:
    own, default = (
        SecretRule("MINE", ("example.org",)),
        SecretRule("HF_TOKEN", ("huggingface.co",), is_default=True),
    )
    today = replace(PLAN, secrets=(own, default), default_secrets=True)
    older = PLAN.to_json()
    older["secrets"] = [{"name": "MINE", "hosts": ["example.org"], "aliases": []}]
    del older["default_secrets"], older["repair"]
    for download in older["downloads"]:  # type: ignore[attr-defined]
        del download["headers"], download["basic"]
    going = Plan.from_json(older)

    assert going.is_same_work(today)
    assert today.is_same_work(going)
    assert differences(going.beside(today).work(), today.beside(going).work()) == []
    assert not going.is_same_work(replace(today, secrets=(default,)))
    assert not going.is_same_work(replace(today, name="z"))


def test_rules_for_secrets_are_compared_in_plans_of_today() -> None:
    default = SecretRule("HF_TOKEN", ("huggingface.co",), is_default=True)
    with_them = replace(PLAN, secrets=(default,), default_secrets=True)
    refused = replace(PLAN, default_secrets=False)

    assert with_them.hash != refused.hash
    assert not with_them.is_same_work(refused)
    assert replace(PLAN, default_secrets=True).is_same_work(refused), "no item of it is on a host with a rule"


def test_a_field_that_is_not_used_has_no_part_in_the_hash() -> None:
    told = without_defaults(PLAN)

    assert told == {
        "name": "x",
        "downloads": [
            {
                "url": "https://example.org/a",
                "path": "models/${run_id}.bin",
                "mirrors": ["https://example.com/a"],
            }
        ],
        "python": {"layers": [{"packages": ["numpy"]}, {"torch": {"versions": ["2.9.1"]}}]},
        "services": [
            {
                "name": "web",
                "run": ["python", "main.py", "$${literal}"],
                "environment": {"A": "${workspace}/b"},
            }
        ],
    }
