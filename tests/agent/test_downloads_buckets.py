"""Objects of buckets by addresses that somebody else signed: asked for anew when they stop working, with what has landed kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.content import Content
from harness.downloads import Bench, eventually, quick
from harness.file_server import Fault, FileServer
from provision_agent.contract.buckets import SignedRequest, SignedSource, hidden_parts
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Download
from provision_agent.downloads import Sources
from provision_agent.downloads.sources.signed import SIGNED
from provision_agent.run import late_sources
from provision_agent.run.late_sources import LateSources
from provision_agent.run.workspace import Workspace, resolve

SIZE = 8 << 20
URL = "s3://models/big.safetensors"


def refusal(code: str, message: str = "", more: str = "") -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f"{head}<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>".encode()


EXPIRED = refusal("AccessDenied", "Request has expired")


@pytest.fixture(autouse=True)
def signed() -> Iterator[None]:
    SIGNED.clear()
    yield
    SIGNED.clear()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def address(server: FileServer, seal: str) -> str:
    return f"{server.url('/big.safetensors')}?X-Amz-Date=20260101T000000Z&X-Amz-Signature={seal}"


def give(server: FileServer, seal: str) -> None:
    SIGNED.take([SignedSource(URL, address(server, seal))])


def asking(bench: Bench, answer: Callable[[], None]) -> list[str]:
    """Have *answer* called when a new address is asked for; returns what was asked for."""
    asked: list[str] = []

    def ask(url: str) -> None:
        asked.append(url)
        answer()

    bench.context = replace(bench.context, ask_for=ask)
    return asked


def wanted(**limits: Any) -> Download:
    return Download(URL, "big.safetensors", limits=quick(**limits))


def test_an_address_that_expires_in_the_middle_is_signed_anew_and_the_part_goes_on(
    server: FileServer, bench: Bench
) -> None:
    content = Content.safetensors(SIZE)
    cut = Fault(end_after=1 << 20, min_length=1 << 20)
    server.add("/big.safetensors", content, Fault(status=403, body=EXPIRED, skip=4), cut)
    give(server, "a")

    def sign_anew() -> None:
        server.add("/big.safetensors", content)
        give(server, "b")

    asked = asking(bench, sign_anew)
    done = bench.fetch_one(wanted(connections=1))

    assert done.state == "ok", done.failure
    assert asked == [URL]
    assert bench.path("big.safetensors").read_bytes() == content.bytes()
    resumed = [fields.get("resumed_bytes", 0) for fields in bench.named("sized")]
    assert resumed[-1] > 0
    assert bench.named("waiting")[0]["reason"].endswith("a new one is asked for")


def test_with_nobody_to_sign_a_file_waits_within_its_limit_and_says_what_to_do(
    server: FileServer, bench: Bench
) -> None:
    server.add("/big.safetensors", Content.safetensors(SIZE), Fault(status=403, body=EXPIRED))
    give(server, "a")
    asked = asking(bench, lambda: None)

    done = bench.fetch_one(wanted(file_s=1.0))

    assert asked == [URL]
    assert done.failure is not None and (done.failure.class_, done.failure.case) == (
        "timed_out",
        "sign_again",
    )
    assert "provision attach test" in done.failure.hint and "nobody signed a new one" in done.failure.message
    assert "big.safetensors" not in bench.files()


def test_an_address_that_is_refused_although_it_is_new_is_not_asked_for_for_ever(
    server: FileServer, bench: Bench
) -> None:
    server.add("/big.safetensors", Content.safetensors(SIZE), Fault(status=403, body=EXPIRED))
    give(server, "0")
    asked = asking(bench, lambda: give(server, str(len(asked))))

    done = bench.fetch_one(wanted(attempts=2))

    assert done.state == "failed" and len(asked) < 8
    assert "big.safetensors" not in bench.files()


REFUSED = {
    "a missing key": (404, refusal("NoSuchKey"), "not_found", "bucket_key"),
    "no such bucket": (404, refusal("NoSuchBucket"), "not_found", "bucket_name"),
    "a wrong region": (
        *(400, refusal("AuthorizationQueryParametersError", "the region", "<Region>eu-west-1</Region>")),
        *("unauthorized", "bucket_region"),
    ),
    "a wrong region in words": (
        *(
            400,
            refusal("AuthorizationQueryParametersError", "the region 'a' is wrong; expecting 'eu-west-1'"),
        ),
        *("unauthorized", "bucket_region"),
    ),
    "another region": (301, refusal("PermanentRedirect"), "unauthorized", "bucket_region_unknown"),
    "a clock that is off": (403, refusal("RequestTimeTooSkewed"), "unauthorized", "bucket_clock"),
    "a clock that is late": (
        *(403, refusal("AccessDenied", "Request is not valid yet")),
        *("unauthorized", "bucket_clock"),
    ),
    "an unknown key": (403, refusal("InvalidAccessKeyId"), "unauthorized", "bucket_access_key"),
    "a wrong signature": (403, refusal("SignatureDoesNotMatch"), "unauthorized", "bucket_secret_key"),
    "no right to read": (403, refusal("AccessDenied", "Access Denied"), "unauthorized", "bucket_denied"),
    "an archive": (403, refusal("InvalidObjectState"), "not_found", "bucket_archived"),
    "too many requests": (503, refusal("SlowDown"), "rate_limited", None),
    "a broken store": (500, refusal("InternalError"), "upstream_down", None),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_store_says_has_its_class_and_its_advice(server: FileServer, what: str) -> None:
    status, body, class_, case = REFUSED[what]
    server.add("/big.safetensors", Content.safetensors(1 << 16), Fault(status=status, body=body))
    give(server, "s3cr3t-s3al")

    with pytest.raises(Failure) as raised:
        Sources([], {}).ask(URL, within_s=5.0)

    assert (raised.value.class_, raised.value.case) == (class_, case), raised.value.message
    assert "s3cr3t-s3al" not in raised.value.message + raised.value.hint


def test_what_could_not_be_signed_says_why_in_the_signers_words(bench: Bench) -> None:
    said = Failure("unauthorized", "the token has expired", case="bucket_token", about={"bucket": "models"})
    SIGNED.take([SignedSource.refused(URL, said)])

    done = bench.fetch_one(wanted())
    never = bench.fetch_one(Download("s3://other/m.bin", "m.bin", limits=quick()))

    assert done.failure is not None and never.failure is not None
    assert (done.failure.message, done.failure.hint) == (said.message, said.hint)
    assert never.failure.case == "bucket_unsigned"


def test_a_hash_that_the_store_tells_is_what_the_file_must_be(server: FileServer, bench: Bench) -> None:
    content = Content.safetensors(1 << 20)
    server.add("/big.safetensors", content)
    SIGNED.take([SignedSource(URL, address(server, "a"), sha256="0" * 64)])

    done = bench.fetch_one(wanted())

    assert done.failure is not None and done.failure.class_ == "checksum"
    assert "big.safetensors" not in bench.files()


# -- asking


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = resolve(str(tmp_path / "w"), fallback=False)
    Path(workspace.run_directory("r")).mkdir(parents=True, mode=0o700)
    return workspace


class Asker:
    """A `LateSources` with what it said and what it took."""

    def __init__(self, workspace: Workspace) -> None:
        self.events: list[dict[str, Any]] = []
        self.taken: list[SignedSource] = []
        self.is_over = threading.Event()
        self.late = LateSources(
            late_sources.pipe_of(workspace, "r"), self._report, self._take, self.is_over.is_set
        )

    def _report(self, event: str, **fields: object) -> None:
        self.events.append(dict(fields, event=event))

    def _take(self, sources: Sequence[SignedSource]) -> None:
        self.taken += sources

    def named(self, event: str) -> list[dict[str, Any]]:
        return [each for each in list(self.events) if each["event"] == event]


def handed(workspace: Workspace, *sources: SignedSource) -> bool:
    return late_sources._give(SignedRequest("r", workspace.root, sources)).taken


def test_addresses_come_through_memory_and_only_those_that_were_asked_for(workspace: Workspace) -> None:
    asker = Asker(workspace)
    long = "https://x/?X-Amz-Security-Token=" + "t" * 9000

    asker.late.want("s3://b/1")
    eventually(lambda: bool(asker.named("sources_needed")))
    asker.late.want("s3://b/2")
    eventually(lambda: len(asker.named("sources_needed")) == 2)
    one, two, other = (SignedSource(f"s3://b/{number}", long) for number in (1, 2, 3))

    assert asker.named("sources_needed")[-1]["urls"] == ["s3://b/1", "s3://b/2"]
    assert handed(workspace, one, other)
    eventually(lambda: asker.taken == [one])
    assert handed(workspace, two)
    eventually(lambda: len(asker.named("sources_given")) == 2)
    eventually(lambda: not Path(late_sources.pipe_of(workspace, "r")).exists())
    assert not handed(workspace, one), "nobody waits any more"


def test_nobody_is_asked_any_more_for_what_nobody_wants(workspace: Workspace) -> None:
    asker = Asker(workspace)
    asker.late.want("s3://b/1")
    eventually(lambda: bool(asker.named("sources_needed")))

    asker.late.give_up("s3://b/1")

    eventually(lambda: not Path(late_sources.pipe_of(workspace, "r")).exists())
    asker.late.want("s3://b/2")
    eventually(lambda: len(asker.named("sources_needed")) == 2)
    asker.is_over.set()
    assert asker.named("sources_needed")[-1]["urls"] == ["s3://b/2"]


def test_signatures_and_session_tokens_are_hidden_and_no_more_than_a_few(server: FileServer) -> None:
    sources = [
        SignedSource(
            f"s3://b/{number}", f"https://x/?X-Amz-Security-Token=tok%2Fen&X-Amz-Signature={number:064x}"
        )
        for number in range(500)
    ]

    hidden = hidden_parts(sources)

    assert hidden["the session token of s3://b/0"] == "tok/en"
    assert len(hidden) == 64
    assert json.dumps(hidden)
