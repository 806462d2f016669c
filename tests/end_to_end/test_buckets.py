"""Models in buckets: the keys stay here, signed addresses reach the instance in memory, and are signed anew when they stop working."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from urllib.parse import parse_qsl

import pytest
from harness.content import Content
from harness.downloads import eventually
from harness.s3_server import Refusal, S3Server

from .conftest import Here
from .test_secrets import ArgvWatch

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
EXPIRED = Refusal(403, "AccessDenied", "Request has expired")
KEYS = {"R2_ACCESS": "AKIDEXAMPLE", "R2_SECRET": SECRET}


@pytest.fixture
def store() -> Iterator[S3Server]:
    with S3Server() as store:
        yield store


def profile_of(here: Here, store: S3Server, downloads: str) -> str:
    return here.profile(
        f"""
version: 1
secrets: {{R2_ACCESS: {{}}, R2_SECRET: {{}}}}
buckets:
  models: {{endpoint: "{store.url}", access_key: R2_ACCESS, secret_key: R2_SECRET}}
downloads:
{downloads}
"""
    )


def up_words(here: Here, profile: str) -> list[str]:
    where = ["--workspace", str(here.instance.workspace)]
    return ["up", *here.connection(), "--profile", profile, *where]


def test_an_object_and_a_prefix_arrive_by_signed_addresses(here: Here, store: S3Server) -> None:
    content = Content.safetensors(1 << 20, seed=1)
    store.add("models", "a b+ü.safetensors", content.bytes())
    store.add("models", "loras/one.safetensors", content.bytes())
    store.add("models", "loras/notes.txt", b"no")
    profile = profile_of(
        here,
        store,
        """
  - {url: "s3://models/a b+ü.safetensors", path: m/a.safetensors, level: critical}
  - {url: "s3://models/loras/", path: l/, include: ["*.safetensors"]}
""",
    )

    done = here.up(profile, environment=KEYS)

    assert done.code == 0, done.stdout[-3000:] + done.stderr
    assert (here.instance.workspace / "m/a.safetensors").read_bytes() == content.bytes()
    assert (here.instance.workspace / "l/one.safetensors").read_bytes() == content.bytes()
    assert not (here.instance.workspace / "l/notes.txt").exists()


class Everywhere:
    """What may stand in no file, log, event, argument or environment of either side, but where it was given."""

    def __init__(self, here: Here) -> None:
        self._here = here

    def holds(self, text: str) -> list[str]:
        """The files of both sides that have *text* in them."""
        roots = (self._here.instance.workspace, self._here.folder)
        files = [path for root in roots for path in root.rglob("*") if path.is_file()]
        return [str(path) for path in files if text.encode() in path.read_bytes()]


def test_addresses_that_expire_are_signed_anew_and_nothing_of_a_key_stands_anywhere(
    here: Here, store: S3Server
) -> None:
    content = Content.safetensors(6 << 20, seed=2)
    store.add("models", "big.safetensors", content.bytes())
    store.cut_after = 1 << 19
    served: list[str] = []

    def expire_once(key: str) -> None:
        served.append(key)
        if len(served) == 6:
            store.cut_after = None
            store.expire()
            raise EXPIRED

    store.on_file = expire_once
    profile = profile_of(
        here, store, '  - {url: "s3://models/big.safetensors", path: m/big.safetensors, level: critical}'
    )

    with ArgvWatch(SECRET, "R2_SECRET") as keys, ArgvWatch("X-Amz-Signature") as argv:
        done = here.up(profile, environment=KEYS)

    assert done.code == 0, done.stdout[-3000:] + done.stderr
    assert (here.instance.workspace / "m/big.safetensors").read_bytes() == content.bytes()
    assert [len(done.named(name)) for name in ("sources_needed", "sources_given")] == [1, 1]
    assert done.named("sources_needed")[0]["urls"] == ["s3://models/big.safetensors"]
    assert store.bytes_sent < 8 << 20, "what had landed was kept"
    signatures = {dict(parse_qsl(each.query)).get("X-Amz-Signature", "") for each in store.files()}
    assert len(signatures - {""}) == 2
    for text in (SECRET, *(signatures - {""})):
        assert Everywhere(here).holds(text) == []
    assert (keys.seen, argv.seen) == ([], [])
    assert argv.looks > 10


def test_with_nobody_here_the_file_waits_and_a_later_attach_signs_for_it(here: Here, store: S3Server) -> None:
    content = Content.safetensors(2 << 20, seed=3)
    store.add("models", "big.safetensors", content.bytes())
    left = threading.Event()

    def expire_first(key: str) -> None:
        if not left.is_set():
            left.set()
            store.expire()
            raise EXPIRED

    store.on_file = expire_first
    profile = profile_of(
        here, store, '  - {url: "s3://models/big.safetensors", path: m/big.safetensors, level: critical}'
    )

    begun = here.run(*up_words(here, profile), "--detach", "--run-id", "d", environment=KEYS)
    assert begun.code == 0, begun.stderr
    eventually(lambda: any(event["event"] == "sources_needed" for event in here.agent_events("d")))
    waiting = [event for event in here.agent_events("d") if event["event"] == "download_waiting"]
    assert "a new one is asked for" in waiting[-1]["reason"]
    done = here.run("attach", "d", "--json", environment=KEYS)

    assert done.code == 0, done.stdout[-2000:] + done.stderr
    assert (here.instance.workspace / "m/big.safetensors").read_bytes() == content.bytes()
