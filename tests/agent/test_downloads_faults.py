"""The engine against servers that stall, cut, lie and say no: every file ends right or with the right word."""

from __future__ import annotations

import email.utils
import hashlib
import os
import socket
import threading
import time

import pytest
from harness.downloads import eventually, quick
from harness.file_server import Content, Fault, FileServer
from provision_agent.contract.plan import Download, Substitute
from provision_agent.contract.plan_parts import Limits
from provision_agent.downloads import hosts as hosts_module

MIB = 1 << 20
BIG = MIB // 2
"""Requests for less than this are lookups; faults with it as `min_length` spare them."""


def digest(path: os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


HEALED = {
    "a connection that falls silent": [Fault(stall_after=BIG, times=1)],
    "several connections that fall silent": [Fault(stall_after=BIG, times=3)],
    "a crawling connection": [Fault(slow_after=BIG, bytes_per_s=20_000, times=1)],
    "resets in the middle": [Fault(reset_after=5 * MIB, times=6)],
    "resets in the middle of everything": [Fault(reset_after=2 * MIB, times=20)],
    "a short body": [Fault(end_after=BIG, times=1)],
    "a short body of unknown length": [Fault(end_after=BIG, hide_length=True, times=1)],
    "a body of unknown length": [Fault(hide_length=True)],
    "chunks": [Fault(chunked=True)],
    "chunks without ranges": [Fault(chunked=True, ignore_range=True)],
    "no ranges": [Fault(ignore_range=True)],
    "no ranges but for the lookup": [Fault(ignore_range=True, min_length=BIG)],
    "no ranges and a reset": [
        Fault(ignore_range=True, reset_after=5 * MIB, times=1),
        Fault(ignore_range=True),
    ],
    "errors 500": [Fault(status=500, times=2)],
    "errors 502 in the middle": [Fault(status=502, min_length=BIG, times=5)],
    "an accepted request that is never answered": [Fault(silent=True, min_length=BIG, times=1)],
    "a lookup that is never answered": [Fault(silent=True, times=1)],
    "HEAD is never answered": [Fault(silent=True, methods=("HEAD",))],
    "too many requests, without a word": [Fault(status=429, times=1)],
    "a new ETag in the middle": [Fault(skip=4), Fault(etag='"later"')],
}


@pytest.mark.parametrize("name", HEALED)
def test_the_file_arrives_right_in_spite_of(name, bench, server, monkeypatch):
    monkeypatch.setattr("provision_agent.downloads.http.errors.UNSAID_WAIT_S", 0.3)
    content = Content.safetensors(24 * MIB + 5, seed=7)
    url = server.add("/m.safetensors", content, *HEALED[name])

    result = bench.fetch_one(Download(url=url, path="m.safetensors", limits=quick()))

    assert (result.state, result.failure) == ("ok", None)
    assert digest(bench.path("m.safetensors")) == content.sha256
    assert bench.files() == ["m.safetensors"]


REFUSED = {
    "gone": ("not_found", [Fault(status=404)]),
    "401": ("unauthorized", [Fault(status=401)]),
    "403": ("unauthorized", [Fault(status=403)]),
    "a gated repository": ("gated", [Fault(status=403, headers={"X-Error-Code": "GatedRepo"})]),
    "a missing repository": ("not_found", [Fault(status=401, headers={"X-Error-Code": "RepoNotFound"})]),
    "a web page": ("not_a_model", [Fault(content=Content.of(b"<!DOCTYPE html><html>Log in" + b"x" * 3000))]),
    "an error as JSON": ("not_a_model", [Fault(content=Content.of(b'{"error": "no such model"}'))]),
    "an LFS pointer": (
        "not_a_model",
        [Fault(content=Content.of(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"))],
    ),
    "a wrong size": ("size", [Fault(content=Content.safetensors(2 * MIB))]),
    "a wrong hash": ("checksum", [Fault(content=Content.safetensors(3 * MIB, seed=99))]),
    "no safetensors": ("not_a_model", [Fault(content=Content(3 * MIB, seed=8))]),
    "a compressed body": ("not_a_model", [Fault(headers={"Content-Encoding": "gzip"})]),
    "an endless redirect": ("upstream_down", [Fault(redirect="/m.safetensors")]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_never_under_the_final_name(name, bench, server):
    class_, faults = REFUSED[name]
    content = Content.safetensors(3 * MIB, seed=9)
    url = server.add("/m.safetensors", content, *faults)
    item = Download(
        url=url,
        path="m.safetensors",
        size_bytes=None if class_ != "size" else content.size,
        sha256=content.sha256,
    )
    limits = quick(attempts=2)

    result = bench.fetch_one(Download(**dict(vars(item), limits=limits)))

    assert (result.state, result.failure.class_) == ("failed", class_)
    assert result.failure.hint
    assert not bench.path("m.safetensors").exists()


def test_a_refusal_is_asked_for_once(bench, server):
    url = server.add("/m.bin", Content(MIB), Fault(status=403))

    bench.fetch_one(Download(url=url, path="m.bin"))

    assert len(server.seen("/m.bin")) == 1


def test_a_page_is_quoted_without_the_secrets_in_it(bench, server):
    bench.secrets = {"HF_TOKEN": "hf_hush"}
    from provision_agent.contract.plan_parts import SecretRule

    bench.rules = (SecretRule("HF_TOKEN", ("huggingface.co",)),)
    page = Content.of(b"<html>please log in as hf_hush at https://x.test/?token=abc</html>")
    url = server.add("/m.gguf", page)

    failure = bench.fetch_one(Download(url=url, path="m.gguf")).failure

    assert "the server sent a page that asks for a login" in failure.message, (
        "and its words, which hold a token, are not quoted"
    )
    assert "hf_hush" not in str(bench.events)
    assert "abc" not in failure.message


def test_after_a_page_instead_of_the_file_the_mirror_is_taken_and_the_page_not_asked_for_again(bench, server):
    content = Content.safetensors(2 * MIB, seed=31)
    page = server.add("/page/m.safetensors", Content.of(b"<!DOCTYPE html><title>Just a moment"))
    mirror = server.add("/mirror/m.safetensors", content)

    result = bench.fetch_one(
        Download(url=page, mirrors=(mirror,), path="m.safetensors", sha256=content.sha256)
    )

    assert result.state == "ok"
    assert len(server.seen("/page/m.safetensors")) == 1
    assert [event["substitute"] for event in bench.named("switched")] == [False]


def test_a_handshake_that_is_never_answered_is_bounded(bench):
    """Accepted, and then not a byte: the kernel's backlog is all that this listener has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/m.bin"
        began = time.monotonic()
        failure = bench.fetch_one(Download(url=url, path="m.bin", limits=quick(attempts=1))).failure

    assert failure.class_ == "unreachable"
    assert time.monotonic() - began < 10.0


def test_what_failed_is_fetched_by_the_next_run_and_nothing_else(bench, server):
    items = []
    for number in range(5):
        faults = [Fault(status=404)] if number < 3 else []
        url = server.add(f"/{number}", Content.safetensors(MIB, number), *faults)
        items.append(Download(url=url, path=f"{number}.safetensors"))
    first = bench.fetch(*items)
    for number in range(3):
        server.set_faults(f"/{number}")
    before = {number: len(server.seen(f"/{number}")) for number in range(5)}

    second = bench.fetch(*items)

    assert [first[item.path].state for item in items] == ["failed"] * 3 + ["ok"] * 2
    assert [second[item.path].state for item in items] == ["ok"] * 3 + ["skipped"] * 2
    assert all(len(server.seen(f"/{number}")) == before[number] for number in (3, 4))


def test_a_silent_connection_costs_seconds_not_the_file(bench, server):
    content = Content(64 * MIB, seed=10)
    url = server.add(
        "/m.bin", content, Fault(stall_after=MIB, times=1), Fault(bytes_per_s=20 * MIB, min_length=BIG)
    )

    began = time.monotonic()
    bench.fetch_one(Download(url=url, path="m.bin"))

    assert time.monotonic() - began < 5.0
    assert digest(bench.path("m.bin")) == content.sha256


def test_a_stall_is_told_and_a_mirror_goes_on_with_the_bytes(bench, server):
    """Fast for a moment, then 8 KB/s for ever: given up within the stall's window, not at the file's limit."""
    content = Content.safetensors(12 * MIB, seed=11)
    slow = server.add("/slow", content, Fault(slow_after=2 * MIB, bytes_per_s=8_000))
    fast = server.add("/fast", content)
    item = Download(url=slow, mirrors=(fast,), path="m.safetensors", sha256=content.sha256, limits=quick())

    began = time.monotonic()
    result = bench.fetch_one(item, limits=Limits(connections=1))

    assert result.state == "ok"
    assert time.monotonic() - began < 6.0
    names = bench.names("m.safetensors")
    assert names.index("stalled") < names.index("switched") < names.index("finished")
    assert bench.named("switched")[0]["substitute"] is False
    assert server.bytes_sent("/fast") < content.size - MIB
    assert digest(bench.path("m.safetensors")) == content.sha256


def test_a_mirror_without_a_hash_to_prove_it_starts_anew(bench, server):
    first, second = Content(6 * MIB, seed=12), Content(6 * MIB, seed=13)
    slow = server.add("/slow", first, Fault(stall_after=2 * MIB))
    other = server.add("/other", second)

    bench.fetch_one(
        Download(url=slow, mirrors=(other,), path="m.bin", limits=quick()), limits=Limits(connections=1)
    )

    assert digest(bench.path("m.bin")) == second.sha256


def test_when_every_source_says_no_the_substitute_is_taken_and_called_one(bench, server):
    content = Content(MIB, seed=14)
    item = Download(
        url=server.url("/no"),
        mirrors=(server.url("/neither"),),
        path="wanted.bin",
        sha256="0" * 64,
        substitute=Substitute(server.add("/other", content), "other.bin"),
    )

    result = bench.fetch_one(item)
    again = bench.fetch_one(item)

    assert (result.state, again.state) == ("ok", "skipped")
    assert bench.files() == ["other.bin"]
    switched = bench.named("switched")
    assert [event["substitute"] for event in switched[:2]] == [False, True]
    assert bench.named("finished")[0]["path"] == "other.bin"


def test_when_all_say_no_the_first_word_is_told_and_the_others_named(bench, server):
    item = Download(
        url=server.add("/a", Content(1), Fault(status=403)), mirrors=(server.url("/b"),), path="m.bin"
    )

    failure = bench.fetch_one(item).failure

    assert failure.class_ == "unauthorized"
    assert "127.0.0.1: not_found" in failure.message


def test_attempts_without_progress_are_counted_and_those_with_progress_are_not(bench, server):
    content = Content(8 * MIB, seed=15)
    hopeless = server.add("/hopeless", content, Fault(status=500, min_length=BIG))
    slow_but_sure = server.add("/sure", content, Fault(reset_after=256 * 1024))

    results = bench.fetch(
        Download(url=hopeless, path="hopeless", limits=quick(attempts=3)),
        Download(url=slow_but_sure, path="sure", limits=quick(attempts=3)),
        limits=Limits(connections=1),
    )

    assert results["hopeless"].failure.class_ == "upstream_down"
    assert [event["attempt"] for event in bench.named("retried") if event["item"] == "hopeless"] == [1, 2]
    assert results["sure"].state == "ok"
    assert digest(bench.path("sure")) == content.sha256


WAITS = {
    "Retry-After in seconds": {"Retry-After": "1"},
    "RateLimit of the hub": {"RateLimit": '"resolvers";r=0;t=0'},
    "RateLimit-Reset": {"RateLimit-Reset": "0"},
    "a date": {"Retry-After": "DATE"},
}


@pytest.mark.parametrize("name", WAITS)
def test_a_host_that_says_later_is_left_alone_for_so_long_and_no_attempt_is_spent(name, bench, server):
    headers = {
        key: value.replace("DATE", email.utils.formatdate(time.time() + 1))
        for key, value in WAITS[name].items()
    }
    url = server.add("/m.bin", Content(MIB), Fault(status=429, headers=headers, times=2))

    began = time.monotonic()
    result = bench.fetch_one(Download(url=url, path="m.bin", limits=quick(attempts=1)))

    assert result.state == "ok"
    assert 1.5 < time.monotonic() - began < 8.0
    assert [event["host"] for event in bench.named("waiting")] == ["127.0.0.1"] * 2
    assert all(0 < event["wait_s"] <= 2.1 for event in bench.named("waiting"))
    assert not bench.named("retried")


def test_only_the_host_that_says_later_waits(bench, server):
    with FileServer("127.0.0.2") as other:
        busy = server.add("/busy", Content(MIB), Fault(status=429, headers={"Retry-After": "3"}, times=1))
        free = other.add("/free", Content(MIB))
        engine = bench.engine(Download(url=busy, path="busy"), Download(url=free, path="free"))
        engine.start()

        began = time.monotonic()
        eventually(lambda: "free" in engine.results())
        assert time.monotonic() - began < 2.0
        assert "busy" not in engine.results()
        assert engine.wait()
        engine.stop()
        assert engine.results()["busy"].state == "ok"


def test_a_429_in_the_middle_lets_the_other_connections_go_on(bench, server):
    content = Content(64 * MIB, seed=16)
    url = server.add(
        "/m.bin",
        content,
        Fault(status=429, headers={"Retry-After": "1"}, min_length=BIG, skip=3, times=2),
        Fault(bytes_per_s=20 * MIB, min_length=BIG),
    )

    result = bench.fetch_one(Download(url=url, path="m.bin", limits=quick()))

    assert result.state == "ok"
    assert bench.named("waiting")
    assert digest(bench.path("m.bin")) == content.sha256
    assert server.bytes_sent("/m.bin") < content.size + 24 * MIB


def test_waiting_for_throttles_has_a_bound(bench, server, monkeypatch):
    monkeypatch.setattr("provision_agent.downloads.time_budget.THROTTLED_AT_MOST_S", 1.5)
    url = server.add("/m.bin", Content(MIB), Fault(status=429, headers={"Retry-After": "1"}))

    result = bench.fetch_one(Download(url=url, path="m.bin"))

    assert result.failure.class_ == "rate_limited"
    assert result.failure.retriable


def test_a_host_that_refuses_many_connections_gets_fewer(bench):
    content = Content(48 * MIB, seed=17)
    with FileServer(max_connections=2, bytes_per_s=20 * MIB) as server:
        result = bench.fetch_one(Download(url=server.add("/m.bin", content), path="m.bin", limits=quick()))

        assert result.state == "ok"
        assert digest(bench.path("m.bin")) == content.sha256
        refusals = len(server.seen("/m.bin")) - 10
        assert refusals < 40


def test_a_signed_link_that_expires_is_asked_for_again_and_the_bytes_are_kept(bench, server):
    content = Content.safetensors(48 * MIB, seed=18)
    with FileServer("127.0.0.2") as storage:
        links = []

        def sign() -> str:
            links.append(f"/signed/{len(links)}")
            gone = Fault(status=403, body=b"expired", skip=3)
            storage.add(links[-1], content, gone, Fault(bytes_per_s=20 * MIB, min_length=BIG), etag='"same"')
            return storage.url(links[-1]) + "?X-Amz-Signature=hush"

        url = server.add("/m.safetensors", content, Fault(redirect=sign))

        result = bench.fetch_one(Download(url=url, path="m.safetensors"), limits=Limits(connections=2))

        assert result.state == "ok"
        assert digest(bench.path("m.safetensors")) == content.sha256
        assert len(links) > 1
        assert storage.bytes_sent() < content.size + 20 * MIB
        assert "hush" not in str(bench.events)


def test_a_link_that_is_always_expired_is_given_up(bench, server):
    url = server.add_signed("/m.bin", Content(8 * MIB), uses=1, host="localhost")

    result = bench.fetch_one(Download(url=url, path="m.bin", limits=quick(attempts=2)))

    assert result.state == "failed"
    assert len(server.seen("/m.bin")) < 12


def test_content_that_changes_in_the_middle_is_fetched_anew_and_never_mixed(bench, server):
    old, new = Content.safetensors(16 * MIB, seed=19), Content.safetensors(17 * MIB, seed=20)
    url = server.add("/m.safetensors", old, Fault(reset_after=3 * MIB, bytes_per_s=20 * MIB))
    bench.on_event = lambda name, fields: (
        server.add("/m.safetensors", new) if name == "download_retried" else None
    )

    result = bench.fetch_one(
        Download(url=url, path="m.safetensors", limits=quick()), limits=Limits(connections=2)
    )

    assert result.state == "ok"
    assert digest(bench.path("m.safetensors")) == new.sha256


def test_content_of_the_same_size_that_changes_in_the_middle_is_never_mixed(bench, server):
    old, new = Content.safetensors(16 * MIB, seed=23), Content.safetensors(16 * MIB, seed=24)
    url = server.add("/m.safetensors", old, Fault(reset_after=3 * MIB, bytes_per_s=20 * MIB))
    bench.on_event = lambda name, fields: (
        server.add("/m.safetensors", new) if name == "download_retried" else None
    )

    result = bench.fetch_one(
        Download(url=url, path="m.safetensors", limits=quick()), limits=Limits(connections=2)
    )

    assert result.state == "ok"
    assert digest(bench.path("m.safetensors")) == new.sha256


def test_a_source_that_always_ends_at_once_is_given_up(bench, server):
    url = server.add("/m.bin", Content(8 * MIB), Fault(end_after=0, hide_length=True, min_length=BIG))

    result = bench.fetch_one(Download(url=url, path="m.bin", limits=quick(attempts=2)))

    assert result.failure.class_ == "truncated"


def test_a_source_that_contradicts_itself_is_read_in_one_answer(bench, server):
    """Two nodes with different ETags for one URL: ranges of both must not be mixed."""
    content = Content(8 * MIB, seed=21)
    flapping = [Fault(etag=f'"{n % 2}"', times=1) for n in range(40)]
    url = server.add("/m.bin", content, *flapping)

    result = bench.fetch_one(Download(url=url, path="m.bin", limits=quick()))

    assert result.state == "ok"
    assert digest(bench.path("m.bin")) == content.sha256


def test_a_file_that_takes_longer_than_its_limit_times_out_and_keeps_its_bytes(bench, server):
    url = server.add("/m.bin", Content(32 * MIB), Fault(bytes_per_s=MIB))

    began = time.monotonic()
    result = bench.fetch_one(
        Download(url=url, path="m.bin", limits=quick(file_s=1.5)), limits=Limits(connections=1)
    )

    assert time.monotonic() - began < 3.5
    assert result.failure.class_ == "timed_out"
    assert result.failure.facts["limit_s"] == 1.5
    assert bench.path("m.bin.part").exists()


def test_a_drip_below_the_stall_floor_is_given_up_on(bench, server):
    url = server.add("/m.bin", Content(8 * MIB), Fault(bytes_per_s=5_000))

    began = time.monotonic()
    result = bench.fetch_one(Download(url=url, path="m.bin", limits=quick(attempts=2)))

    assert result.failure.class_ == "stalled"
    assert time.monotonic() - began < 10.0
    assert len(bench.named("stalled")) == 2


def test_a_port_that_nobody_listens_on_is_unreachable(bench):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/m.bin"

        result = bench.fetch_one(Download(url=url, path="m.bin", limits=quick(attempts=2)))

    assert result.failure.class_ == "unreachable"
    assert "refused" in result.failure.message.lower()


def test_a_name_that_does_not_exist_is_unreachable(bench):
    result = bench.fetch_one(
        Download(url="http://no-such-host.invalid/m.bin", path="m.bin", limits=quick(attempts=1))
    )

    assert result.failure.class_ == "unreachable"
    assert "no-such-host.invalid" in result.failure.message


def test_a_folder_that_cannot_be_written_is_said_so(bench, server):
    bench.path("models").write_text("a file where a folder should be")

    result = bench.fetch_one(Download(url=server.add("/m.bin", Content(10)), path="models/m.bin"))

    assert result.failure.class_ == "conflict", "the profile or the disk must change, not the instance"


def test_two_engines_never_write_one_file(bench, server):
    content = Content(24 * MIB, seed=22)
    url = server.add("/m.bin", content, Fault(bytes_per_s=4 * MIB, min_length=BIG))
    first, second = (
        bench.engine(Download(url=url, path="m.bin")),
        bench.engine(Download(url=url, path="m.bin")),
    )

    first.start()
    eventually(lambda: server.bytes_sent("/m.bin") > MIB)
    second.start()

    assert first.wait()
    assert second.wait()
    first.stop()
    second.stop()
    assert {first.results()["m.bin"].state, second.results()["m.bin"].state} == {"ok", "skipped"}
    assert digest(bench.path("m.bin")) == content.sha256
    assert server.bytes_sent("/m.bin") < content.size + 4 * MIB
    assert any(event.get("reason") for event in bench.named("waiting"))


def test_no_thread_outlives_the_engine(bench, server):
    before = set(threading.enumerate())
    url = server.add("/m.bin", Content(MIB), Fault(stall_after=1000))
    engine = bench.engine(Download(url=url, path="m.bin"))
    engine.start()
    eventually(lambda: server.bytes_sent("/m.bin") > 0)

    bench.cancelled.set()
    engine.stop()

    ours = {
        thread
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith(("fetch", "file", "sha"))
    }
    assert not ours


def test_hosts_halve_and_recover():
    now = [0.0]
    hosts = hosts_module.Hosts({}, clock=lambda: now[0])

    now[0] = 10.0
    hosts.refused("x.test", 8)
    assert hosts.allowed("x.test") == 4
    now[0] += 2.0
    hosts.refused("x.test", 4)
    assert hosts.allowed("x.test") == 2
    now[0] += hosts_module.ONE_MORE_AFTER_S
    assert hosts.allowed("x.test") == 3
