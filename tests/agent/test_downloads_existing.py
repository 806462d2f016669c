"""What is known of a file that is there already: its hash is never forgotten while nobody has touched it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.content import Content
from harness.downloads import Bench
from harness.file_server import Fault, FileServer
from provision_agent.contract.plan import Download, Substitute
from provision_agent.downloads import existing

CONTENT = Content.safetensors(50_000)
OTHER = Content.safetensors(50_000, seed=9)


def flip(path: Path) -> None:
    """Another byte, of the same size and the same time, as rot does it."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(40_000)
        byte = file.read(1)
        file.seek(40_000)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def recorded(bench: Bench, item: Download) -> str | None:
    return existing.record_of(bench.context, item).sha256


def test_the_hash_is_kept_when_the_same_file_gets_another_url(bench: Bench, server: FileServer) -> None:
    first = Download(url=server.add("/a", CONTENT), path="m.safetensors")
    second = Download(url=server.add("/b", CONTENT), path="m.safetensors")
    bench.fetch_one(first)

    assert bench.fetch_one(second).state == "skipped"
    assert recorded(bench, second) == CONTENT.sha256
    assert server.bytes_sent("/b") < CONTENT.size
    asked = len(server.requests)
    assert bench.fetch_one(second).state == "skipped"
    assert len(server.requests) == asked, "now it is known to be the file of that source"


def test_the_hash_is_kept_when_a_mirror_had_brought_it_and_nobody_is_asked(
    bench: Bench, server: FileServer
) -> None:
    gone = server.add("/gone", CONTENT, Fault(status=404))
    item = Download(url=gone, mirrors=(server.add("/mirror", CONTENT),), path="m.safetensors")
    bench.fetch_one(item)
    asked = len(server.requests)

    assert bench.fetch_one(item).state == "skipped"
    assert (recorded(bench, item), len(server.requests)) == (CONTENT.sha256, asked)
    os.utime(bench.path("m.safetensors"))
    assert bench.fetch_one(item).state == "skipped", "touched, read, and right"
    assert (recorded(bench, item), len(server.requests)) == (CONTENT.sha256, asked)


def test_the_hash_is_kept_when_a_file_of_a_folder_is_named_in_full(bench: Bench, server: FileServer) -> None:
    url = server.add("/m.safetensors", CONTENT)
    bench.fetch_one(Download(url=url, path="m/"))
    asked = len(server.requests)

    assert bench.fetch_one(Download(url=url, path="m/m.safetensors")).state == "skipped"
    assert recorded(bench, Download(url=url, path="m/m.safetensors")) == CONTENT.sha256
    assert len(server.requests) == asked


@pytest.mark.parametrize("second", ["the same", "a mirror", "another url"])
def test_a_byte_that_changed_with_the_time_is_found_by_the_hash_of_the_first_download(
    second: str, bench: Bench, server: FileServer
) -> None:
    """However often the source has changed since."""
    a, b = server.add("/a", CONTENT), server.add("/b", CONTENT)
    item = Download(url=a, path="m.safetensors")
    again = {
        "the same": item,
        "a mirror": Download(url=a, mirrors=(b,), path="m.safetensors"),
        "another url": Download(url=b, path="m.safetensors"),
    }[second]
    bench.fetch_one(item)
    bench.fetch_one(again)
    flip(bench.path("m.safetensors"))
    os.utime(bench.path("m.safetensors"))

    assert bench.fetch_one(again).state == "ok"
    assert bench.path("m.safetensors").read_bytes() == CONTENT.bytes()


def test_a_file_that_was_there_before_and_has_no_hash_is_said_to_be_of_the_right_size_only(
    bench: Bench, server: FileServer
) -> None:
    bench.path("m.safetensors").write_bytes(CONTENT.bytes())
    item = Download(url=server.add("/m", CONTENT), path="m.safetensors")

    reasons = [bench.fetch_one(item) and bench.named("skipped")[-1]["reason"] for _ in range(2)]

    assert reasons == ["present, size only"] * 2


def test_a_substitute_of_the_same_size_is_never_taken_for_the_file_itself(
    bench: Bench, server: FileServer
) -> None:
    url = server.add("/m", CONTENT, Fault(status=404))
    instead = Substitute(server.add("/other", OTHER), "m.safetensors")
    item = Download(url=url, path="m.safetensors", size_bytes=CONTENT.size, substitute=instead)
    bench.fetch_one(item)
    assert bench.path("m.safetensors").read_bytes() == OTHER.bytes()
    server.add("/m", CONTENT)

    assert bench.fetch_one(item).state == "ok"
    assert bench.path("m.safetensors").read_bytes() == CONTENT.bytes()


def test_a_file_that_its_owner_may_not_read_any_more_is_made_readable(
    bench: Bench, server: FileServer
) -> None:
    item = Download(url=server.add("/m", CONTENT), path="m.safetensors")
    bench.fetch_one(item)
    bench.path("m.safetensors").chmod(0)

    assert bench.fetch_one(item).state == "skipped"
    assert bench.path("m.safetensors").stat().st_mode & 0o400


def test_a_file_of_a_folder_that_is_there_needs_no_source(bench: Bench, server: FileServer) -> None:
    item = Download(url=server.add("/m.safetensors", CONTENT), path="m/")
    bench.fetch_one(item)
    server.set_faults("/m.safetensors", Fault(status=403))
    asked = len(server.requests)

    assert bench.fetch_one(item).state == "skipped"
    os.utime(bench.path("m/m.safetensors"), (1, 1))
    assert bench.fetch_one(item).state == "skipped", "touched, read, and right"
    assert len(server.requests) == asked
    bench.path("m/m.safetensors").unlink()
    assert bench.fetch_one(item).state == "failed"


def test_a_file_that_two_items_share_needs_no_source_for_either(bench: Bench, server: FileServer) -> None:
    url = server.add("/m.safetensors", CONTENT)
    items = [Download(url=url, path="m/m.safetensors"), Download(url=url, path="m/")]
    bench.fetch(*items)
    server.set_faults("/m.safetensors", Fault(status=403))

    results = bench.fetch(*items)

    assert [results[item.key].state for item in items] == ["skipped"] * 2
