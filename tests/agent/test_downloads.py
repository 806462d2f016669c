"""The engine against an honest server: what arrives, in which order, with how many connections, fetched how often."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time

from harness.downloads import eventually, quick
from harness.file_server import Content, Fault, FileServer
from provision_agent.contract.plan import Download
from provision_agent.contract.plan_parts import HostLimits, ItemLimits, Limits
from provision_agent.downloads.engine.part_file import PartFile

MIB = 1 << 20


def digest(path: os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def test_a_file_arrives_whole_under_its_final_name_and_leaves_nothing_else(bench, server):
    content = Content.safetensors(40 * MIB + 17, seed=1)
    item = Download(url=server.add("/m.safetensors", content), path="models/m.safetensors")

    result = bench.fetch_one(item)

    assert (result.state, result.failure, result.bytes_downloaded) == ("ok", None, content.size)
    assert digest(bench.path("models/m.safetensors")) == content.sha256
    assert bench.files() == ["models/m.safetensors"]
    finished = bench.named("finished")[0]
    assert (finished["bytes"], finished["sha256"]) == (content.size, content.sha256)


def test_events_tell_a_life_in_order_and_progress_ends_at_the_whole(bench, server):
    content = Content(3 * MIB, seed=2)
    item = Download(url=server.add("/m.bin", content) + "?token=hush", path="m.bin", level="critical")

    bench.fetch_one(item)

    assert bench.names("m.bin") == ["queued", "started", "sized", "finished"]
    assert all(event["level"] == "critical" for event in bench.events)
    assert bench.named("progress")[-1]["bytes"] == content.size
    assert "hush" not in str(bench.events)


def test_progress_is_told_at_most_twice_a_second(bench, server):
    url = server.add("/m.bin", Content(4 * MIB), Fault(bytes_per_s=2 * MIB))

    bench.fetch_one(Download(url=url, path="m.bin"), limits=Limits(connections=1))

    assert 2 <= len(bench.named("progress")) <= 2 + 2 * 3


def test_started_is_said_before_anything_can_block(bench, server):
    url = server.add("/m.bin", Content(10), Fault(silent=True))
    engine = bench.engine(Download(url=url, path="m.bin", limits=quick()))

    began = time.monotonic()
    engine.start()
    eventually(lambda: bool(bench.named("started")), within_s=1.0)

    assert time.monotonic() - began < 1.0
    bench.cancelled.set()
    engine.stop()


def test_an_empty_file_and_one_of_a_single_byte_arrive(bench, server):
    items = [
        Download(url=server.add(f"/{size}.bin", Content(size)), path=f"{size}.bin")
        for size in (0, 1, 1024, 1025)
    ]

    results = bench.fetch(*items)

    assert {path: result.state for path, result in results.items()} == {
        f"{n}.bin": "ok" for n in (0, 1, 1024, 1025)
    }
    assert [bench.path(item.path).stat().st_size for item in items] == [0, 1, 1024, 1025]


def test_one_file_is_fetched_over_several_connections_and_each_byte_once(bench, server):
    content = Content(64 * MIB, seed=3)
    url = server.add("/m.bin", content, Fault(bytes_per_s=20 * MIB))

    bench.fetch_one(Download(url=url, path="m.bin"))

    assert server.peak("/m.bin") >= 8
    assert digest(bench.path("m.bin")) == content.sha256
    assert server.bytes_sent("/m.bin") < content.size + 16 * MIB


def test_four_files_are_fetched_at_once_and_wall_time_is_that_of_the_longest(bench, server):
    contents = [Content(2 * MIB, seed=n) for n in range(4)]
    items = [
        Download(url=server.add(f"/{n}.bin", content, Fault(bytes_per_s=MIB)), path=f"{n}.bin")
        for n, content in enumerate(contents)
    ]

    began = time.monotonic()
    bench.fetch(*items, limits=Limits(files=4, connections=1))

    assert time.monotonic() - began < 2 * 2.0 * 1.5
    assert server.peak_connections == 4


def test_limits_of_the_plan_are_the_most(bench, server):
    items = [
        Download(
            url=server.add(f"/{n}.bin", Content(40 * MIB, n), Fault(bytes_per_s=40 * MIB)), path=f"{n}.bin"
        )
        for n in range(3)
    ]

    bench.fetch(*items, limits=Limits(files=1, connections=2))

    assert server.peak_connections <= 2
    assert max(server.peak(f"/{n}.bin") for n in range(3)) == 2


def test_a_host_that_takes_one_file_and_one_connection_gets_no_more(bench, server):
    items = [
        Download(
            url=server.add(f"/{n}.bin", Content(20 * MIB, n), Fault(bytes_per_s=40 * MIB)), path=f"{n}.bin"
        )
        for n in range(3)
    ]

    bench.fetch(*items, limits=Limits(hosts={"127.0.0.1": HostLimits(files=1, connections=1)}))

    assert server.peak_connections == 1


def test_a_rate_is_kept_by_all_connections_together(bench, server):
    items = [Download(url=server.add(f"/{n}.bin", Content(2 * MIB, n)), path=f"{n}.bin") for n in range(2)]

    began = time.monotonic()
    bench.fetch(*items, limits=Limits(rate_bytes_per_s=2 * MIB))

    assert 1.6 < time.monotonic() - began < 4.0


def test_critical_files_come_first_then_required_ones_each_longest_first(bench, server):
    sizes = {"small": 1, "large": 3}
    items = [
        Download(url=server.add(f"/{level}-{size}", Content(mib * MIB)), path=f"{level}-{size}", level=level)
        for level in ("optional", "required", "critical")
        for size, mib in sizes.items()
    ]
    engine = bench.engine(*items, limits=Limits(files=1))

    engine.preflight()
    engine.start()
    assert engine.wait()
    engine.stop()

    order = [event["item"] for event in bench.named("started")]
    assert order == [
        f"{level}-{size}" for level in ("critical", "required", "optional") for size in ("large", "small")
    ]


def test_what_is_wanted_sooner_goes_before_longer_files_of_its_level_and_not_before_another_level(
    bench, server
):
    sizes = {"small": 1, "middle": 2, "large": 3}
    items = [
        Download(url=server.add(f"/{level}-{size}", Content(mib * MIB)), path=f"{level}-{size}", level=level)
        for level in ("required", "critical")
        for size, mib in sizes.items()
    ]
    engine = bench.engine(*items, limits=Limits(files=1), sooner={"critical-middle", "required-small"})

    engine.preflight()
    engine.start()
    assert engine.wait()
    engine.stop()

    order = [event["item"] for event in bench.named("started")]
    assert order[:3] == ["critical-middle", "critical-large", "critical-small"]
    assert order[3:] == ["required-small", "required-large", "required-middle"]


def test_waiting_for_a_level_does_not_wait_for_the_others(bench, server):
    slow = Download(url=server.add("/slow", Content(10), Fault(silent=True)), path="slow", level="optional")
    fast = Download(url=server.add("/fast", Content(10)), path="fast", level="critical")
    engine = bench.engine(slow, fast)

    engine.start()

    assert engine.wait("critical")
    assert engine.wait("required")  # there is none
    assert set(engine.results()) == {"fast"}
    bench.cancelled.set()
    assert not engine.wait()
    engine.stop()


def test_a_failed_file_stops_no_other(bench, server):
    good = Download(url=server.add("/good", Content(MIB)), path="good")
    bad = Download(url=server.url("/bad"), path="bad")

    results = bench.fetch(bad, good)

    assert (results["bad"].state, results["good"].state) == ("failed", "ok")
    assert results["bad"].failure.class_ == "not_found"
    assert bench.named("failed")[0]["hint"]


def test_two_items_with_one_url_are_fetched_once(bench, server):
    content = Content(8 * MIB, seed=4)
    url = server.add("/m.bin", content)

    results = bench.fetch(
        Download(url=url, path="a/m.bin"), Download(url=url, path="b/m.bin", sha256=content.sha256)
    )

    assert {result.state for result in results.values()} == {"ok"}
    assert server.bytes_sent("/m.bin") < content.size + MIB
    assert digest(bench.path("b/m.bin")) == content.sha256


def test_a_file_that_is_there_and_verified_costs_no_request(bench, server):
    item = Download(url=server.add("/m.bin", Content(MIB)), path="m.bin")
    bench.fetch_one(item)
    before = len(server.requests)

    preflight = bench.preflight(item)
    result = bench.fetch_one(item)

    assert (result.state, result.bytes_downloaded, preflight.bytes_to_fetch) == ("skipped", 0, 0)
    assert len(server.requests) == before
    assert bench.named("skipped")[0]["reason"] == "verified"


def test_a_file_put_there_by_somebody_is_hashed_before_it_counts(bench, server):
    content = Content(MIB, seed=5)
    right = Download(url=server.add("/m.bin", content), path="right.bin", sha256=content.sha256)
    wrong = Download(url=server.add("/n.bin", content), path="wrong.bin", sha256=content.sha256)
    bench.path("right.bin").write_bytes(content.bytes())
    bench.path("wrong.bin").write_bytes(b"x" + content.bytes()[1:])

    results = bench.fetch(right, wrong)

    assert (results["right.bin"].state, results["wrong.bin"].state) == ("skipped", "ok")
    assert server.bytes_sent("/m.bin") == 0
    assert digest(bench.path("wrong.bin")) == content.sha256


def test_only_the_files_that_were_damaged_are_fetched_again(bench, server):
    """One deleted, one with a flipped byte, one cut short, one well: the record of success is no proof."""
    contents = {
        name: Content.safetensors(MIB + n, seed=n)
        for n, name in enumerate(("gone", "flipped", "cut", "well"))
    }
    items = [
        Download(url=server.add(f"/{name}", content), path=f"{name}.safetensors")
        for name, content in contents.items()
    ]
    bench.fetch(*items)
    bench.path("gone.safetensors").unlink()
    with open(bench.path("flipped.safetensors"), "r+b") as file:
        file.seek(MIB // 2)
        byte = file.read(1)
        file.seek(MIB // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.truncate(bench.path("cut.safetensors"), MIB // 2)

    results = bench.fetch(*items)

    states = {path.split(".")[0]: result.state for path, result in results.items()}
    assert states == {"gone": "ok", "flipped": "ok", "cut": "ok", "well": "skipped"}
    assert all(digest(bench.path(f"{name}.safetensors")) == c.sha256 for name, c in contents.items())


def test_a_models_folder_that_is_a_link_elsewhere_is_followed(bench, server, tmp_path):
    (tmp_path / "volume").mkdir()
    bench.path("models").symlink_to(tmp_path / "volume")

    result = bench.fetch_one(Download(url=server.add("/m.bin", Content(100)), path="models/m.bin"))

    assert result.state == "ok"
    assert (tmp_path / "volume" / "m.bin").stat().st_size == 100


def test_a_path_that_leads_out_of_the_workspace_is_refused(bench, server):
    url = server.add("/m.bin", Content(100))

    results = bench.fetch(
        *(Download(url=url, path=path) for path in ("../m.bin", "/tmp/m.bin", "a/../../m.bin")),
        Download(url=url, path=f"{bench.root}/inside.bin"),
    )

    outside = [result for path, result in results.items() if "inside" not in path]
    assert {result.failure.class_ for result in outside} == {"unsafe_path"}
    assert results[f"{bench.root}/inside.bin"].state == "ok"
    assert len(server.seen("/m.bin")) <= 2


def test_a_folder_as_path_takes_the_servers_name(bench, server):
    url = server.add(
        "/api/7", Content(100), headers={"Content-Disposition": 'attachment; filename="a b.bin"'}
    )

    result = bench.fetch_one(Download(url=url, path="models/"))
    again = bench.fetch_one(Download(url=url, path="models/"))

    assert (result.state, again.state) == ("ok", "skipped")
    assert bench.files() == ["models/a b.bin"]


def test_a_servers_name_that_is_a_path_is_refused(bench, server):
    url = server.add(
        "/api/7", Content(100), headers={"Content-Disposition": 'attachment; filename="../../m.bin"'}
    )

    result = bench.fetch_one(Download(url=url, path="models/"))

    assert result.failure.class_ == "unsafe_path"
    assert bench.files() == []


def test_a_file_url_is_copied_and_verified_like_any_other(bench, tmp_path):
    content = Content.safetensors(3 * MIB, seed=6)
    (tmp_path / "m.safetensors").write_bytes(content.bytes())
    url = (tmp_path / "m.safetensors").as_uri()

    results = bench.fetch(
        Download(url=url, path="m.safetensors", sha256=content.sha256),
        Download(url=(tmp_path / "missing").as_uri(), path="missing"),
    )

    assert (results["m.safetensors"].state, results["m.safetensors"].bytes_downloaded) == ("ok", 0)
    assert digest(bench.path("m.safetensors")) == content.sha256
    assert results["missing"].failure.class_ == "not_found"


def test_a_whole_line_is_used_by_growing_when_connections_are_slow(bench, monkeypatch):
    """64 connections of 2 MiB/s bring what 32 cannot; the machine that tests may be busy with other things."""
    monkeypatch.setattr("provision_agent.downloads.engine.transfer.BACKLOG", 1 << 40)
    with FileServer(bytes_per_s=2 * MIB) as server:
        items = [Download(url=server.add(f"/{n}", Content(48 * MIB, n)), path=f"{n}.bin") for n in range(6)]

        bench.fetch(*items)

        # the server may not have noticed yet that a connection was given up
        assert 40 < server.peak_connections < 90


def test_a_few_connections_do_where_the_disk_is_slower_than_the_line(bench, server, monkeypatch):
    def write_slowly(part, view, offset, write=PartFile.write):
        time.sleep(0.05)
        write(part, view, offset)

    monkeypatch.setattr(PartFile, "write", write_slowly)
    items = [Download(url=server.add(f"/{n}", Content(16 * MIB, n)), path=f"{n}.bin") for n in range(4)]

    bench.fetch(*items)

    assert server.peak_connections < 32


def test_stop_ends_soon_and_keeps_what_has_landed(bench, server):
    url = server.add("/m.bin", Content(64 * MIB), Fault(bytes_per_s=2 * MIB, min_length=2 * MIB))
    engine = bench.engine(Download(url=url, path="m.bin"))
    engine.start()
    eventually(lambda: server.bytes_sent("/m.bin") > 8 * MIB)

    began = time.monotonic()
    bench.cancelled.set()
    engine.stop()

    assert time.monotonic() - began < 3.0
    assert bench.files() == ["m.bin.part", "m.bin.part.journal"]
    assert engine.results()["m.bin"].failure.class_ == "timed_out"
    assert not bench.named("failed")
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith(("fetch-", "file-", "sha256"))
    ]


def test_ipv6_is_spoken(bench):
    with FileServer("::1") as server:
        result = bench.fetch_one(Download(url=server.add("/m.bin", Content(MIB)), path="m.bin"))

    assert result.state == "ok"


def test_preflight_says_what_is_to_come_and_who_says_no(bench, server):
    sized = Download(url=server.add("/sized", Content(5 * MIB)), path="sized")
    missing = Download(url=server.url("/missing"), path="missing", level="critical")
    gated = Download(url=server.add("/gated", Content(5), Fault(status=403)), path="gated")
    mirrored = Download(url=server.url("/no"), mirrors=(server.add("/yes", Content(7)),), path="mirrored")

    found = bench.preflight(sized, missing, gated, mirrored)

    assert found.bytes_to_fetch == 5 * MIB + 7
    assert {path: failure.class_ for path, failure in found.failures.items()} == {
        "missing": "not_found",
        "gated": "unauthorized",
    }
    assert found.too_big is None
    assert found.disks[0].free_bytes > found.disks[0].needed_bytes > 5 * MIB
    assert [event["event"] for event in bench.events[:4]] == ["download_queued"] * 4
    assert sum(server.bytes_sent(path) for path in ("/sized", "/yes")) < 5000


def test_preflight_is_bounded_by_the_lookup_even_if_nobody_answers(bench, server):
    items = [
        Download(
            url=server.add(f"/{n}", Content(10), Fault(silent=True)),
            path=f"{n}",
            limits=ItemLimits(lookup_s=1.0),
        )
        for n in range(10)
    ]

    began = time.monotonic()
    found = bench.preflight(*items)

    assert time.monotonic() - began < 3.0
    assert (found.failures, found.bytes_to_fetch, found.unknown_sizes) == ({}, 0, 10)


def test_preflight_refuses_what_cannot_fit_with_numbers_and_what_to_drop(bench, server):
    half = int(0.6 * shutil.disk_usage(bench.root).free)  # each fits, both do not
    items = [
        Download(url=server.add("/0", Content(10)), path="needed", size_bytes=10 * MIB, level="critical"),
        Download(url=server.add("/1", Content(10)), path="large", size_bytes=half),
        Download(url=server.add("/2", Content(10)), path="huge", size_bytes=half + MIB),
    ]

    found = bench.preflight(*items)

    assert found.too_big is not None
    assert found.too_big.class_ == "disk_full"
    assert "GB are needed" in found.too_big.message
    assert "`huge`" in found.too_big.hint


def test_the_same_url_twice_is_fetched_once_whatever_the_levels(bench, server):
    url = server.add("/m.bin", Content(8 * MIB, seed=7))
    first, second = (
        Download(url=url, path="a", level="optional"),
        Download(url=url, path="b", level="critical"),
    )
    engine = bench.engine(first, second)

    found = engine.preflight()
    engine.start()
    assert engine.wait()
    engine.stop()

    assert found.bytes_to_fetch == 8 * MIB
    assert server.bytes_sent("/m.bin") < 9 * MIB


def test_a_file_that_is_there_is_no_failure_when_its_source_is_gone(bench, server):
    content = Content(MIB, seed=8)
    item = Download(url=server.url("/gone"), path="m.bin", sha256=content.sha256)
    bench.path("m.bin").write_bytes(content.bytes())

    assert bench.preflight(item).failures == {}
    assert bench.fetch_one(item).state == "skipped"


def test_a_file_outside_the_workspace_is_not_even_looked_at(bench, server):
    content = Content(100)
    (bench.root.parent / "m.bin").write_bytes(content.bytes())
    item = Download(url=server.add("/m.bin", content), path="../m.bin", sha256=content.sha256)

    assert bench.preflight(item).failures["../m.bin"].class_ == "unsafe_path"
    assert bench.fetch_one(item).failure.class_ == "unsafe_path"
    assert server.requests == []


def test_nothing_to_fetch_is_done_at_once(bench):
    assert bench.fetch() == {}
    assert bench.preflight().bytes_to_fetch == 0


def test_a_part_that_is_taken_away_is_not_called_finished(bench, server):
    url = server.add("/m.bin", Content(4 * MIB), Fault(bytes_per_s=8 * MIB))
    bench.on_event = lambda name, fields: (
        bench.path("m.bin.part").unlink()
        if name == "download_progress" and bench.path("m.bin.part").exists()
        else None
    )

    result = bench.fetch_one(Download(url=url, path="m.bin"), limits=Limits(connections=1))

    assert result.state == "failed"
    assert not bench.path("m.bin").exists()
