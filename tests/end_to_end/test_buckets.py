"""Models in buckets: the keys stay here, signed addresses reach the instance in memory, and are signed anew when they stop working."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from harness.content import Content
from harness.s3_server import Refusal, S3Server

from .conftest import Here, eventually
from .server import Server
from .test_secrets import ArgvWatch
from .test_server import order

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


def holders(here: Here, text: str) -> list[str]:
    """The files of both sides that have *text* in them."""
    files = [path for path in here.folder.parent.rglob("*") if path.is_file()]
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
        assert holders(here, text) == []
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
    without = here.spawn("attach", "d", "--json")
    eventually(lambda: "no new address can be signed here" in here.said(without), 20.0)
    without.send_signal(signal.SIGINT)
    assert here.finish(without).code == 130, "whoever has no keys leaves the question open"
    done = here.run("attach", "d", "--json", environment=KEYS)

    assert done.code == 0, done.stdout[-2000:] + done.stderr
    assert (here.instance.workspace / "m/big.safetensors").read_bytes() == content.bytes()


def test_what_is_not_there_is_told_by_check_and_plan_before_a_run(here: Here, store: S3Server) -> None:
    store.add("models", "there.bin", b"x" * 100)
    profile = profile_of(
        here,
        store,
        """
  - {url: "s3://models/there.bin", path: there.bin}
  - {url: "s3://models/gone.bin", path: gone.bin, level: critical}
  - {url: "s3://models/none/", path: n/, level: optional}
""",
    )

    checked = here.run("check", profile, "--online", "--json", environment=KEYS)
    planned = here.run("plan", profile, "--json", environment=KEYS)
    unset = here.run("check", profile, "--online", "--json")

    rows = {row["item"]: row for row in checked.lines[0]["sources"]}
    assert checked.code == 1
    assert (rows["there.bin"]["state"], rows["there.bin"]["size_bytes"]) == ("ok", 100)
    assert (rows["gone.bin"]["class"], "NoSuchKey" in rows["gone.bin"]["message"]) == ("not_found", True)
    assert "taken as it stands" in rows["gone.bin"]["hint"]
    states = {file["item"]: file["state"] for file in planned.lines[0]["files"]}
    assert states["gone.bin"] == "unavailable"
    assert "R2_ACCESS" in unset.lines[0]["sources"][0]["message"]
    assert "R2_ACCESS" in unset.stderr


def test_without_botocore_a_run_is_not_begun_and_one_sentence_says_what_to_type(
    here: Here, store: S3Server
) -> None:
    (here.folder / "shadow").mkdir()
    (here.folder / "shadow" / "botocore.py").write_text("raise ImportError('not here')")
    profile = profile_of(here, store, '  - {url: "s3://models/m.bin", path: m.bin}')

    done = here.up(profile, environment={**KEYS, "PYTHONPATH": str(here.folder / "shadow")})

    assert done.code == 2
    [error] = done.outcome["errors"]
    assert "needs `botocore`" in error["message"] and "pip install '.[s3]'" in error["hint"]
    assert not (here.instance.workspace / ".provision" / "runs").exists()


def test_a_server_opens_buckets_with_the_secrets_that_it_holds_for_profiles(
    here: Here, store: S3Server
) -> None:
    store.add("models", "m.bin", b"m" * 1000)
    words = ("--secret", "R2_ACCESS", "--secret", "R2_SECRET")
    server = Server(here.folder.parent / "server", *words, environment=KEYS)
    server.start()
    try:
        profile = profile_of(here, store, '  - {url: "s3://models/m.bin", path: m.bin, level: critical}')

        server.post("/api/runs", order(here.instance, Path(profile).read_text(), run_id="one"))

        assert server.outcome("one")["verdict"] == "complete"
    finally:
        server.close()
    assert (here.instance.workspace / "m.bin").read_bytes() == b"m" * 1000
    assert holders(here, SECRET) == []
