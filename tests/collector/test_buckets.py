"""Addresses in buckets are signed here, against a store that verifies every signature; what it refuses has a class, a hint and a next."""

from __future__ import annotations

import hashlib
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
from harness.s3_server import S3Server
from provision_agent.contract.buckets import BucketPlace, Buckets, BucketSource, SignedSource
from provision_agent.contract.failures import next_of_kinds
from provision_agent.contract.plan_parts import SecretRule
from provision_collector.errors import UsageError
from provision_collector.files.buckets import sign
from provision_collector.files.keys import Keys
from provision_collector.files.shared import SharedSigning
from provision_collector.files.store import Store

VALUES = {"AK": "AKIDEXAMPLE", "SK": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
DATA = b"0123456789" * 100


@pytest.fixture
def store() -> Iterator[S3Server]:
    with S3Server() as store:
        store.add("models", "m.bin", DATA)
        yield store


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No AWS configuration of this machine."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def buckets(store: S3Server, *urls: str, names: bool = True, **place: Any) -> Buckets:
    keys = {"access_key": "AK", "secret_key": "SK"} if names else {}
    where = BucketPlace(endpoint=store.url, **{**keys, **place})
    rules = tuple(SecretRule(name) for name in where.secrets)
    sources = tuple(BucketSource(url) for url in urls or ("s3://models/m.bin",))
    return Buckets({"models": where}, rules, sources)


def signed(known: Buckets, values: dict[str, str] = VALUES, **options: Any) -> list[SignedSource]:
    return list(sign(known, values, lives_s=3600, **options))


def fetched(source: SignedSource) -> bytes:
    """What anybody gets who has nothing but the address."""
    with urllib.request.urlopen(source.address, timeout=10) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize(
    "key", ["a b.bin", "a+b&c=d.bin", "ü/日本.bin", "100%25.bin", "q?x#y.bin", "~t'(1)*.bin"]
)
def test_a_key_is_taken_as_it_stands(store: S3Server, key: str) -> None:
    store.add("models", key, key.encode())

    [one] = signed(buckets(store, f"s3://models/{key}"))

    assert fetched(one) == key.encode()


def test_an_address_says_nothing_of_the_secret_key_and_works_no_longer_than_it_should(
    store: S3Server,
) -> None:
    [one] = signed(buckets(store))

    assert VALUES["SK"] not in one.address and "X-Amz-Expires=3600&" in one.address
    assert fetched(one) == DATA
    store.clock = lambda: time.time() + 3700
    with pytest.raises(urllib.error.HTTPError, match="403"):
        fetched(one)


def test_a_hash_is_told_where_the_store_keeps_one_and_an_etag_is_none(store: S3Server) -> None:
    store.add("models", "with.bin", DATA, has_checksum=True)

    without, with_one = signed(buckets(store, "s3://models/m.bin", "s3://models/with.bin"))

    assert (without.size_bytes, without.sha256) == (len(DATA), None)
    assert with_one.sha256 == hashlib.sha256(DATA).hexdigest()


def test_a_prefix_of_many_pages_is_all_of_what_is_wanted_below_it(store: S3Server) -> None:
    store.page = 1000
    for number in range(2300):
        store.add("models", f"loras/{number} ü+.bin", b"x")
    store.add("models", "loras/notes.txt", b"x")
    store.add("models", "lorasnot/1.bin", b"x")
    known = replace(buckets(store), sources=(BucketSource("s3://models/loras/", ("*.bin",), ("*/7*",)),))

    found = signed(known)

    wanted = {
        f"s3://models/loras/{number} ü+.bin" for number in range(2300) if not str(number).startswith("7")
    }
    assert {each.url for each in found} == wanted
    assert {each.of for each in found} == {"s3://models/loras/"}
    assert fetched(found[-1]) == b"x"
    assert len([each for each in store.requests if "list-type" in each.query]) == 3


def test_a_session_token_goes_along_in_the_address(store: S3Server) -> None:
    store.tokens["AKIDEXAMPLE"] = "lent/for+a=while"

    [one] = signed(buckets(store, session_token="ST"), {**VALUES, "ST": "lent/for+a=while"})

    assert fetched(one) == DATA


def test_a_region_that_nobody_says_is_learnt_from_the_store(store: S3Server) -> None:
    store.region = "eu-west-1"

    [one] = signed(buckets(store))

    assert "%2Feu-west-1%2Fs3" in one.address and fetched(one) == DATA


def test_a_bucket_that_has_moved_is_signed_for_where_it_is(store: S3Server) -> None:
    with S3Server(region="eu-west-1") as there:
        there.add("models", "m.bin", DATA)
        there.add("models", "p/1.bin", DATA)
        store.redirect_to = there.url

        one, below = signed(buckets(store, "s3://models/m.bin", "s3://models/p/"))

        assert one.address.startswith(f"{there.url}/models/m.bin?")
        assert (fetched(one), fetched(below)) == (DATA, DATA)


def test_a_bucket_may_be_the_first_part_of_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: resolve("127.0.0.1", *rest, **more)
    )  # not every resolver knows the names below `localhost`
    with S3Server(is_virtual=True) as store:
        store.add("models", "m.bin", DATA)

        [one] = signed(buckets(store, style="virtual"))

        assert one.address.startswith(f"http://models.localhost:{store.port}/m.bin?")
        assert (one.size_bytes, fetched(one)) == (len(DATA), DATA)


