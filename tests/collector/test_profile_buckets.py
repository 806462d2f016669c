"""Buckets in a profile: what may be written, and which secrets stay on this machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from provision_agent.contract.buckets import BucketPlace, BucketSource
from provision_agent.contract.plan_parts import SecretRule
from provision_collector.errors import ProfileError
from provision_collector.instance import Instance, Link
from provision_collector.profile import Profile, compile_plan
from provision_collector.run.dispatch import Dispatch
from provision_collector.run.spec import Known, Order

TEXT = """
version: 1
secrets: {{R2_ACCESS: {{}}, R2_SECRET: {{aliases: [R2_OLD]}}, BOTH: {{}}, HF_TOKEN: {{hosts: [huggingface.co]}}}}
buckets:
  models: {{{place}}}
downloads:
  - {{url: "{url}", path: "{path}"{more}}}
commands:
  - {{name: c, run: [ls], secrets: [BOTH]}}
"""
KEYS = "access_key: R2_ACCESS, secret_key: R2_SECRET, session_token: BOTH"


def profile(
    place: str = KEYS, url: str = "s3://models/a b.bin", path: str = "a.bin", more: str = ""
) -> Profile:
    return Profile.from_text(TEXT.format(place=place, url=url, path=path, more=more))


def test_a_secret_that_only_buckets_name_is_no_part_of_the_plan() -> None:
    made = profile()
    plan = compile_plan(made)

    assert [rule.name for rule in plan.secrets] == ["BOTH", "HF_TOKEN"]
    assert [rule.name for rule in made.buckets.secrets] == ["R2_ACCESS", "R2_SECRET", "BOTH"]
    assert Known.of(plan, made.buckets).kept_secrets == {"R2_ACCESS", "R2_SECRET"}
    assert "models" in made.buckets.places and "R2" not in str(plan.to_json())


def test_what_a_run_wants_of_its_buckets_is_kept_with_it_and_read_again() -> None:
    made = profile(url="s3://models/loras/", path="l/", more=", include: ['*.bin']")
    known = Known.of(compile_plan(made), made.buckets)

    assert known.buckets.sources == (BucketSource("s3://models/loras/", ("*.bin",)),)
    assert Known.from_json(known.to_json()) == known
    older = {name: value for name, value in known.to_json().items() if name != "buckets"}
    assert Known.from_json(older).buckets.sources == ()


def test_an_instance_that_names_a_secret_of_a_bucket_does_not_get_it() -> None:
    made = profile()
    plan = compile_plan(made)
    values = {"R2_ACCESS": "AKID", "R2_SECRET": "hush", "BOTH": "shared"}
    evil = replace(plan, secrets=(*plan.secrets, SecretRule("R2_SECRET"), SecretRule("R2_ACCESS")))
    instance = Instance.parse("root@127.0.0.1:1")
    for order in (
        Order(plan=plan, secrets=values, buckets=made.buckets),
        Order(plan=None, secrets=values, environment=values, known=Known.of(plan, made.buckets)),
    ):
        dispatch = Dispatch(
            order,
            instance,
            Link(instance, lambda *_, **__: None),
            lambda *_, **__: None,
            run="r",
            accepted_unix=1,
        )

        assert dispatch._secrets_for(evil) == ({"BOTH": "shared"}, ())


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("endpoint: http://store.example", "would show signed addresses to the network"),
        ("endpoint: http://169.254.169.254", "would show signed addresses to the network"),
        ("endpoint: https://store.example/models", "more than a host and a port"),
        ("endpoint: ftp://store.example", "must start with"),
        ("access_key: R2_ACCESS", "`access_key` opens nothing without `secret_key`"),
        ("session_token: BOTH", "`session_token` opens nothing without `secret_key`"),
        ("access_key: R2_ACCESS, secret_key: NOT_THERE", "NOT_THERE"),
        ("region: EU West", "is not a region"),
        ("style: host", "style"),
    ],
)
def test_what_a_bucket_cannot_be_is_said_at_its_place(place: str, message: str) -> None:
    with pytest.raises(ProfileError) as raised:
        profile(place)

    assert len(raised.value.problems) == 1, raised.value.problems
    assert message in raised.value.problems[0] and ":5:" in raised.value.problems[0]


@pytest.mark.parametrize(
    "endpoint", ["https://a.r2.cloudflarestorage.com", "http://localhost:9000", "http://10.0.0.5:9000"]
)
def test_a_store_is_elsewhere_by_https_or_nearby(endpoint: str) -> None:
    assert profile(f"endpoint: '{endpoint}/'").buckets.places["models"] == BucketPlace(endpoint=endpoint)


@pytest.mark.parametrize(
    ("url", "path", "more", "message"),
    [
        ("s3://models", "a", "", "is not complete"),
        ("s3://models//a", "a", "", "is not complete"),
        (" s3://models/a", "a", "", "spaces"),
        ("s3://models/l/", "a", "", "a prefix of a bucket needs a folder"),
        ("s3://models/l/", "a/", ", size: 1", "means nothing for a prefix of a bucket"),
        ("s3://models/a", "a", ", include: [x]", "means nothing for a single file"),
    ],
)
def test_an_address_of_a_bucket_that_means_nothing_is_said(
    url: str, path: str, more: str, message: str
) -> None:
    with pytest.raises(ProfileError, match=message):
        profile(url=url, path=path, more=more)
