"""Several items of one folder, names that meet, and bytes that two items share: nothing is lost or taken for another."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from harness.content import Content
from harness.downloads import Bench, quick
from harness.file_server import Fault, FileServer
from provision_agent.contract.plan import Download, Substitute, download_key
from provision_agent.downloads import Result, Sources, existing
from provision_agent.downloads.sources import repositories
from provision_agent.run.state import StateFile

ONE, OTHER = Content.safetensors(300_000, seed=1), Content.safetensors(400_000, seed=2)
SAME_SIZE = Content.safetensors(300_000, seed=3)


def named(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def states(results: dict[str, Result], *items: Download) -> list[str]:
    return [results[item.key].state for item in items]


def on_disk(bench: Bench) -> dict[str, bytes]:
    return {name: bench.path(name).read_bytes() for name in bench.files()}


def two(server: FileServer, other: Content, name: str = "m.safetensors") -> tuple[Download, Download]:
    """Two items of one folder whose servers call them by one name."""
    urls = server.add("/a/dl", ONE, headers=named(name)), server.add("/b/dl", other, headers=named(name))
    first, second = (Download(url=url, path="models/", limits=quick()) for url in urls)
    return first, second


def test_a_key_tells_the_sources_of_one_folder_apart_and_gives_none_away() -> None:
    keys = [download_key("m/", f"https://h/{name}?token=hush") for name in "ab"]

    assert download_key("m/a.bin", "https://h/a") == "m/a.bin"
    assert keys[0] != keys[1] and all(key.startswith("m/") for key in keys)
    assert "hush" not in "".join(keys)


@pytest.mark.parametrize("is_asked_before", [True, False])
def test_files_of_one_folder_all_arrive_and_a_second_run_fetches_none(bench, server, is_asked_before) -> None:
    items = [
        Download(url=server.add(f"/{n}", content, headers=named(name)), path="models/")
        for n, (content, name) in enumerate(((ONE, "a.safetensors"), (OTHER, "A.safetensors")))
    ]

    if is_asked_before:
        bench.preflight(*items)
    first = bench.fetch(*items)
    sent = server.bytes_sent()
    second = bench.fetch(*items)

    assert states(first, *items) == ["ok", "ok"]
    assert states(second, *items) == ["skipped", "skipped"]
    assert sum(result.bytes_downloaded for result in second.values()) == 0
    assert server.bytes_sent() - sent < 10_000
    assert on_disk(bench) == {"models/a.safetensors": ONE.bytes(), "models/A.safetensors": OTHER.bytes()}
    assert {event["item"] for event in bench.named("finished")} == {
        "models/a.safetensors",
        "models/A.safetensors",
    }
    assert all(event["key"] in {item.key for item in items} for event in bench.events)


@pytest.mark.parametrize("other", [OTHER, SAME_SIZE], ids=["another size", "the same size"])
def test_names_that_meet_with_different_content_fail_both_and_the_first_file_stays(
    bench, server, other
) -> None:
    items = two(server, other)

    for _ in range(2):
        results = bench.fetch(*items)

        assert states(results, *items) == ["failed", "failed"]
        for item in items:
            failure = results[item.key].failure
            assert failure is not None and failure.class_ == "conflict"
            assert all(each.url in failure.message for each in items), failure.message
        assert list(on_disk(bench)) == ["models/m.safetensors"]
        assert on_disk(bench)["models/m.safetensors"] in (ONE.bytes(), other.bytes())


def test_the_same_content_of_two_hosts_is_one_file_and_both_are_there(bench, server) -> None:
    items = two(server, ONE)

    first = bench.fetch(*items)
    second = bench.fetch(*items)

    assert "failed" not in states(first, *items)
    assert states(second, *items) == ["skipped", "skipped"]
    assert sum(result.bytes_downloaded for result in second.values()) == 0
    assert on_disk(bench) == {"models/m.safetensors": ONE.bytes()}


def test_a_name_that_a_file_of_the_profile_has_is_not_taken_by_a_server(bench, server) -> None:
    fixed = Download(url=server.add("/own", ONE), path="models/m.safetensors")
    given = Download(url=server.add("/dl", OTHER, headers=named("m.safetensors")), path="models/")

    results = bench.fetch(given, fixed)

    assert states(results, given, fixed) == ["failed", "failed"]
    assert on_disk(bench) == {"models/m.safetensors": ONE.bytes()}


def test_when_the_first_of_a_name_cannot_be_had_the_other_one_gets_it(bench, server) -> None:
    broken = Download(url=server.add("/own", ONE, Fault(status=404)), path="models/m.safetensors")
    given = Download(url=server.add("/dl", OTHER, headers=named("m.safetensors")), path="models/")

    results = bench.fetch(broken, given)

    assert states(results, broken, given) == ["failed", "ok"]
    assert on_disk(bench) == {"models/m.safetensors": OTHER.bytes()}


def test_a_record_of_an_earlier_release_is_carried_over(bench, server) -> None:
    item = Download(url=server.add("/dl", ONE, headers=named("m.safetensors")), path="models/")
    bench.fetch(item)
    state = Path(bench.root / "state.json")
    data = json.loads(state.read_text())
    data["items"] = {f"download:{item.path}": record for record in data["items"].values()}
    state.write_text(json.dumps(data))
    object.__setattr__(bench.context, "state", StateFile(str(state)))
    sent = server.bytes_sent("/dl")

    result = bench.fetch_one(item)

    assert (result.state, result.bytes_downloaded) == ("skipped", 0)
    assert server.bytes_sent("/dl") - sent < 10_000
    assert json.loads(state.read_text())["items"][f"download:{item.key}"]["sha256"] == ONE.sha256


def test_a_twin_never_takes_the_substitute_of_another_item(bench, server) -> None:
    gone = server.add("/gone", ONE, Fault(status=404))
    instead = Substitute(url=server.add("/instead", OTHER), path="models/instead.safetensors")
    with_one = Download(url=gone, path="models/a.safetensors", substitute=instead)
    without = Download(url=gone, path="models/b.safetensors")

    results = bench.fetch(with_one, without)

    assert states(results, with_one, without) == ["ok", "failed"]
    assert results[without.key].failure.class_ == "not_found"
    assert on_disk(bench) == {"models/instead.safetensors": OTHER.bytes()}
    [warning] = [event["message"] for event in bench.events if event["event"] == "warning"]
    assert "models/a.safetensors" in warning and "models/instead.safetensors" in warning


def test_a_substitute_is_said_again_when_it_is_there_already(bench, server) -> None:
    gone = server.add("/gone", ONE, Fault(status=404))
    instead = Substitute(url=server.add("/instead", OTHER), path="models/instead.safetensors")
    item = Download(url=gone, path="models/", substitute=instead)

    bench.fetch_one(item)
    bench.events.clear()
    again = bench.fetch_one(item)

    assert (again.state, again.bytes_downloaded) == ("skipped", 0)
    assert [event["event"] for event in bench.events].count("warning") == 1


def test_files_of_two_repositories_that_meet_fail_by_name_and_the_others_land(
    bench, server, monkeypatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url("").rstrip("/"))
    server.add_hub(
        "o/one", {"README.md": Content.of(b"one"), "a.safetensors": ONE, "same.txt": Content.of(b"x")}
    )
    server.add_hub(
        "o/two", {"README.md": Content.of(b"two"), "b.safetensors": OTHER, "same.txt": Content.of(b"x")}
    )
    items = [Download(url=f"hf://o/{name}", path="models/") for name in ("one", "two")]
    files, unlisted = repositories.expand(items, Sources([], {}), bench.context)

    results = bench.fetch(*files)

    failed = [file.path for file in files if results[file.key].state == "failed"]
    assert (failed, unlisted) == (["models/README.md"] * 2, [])
    assert set(on_disk(bench)) == {
        f"models/{name}" for name in ("README.md", "a.safetensors", "b.safetensors", "same.txt")
    }


def archive_of(name: str) -> Content:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr(name, name * 10)
    return Content.of(data.getvalue())


def test_archives_of_one_folder_are_all_unpacked_and_once(bench, server) -> None:
    items = [
        Download(
            url=server.add(f"/{name}", archive_of(name), headers=named(f"{name}.zip")),
            path="m/",
            unpack="zip",
        )
        for name in "ab"
    ]

    first, second = bench.fetch(*items), bench.fetch(*items)

    assert (states(first, *items), states(second, *items)) == (["ok"] * 2, ["skipped"] * 2)
    assert bench.files() == ["m/a", "m/a.zip", "m/b", "m/b.zip"]


def test_a_mirror_names_the_file_when_the_first_source_is_gone(bench, server) -> None:
    mirror = server.add("/mirror", ONE, headers=named("x.safetensors"))
    one = Download(url=server.add("/gone", ONE, Fault(status=404)), mirrors=(mirror,), path="m/")
    other = Download(url=server.add("/b", OTHER, headers=named("y.safetensors")), path="m/")

    first, second = bench.fetch(one, other), bench.fetch(one, other)

    assert (states(first, one, other), states(second, one, other)) == (["ok"] * 2, ["skipped"] * 2)
    assert {event["item"] for event in bench.named("finished")} == {"m/x.safetensors", "m/y.safetensors"}


def test_two_folders_that_are_one_by_a_link_have_one_name(bench, server) -> None:
    bench.path("real").mkdir()
    bench.path("alias").symlink_to("real")
    items = [
        Download(url=server.add(f"/{folder}", content), path=f"{folder}/x.safetensors")
        for folder, content in (("real", ONE), ("alias", OTHER))
    ]

    assert states(bench.fetch(*items), *items) == ["failed", "failed"]


def test_substitutes_that_meet_fail_both_and_one_that_is_an_item_itself_is_shared(bench, server) -> None:
    gone = server.add("/gone", ONE, Fault(status=404))
    instead = server.add("/one", ONE), server.add("/other", OTHER)
    items = [
        Download(url=f"{gone}?{n}", path=f"m/{n}.safetensors", substitute=Substitute(url, "m/s.safetensors"))
        for n, url in enumerate(instead)
    ]
    itself = Download(url=instead[0], path="m/s.safetensors")

    met = bench.fetch(*items)
    shared = bench.fetch(items[0], itself)

    assert states(met, *items) == ["failed", "failed"]
    assert "failed" not in states(shared, items[0], itself)
    assert on_disk(bench) == {"m/s.safetensors": ONE.bytes()}


def test_of_many_pairs_of_one_name_each_keeps_one_file_and_all_end(bench, server) -> None:
    items = [
        Download(
            url=server.add(f"/{n}", Content.safetensors(20_000 + n, seed=n), headers=named(f"{n // 2}.bin")),
            path="m/",
        )
        for n in range(40)
    ]

    results = bench.fetch(*items)

    assert set(states(results, *items)) == {"failed"}
    assert len(bench.files()) == 20


@pytest.mark.parametrize("broken", [{"path": 5}, {"mtime_ns": "yesterday"}, {"sha256": "0" * 1000}])
def test_a_record_that_cannot_be_read_is_none_and_the_file_is_looked_at_anew(broken, bench, server):
    item = Download(url=server.add("/m.bin", Content(1000)), path="m.bin", size_bytes=1000)
    bench.fetch_one(item)
    record = bench.context.state.get("download", item.key)
    bench.context.state.put("download", item.key, {**record, **broken})

    assert not existing.record_of(bench.context, item)
    assert bench.fetch_one(item).state == "skipped"
    assert existing.record_of(bench.context, item).path == str(bench.path("m.bin"))