def test_a_public_bucket_needs_no_keys_and_gets_none(
    store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.public.add("models")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDMINE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")

    [one] = signed(buckets(store, names=False))

    assert (one.address, fetched(one)) == (f"{store.url}/models/m.bin", DATA)
    assert not [each for each in store.requests if "authorization" in each.headers]


def test_without_an_entry_this_machines_own_configuration_opens_a_bucket(
    store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", VALUES["AK"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", VALUES["SK"])
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    known = replace(buckets(store), places={}, secrets=())

    [one] = signed(known)

    assert fetched(one) == DATA


def test_where_it_may_not_this_machines_own_configuration_opens_nothing(
    store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", VALUES["AK"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", VALUES["SK"])
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody: what is Amazon's is not asked here

    [one] = signed(replace(buckets(store), places={}, secrets=()), uses_aws=False)

    assert one.address == "https://models.s3.us-east-1.amazonaws.com/m.bin"
    assert store.requests == []


def test_keys_of_this_machine_that_a_public_bucket_does_not_know_are_left_out(
    store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.public.add("models")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDMINE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)

    [one] = signed(replace(buckets(store), places={}, secrets=()))

    assert (one.address, fetched(one)) == (f"{store.url}/models/m.bin", DATA)


REFUSED = {
    "a missing key": ({"url": "s3://models/none.bin"}, "not_found", "bucket_key", "fix_profile"),
    "no such bucket": (
        {"url": "s3://models/m.bin", "bucket": "other"},
        "not_found",
        "bucket_name",
        "fix_profile",
    ),
    "a wrong region": ({"region": "eu-west-1"}, "unauthorized", "bucket_region", "fix_profile"),
    "an unknown access key": (
        {"values": {**VALUES, "AK": "AKIDOTHER"}},
        *("unauthorized", "bucket_access_key", "fix_credentials"),
    ),
    "a wrong secret key": (
        {"values": {**VALUES, "SK": "other"}},
        *("unauthorized", "bucket_secret_key", "fix_credentials"),
    ),
    "an expired token": ({"token": "old"}, "unauthorized", "bucket_token", "fix_credentials"),
    "a clock that is 20 minutes off": ({"off_s": 1200}, "unauthorized", "bucket_clock", "fix_credentials"),
    "a clock that is 20 minutes late": ({"off_s": -1200}, "unauthorized", "bucket_clock", "fix_credentials"),
    "keys that are not set": (
        {"values": {"AK": "A"}},
        "unauthorized",
        "bucket_keys_unset",
        "fix_credentials",
    ),
    "nothing below a prefix": ({"url": "s3://models/none/"}, "not_found", "bucket_empty", "fix_profile"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_store_refuses_is_told_before_a_run_with_a_hint_and_what_to_do_next(
    store: S3Server, what: str
) -> None:
    asked, class_, case, next_ = REFUSED[what]
    values, place = dict(asked.get("values", VALUES)), {}
    if "region" in asked:
        place["region"] = asked["region"]
    if "token" in asked:
        store.expired_tokens.add(asked["token"])
        place["session_token"], values["ST"] = "ST", asked["token"]
    store.clock = lambda: time.time() + asked.get("off_s", 0)
    known = buckets(store, asked.get("url", "s3://models/m.bin"), **place)
    if "bucket" in asked:
        store._objects["elsewhere"] = store._objects.pop("models")

    [one] = signed(known, values)

    failure = one.failure
    assert failure is not None and one.address == ""
    assert (failure.class_, failure.case) == (class_, case), failure.message
    assert next_of_kinds([(failure.class_, failure.case)]) == next_
    assert failure.hint and not any(value in f"{failure.message}{failure.hint}" for value in VALUES.values())


def test_what_is_refused_to_this_machine_is_signed_all_the_same(store: S3Server) -> None:
    store.denied.add("m.bin")

    [one] = signed(buckets(store))

    assert one.failure is None and "X-Amz-Signature=" in one.address


def test_a_store_that_this_machine_cannot_reach_is_signed_for_all_the_same(store: S3Server) -> None:
    known = buckets(store)
    store.close()

    [one] = signed(known)

    assert one.failure is None and "X-Amz-Signature=" in one.address


def test_without_botocore_one_sentence_says_what_to_type(
    store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)

    with pytest.raises(UsageError, match="needs `botocore`") as raised:
        signed(buckets(store))

    assert "pip install '.[s3]'" in str(raised.value.hint)
    store.public.add("models")
    assert fetched(signed(buckets(store, names=False))[0]) == DATA


def test_an_instance_gets_addresses_of_what_its_profile_names_and_of_nothing_else(store: S3Server) -> None:
    known = replace(
        buckets(store, "s3://models/m.bin"),
        sources=(BucketSource("s3://models/m.bin"), BucketSource("s3://models/l/", ("*.safetensors",))),
    )
    asked = [
        *(
            "s3://models/m.bin",
            "s3://models/other.bin",
            "s3://other/m.bin",
            "gs://models/m.bin",
            "s3://models/l/",
        ),
        *(
            "s3://models/l/a.safetensors",
            "s3://models/l/a.bin",
            "s3://models/",
            "https://x/",
            "s3://models/l/../k",
        ),
    ]

    assert [each.url for each in known.only(asked).sources] == [
        "s3://models/m.bin",
        "s3://models/l/a.safetensors",
    ]


def test_what_many_instances_want_at_once_is_asked_for_once(store: S3Server) -> None:
    store.add("models", "l/1.bin", DATA)
    known, shared = buckets(store, "s3://models/m.bin", "s3://models/l/"), SharedSigning()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: shared(known, VALUES, lives_s=3600), range(8)))

    assert all(each == found[0] for each in found) and len(store.requests) == 2
    shared(known, {**VALUES, "SK": "other"}, lives_s=3600)
    assert len(store.requests) > 2, "other keys are another question"


@pytest.mark.parametrize(
    ("scheme", "bucket", "place", "url"),
    [
        ("s3", "models", BucketPlace(region="eu-west-1"), "https://models.s3.eu-west-1.amazonaws.com/a%20b"),
        ("s3", "my.models", BucketPlace(), "https://s3.us-east-1.amazonaws.com/my.models/a%20b"),
        (
            *("s3", "models", BucketPlace(region="cn-north-1")),
            "https://models.s3.cn-north-1.amazonaws.com.cn/a%20b",
        ),
        (
            *("s3", "models", BucketPlace(endpoint="https://x.r2.cloudflarestorage.com")),
            "https://x.r2.cloudflarestorage.com/models/a%20b",
        ),
        ("gs", "models", BucketPlace(), "https://storage.googleapis.com/models/a%20b"),
        (
            *("gs", "models", BucketPlace(style="virtual")),
            "https://models.storage.googleapis.com/a%20b",
        ),
    ],
)
def test_an_address_is_written_as_its_store_wants_it(
    scheme: str, bucket: str, place: BucketPlace, url: str
) -> None:
    store = Store(scheme, bucket, place, httpx.Client(), Keys("AKID", "hush"))

    assert store.url_of("a b") == url
    assert store.address_of("a b", lives_s=10**9).startswith(f"{url}?")
    assert "X-Amz-Expires=604800&" in store.address_of("a b", lives_s=10**9)


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://x.r2.cloudflarestorage.com", "auto"),
        ("https://s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("https://s3.fr-par.scw.cloud", "us-east-1"),
        ("https://s3.eu-central-1.wasabisys.com", "eu-central-1"),
        ("https://minio.example", "us-east-1"),
    ],
)
def test_a_region_that_nobody_says_is_the_one_that_the_stores_name_tells(endpoint: str, region: str) -> None:
    store = Store("s3", "models", BucketPlace(endpoint=endpoint), httpx.Client(), Keys("AKID", "hush"))

    assert f"%2F{region}%2Fs3%2F" in store.address_of("a", lives_s=60)
