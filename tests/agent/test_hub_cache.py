"""A repository in the layout of the hub's cache: its own library starts from it without the network, and the other way round."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from harness.content import Content
from harness.downloads import Bench, quick
from harness.file_server import Fault, FileServer
from harness.hub import COMMIT, add_repository, etag_of, git_sha1
from provision_agent.contract.plan import Download
from provision_agent.downloads.queue import Result
from provision_agent.downloads.sources import repositories
from provision_agent.downloads.sources.lookup import Sources

REPO = "models--owner--name"
FILES: Mapping[str, bytes] = {
    "config.json": b'{"model_type": "tiny"}',
    "model.safetensors": Content.safetensors(1 << 20, seed=5).bytes(),
    "sub/again.safetensors": Content.safetensors(1 << 20, seed=5).bytes(),
    "sub/index.html": b"<!DOCTYPE html><html><title>a file of the repository</title></html>",
    ".gitattributes": b"*.safetensors filter=lfs\n",
}


@pytest.fixture
def hub(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    add_repository(server, "owner/name", FILES)
    return server


def item(url: str = "hf://owner/name", **more: tuple[str, ...]) -> Download:
    return Download(url=url, path="hub/", layout="hub", limits=quick(attempts=2), **more)


def brought(bench: Bench, *items: Download) -> dict[str, Result]:
    files, unlisted = repositories.expand(items or (item(),), Sources((), {}), bench.context)
    assert not unlisted, unlisted
    return bench.fetch(*files)


def states(results: dict[str, Result]) -> set[str]:
    return {result.state for result in results.values()}


def snapshot(bench: Bench, commit: str = COMMIT) -> dict[str, bytes]:
    root = bench.path(f"hub/{REPO}/snapshots/{commit}")
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_blobs_snapshots_and_refs_are_where_the_hubs_library_has_them(bench: Bench, hub: FileServer) -> None:
    results = brought(bench)

    assert states(results) == {"ok"}
    assert snapshot(bench) == FILES
    blobs = {path.name: path.read_bytes() for path in bench.path(f"hub/{REPO}/blobs").iterdir()}
    assert blobs == {etag_of(name, body): body for name, body in FILES.items()}
    assert bench.path(f"hub/{REPO}/refs/main").read_text() == COMMIT
    link = bench.path(f"hub/{REPO}/snapshots/{COMMIT}/sub/index.html")
    assert os.readlink(link) == f"../../../blobs/{git_sha1(FILES['sub/index.html'])}"
    assert hub.bytes_sent(f"/cdn/{etag_of('model.safetensors', FILES['model.safetensors'])}") < 1.1 * (
        1 << 20
    )
    label = f"hub/{REPO}/snapshots/{COMMIT}/config.json"
    assert "finished" in bench.names(label), "people know a file by its name, not by its hash"


def test_a_second_run_asks_for_the_listing_and_for_no_file(bench: Bench, hub: FileServer) -> None:
    brought(bench)
    before = len(hub.requests)

    assert states(brought(bench)) == {"skipped"}
    assert [request.path.split("/")[5] for request in hub.requests[before:]] == ["revision", "tree"]


def test_what_the_hubs_library_has_put_there_is_taken_over_and_what_is_damaged_is_not(
    bench: Bench, hub: FileServer
) -> None:
    blobs = bench.path(f"hub/{REPO}/blobs")
    blobs.mkdir(parents=True)
    damaged = "sub/index.html"
    for name, body in FILES.items():
        (blobs / etag_of(name, body)).write_bytes(body if name != damaged else body[:-1] + b" ")

    assert states(brought(bench)) == {"ok", "skipped"}
    assert snapshot(bench) == FILES
    asked = {request.path.rpartition("/")[2] for request in hub.requests if "/api/" not in request.path}
    assert asked == {"index.html"}


def test_where_the_disk_has_no_links_there_are_copies_and_they_are_made_once(
    bench: Bench, hub: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)  # as on exFAT and on some network disks
    monkeypatch.setattr(os, "link", refuse)
    brought(bench)
    copy = bench.path(f"hub/{REPO}/snapshots/{COMMIT}/model.safetensors")
    first = copy.lstat().st_ino

    assert snapshot(bench) == FILES
    assert states(brought(bench)) == {"skipped"}
    assert copy.lstat().st_ino == first


def test_content_that_is_not_what_git_calls_it_is_refused_and_no_commit_is_named(
    bench: Bench, hub: FileServer
) -> None:
    wrong = Content.of(FILES["config.json"].replace(b"tiny", b"huge"))
    path = f"/owner/name/resolve/{COMMIT}/config.json"
    hub.add(path, wrong, etag='"x"')

    results = brought(bench)

    classes = [result.failure.class_ for result in results.values() if result.failure is not None]
    assert classes == ["checksum"]
    assert not bench.path(f"hub/{REPO}/refs").exists()
    assert sorted(snapshot(bench)) == sorted(set(FILES) - {"config.json"})


def test_a_new_commit_fetches_what_changed_only_and_moves_the_ref(bench: Bench, hub: FileServer) -> None:
    brought(bench)
    newer = {**FILES, "config.json": b'{"model_type": "newer"}'}
    add_repository(hub, "owner/name", newer, commit="f" * 40)
    before = len(hub.requests)

    brought(bench)

    assert (snapshot(bench), snapshot(bench, "f" * 40)) == (FILES, newer)
    assert bench.path(f"hub/{REPO}/refs/main").read_text() == "f" * 40
    asked = [request.path for request in hub.requests[before:] if "/api/" not in request.path]
    assert {path.rpartition("/")[2] for path in asked} == {"config.json"}


def test_only_what_is_included_comes_and_a_pinned_commit_is_main(bench: Bench, hub: FileServer) -> None:
    results = brought(bench, item(f"hf://owner/name@{COMMIT}", include=("*.json",)))

    assert states(results) == {"ok"}
    assert sorted(snapshot(bench)) == ["config.json"]
    assert bench.path(f"hub/{REPO}/refs/main").read_text() == COMMIT


def test_a_repository_that_is_not_there_says_so(bench: Bench, hub: FileServer) -> None:
    hub.add(
        "/api/models/owner/none/revision/main",
        Content(1),
        Fault(status=401, headers={"X-Error-Code": "RepoNotFound"}),
    )

    _, unlisted = repositories.expand([item("hf://owner/none")], Sources((), {}), bench.context)

    assert [failure.class_ for _, failure in unlisted] == ["not_found"]


OFFLINE = """
import os, sys
from huggingface_hub import snapshot_download
print(snapshot_download("owner/name", **eval(sys.argv[1])))
"""


def by_library(bench: Bench, hub: FileServer, *, offline: bool, **options: object) -> str:
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(bench.path("hub")),
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_ENDPOINT": hub.url(""),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, repr(options)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


needs_library = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed here"
)


@needs_library
def test_the_hubs_library_finds_all_of_it_offline_and_fetches_nothing_online(
    bench: Bench, hub: FileServer
) -> None:
    brought(bench)

    found = by_library(bench, hub, offline=True)

    assert found == str(bench.path(f"hub/{REPO}/snapshots/{COMMIT}"))
    assert {name: Path(found, name).read_bytes() for name in FILES} == FILES
    before = len(hub.requests)
    assert by_library(bench, hub, offline=False) == found
    fetched = [r.path for r in hub.requests[before:] if r.method == "GET" and "/api/" not in r.path]
    assert fetched == []


@needs_library
def test_what_the_hubs_library_fetched_is_not_fetched_again(bench: Bench, hub: FileServer) -> None:
    by_library(bench, hub, offline=False, allow_patterns=["*.safetensors"])
    before = len(hub.requests)

    assert states(brought(bench)) == {"ok", "skipped"}
    asked = [request.path for request in hub.requests[before:]]
    assert not any(path.endswith(".safetensors") or "/cdn/" in path for path in asked)
    assert (
        Path(by_library(bench, hub, offline=True), "model.safetensors").read_bytes()
        == FILES["model.safetensors"]
    )
