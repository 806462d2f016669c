"""A run that may ask nobody: it works with what is on the disk, and tells what is missing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from harness.content import Content
from harness.downloads import Bench, quick
from harness.environments import Surroundings, copy_of_environment
from harness.file_server import FileServer
from harness.git_server import GitServer, Origin
from harness.hub import add_repository
from harness.package_index import PackageIndex
from provision_agent.contract.failures import Failure
from provision_agent.contract.plan import Download, Layer, Python, Repo
from provision_agent.downloads.queue import Result
from provision_agent.downloads.sources import repositories
from provision_agent.downloads.sources.lookup import Sources
from provision_agent.steps import apt, repos
from provision_agent.steps.python import packages
from provision_agent.steps.python.venv import Venv

MIB = 1 << 20


def run(bench: Bench, *items: Download, offline: bool) -> dict[str, Result]:
    """As a run does it, preflight first, with the state of the runs before."""
    bench = Bench(bench.root, is_offline=offline, events=bench.events)
    sources = Sources((), {}, is_offline=offline)
    files, unlisted = repositories.expand(items, sources, bench.context, remembers=True)
    assert not unlisted, unlisted
    return bench.fetch_as_runs_do(*files)


def test_files_and_repositories_that_are_there_are_taken_and_nobody_is_asked(
    bench: Bench, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    add_repository(server, "o/r", {"config.json": b"{}", "a.safetensors": Content.safetensors(MIB).bytes()})
    items = [
        Download(url=server.add("/m.bin", Content(MIB)), path="m.bin"),
        Download(url=server.add("/n.bin", Content(MIB, seed=2)), path="named/"),
        Download(url="hf://o/r", path="plain/"),
        Download(url="hf://o/r", path="hub/", layout="hub"),
    ]
    online = run(bench, *items, offline=False)
    asked = len(server.requests)

    offline = run(bench, *items, offline=True)

    assert {result.state for result in online.values()} == {"ok"}
    assert {key: result.state for key, result in offline.items()} == dict.fromkeys(online, "skipped")
    assert len(server.requests) == asked


def test_what_is_missing_is_told_with_its_size(bench: Bench, server: FileServer) -> None:
    gone = Download(url=server.add("/gone.bin", Content(3 * MIB)), path="gone.bin")
    never = Download(url=server.add("/never.bin", Content(MIB)), path="never.bin", size_bytes=5 * MIB)
    run(bench, gone, offline=False)
    bench.path("gone.bin").unlink()
    asked = len(server.requests)

    results = run(bench, gone, never, offline=True)

    failures = {key: result.failure for key, result in results.items()}
    assert {key: failure and failure.class_ for key, failure in failures.items()} == dict.fromkeys(
        ("gone.bin", "never.bin"), "offline"
    )
    told = {key: failure.facts.get("size_bytes") for key, failure in failures.items() if failure}
    assert told == {"gone.bin": 3 * MIB, "never.bin": 5 * MIB}
    assert all("MB)" in failure.message for failure in failures.values() if failure)
    assert len(server.requests) == asked


def test_an_object_of_a_bucket_that_nobody_signed_is_missing_as_all_else(bench: Bench) -> None:
    failure = run(bench, Download(url="s3://b/k.bin", path="k.bin"), offline=True)["k.bin"].failure

    assert failure is not None and failure.class_ == "offline"


def test_a_part_that_has_landed_stays_for_the_next_run(bench: Bench, server: FileServer) -> None:
    item = Download(url=server.add("/m.bin", Content(MIB)), path="m.bin", limits=quick())
    part = bench.path("m.bin.part")
    part.write_bytes(b"x" * 1000)

    assert run(bench, item, offline=True)["m.bin"].state == "failed"
    assert part.read_bytes() == b"x" * 1000
    assert not bench.path("m.bin").exists()


def test_a_file_of_the_users_own_is_taken_unless_it_is_surely_broken(
    bench: Bench, server: FileServer
) -> None:
    whole, torn = Content.safetensors(MIB).bytes(), Content.safetensors(MIB).bytes()[: MIB // 2]
    for name, body in (("whole.safetensors", whole), ("torn.safetensors", torn)):
        bench.path(name).write_bytes(body)
    items = [
        Download(url=server.url(f"/{name}.safetensors"), path=f"{name}.safetensors")
        for name in ("whole", "torn")
    ]

    results = run(bench, *items, offline=True)

    assert [results[item.path].state for item in items] == ["skipped", "failed"]
    assert server.requests == []


def test_a_file_of_this_disk_is_a_source_all_the_same(bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "here.bin"
    source.write_bytes(b"x" * MIB)
    item = Download(url="https://example.org/m.bin", path="m.bin", mirrors=(f"file://{source}",))

    assert run(bench, item, offline=True)["m.bin"].state == "ok"


@pytest.fixture
def offline(tmp_path: Path) -> Surroundings:
    here = Surroundings(str(tmp_path / "w"))
    here.context = replace(here.context, is_offline=True)
    return here


def test_a_checkout_that_is_there_stays_and_one_that_is_not_is_told(
    tmp_path: Path, offline: Surroundings
) -> None:
    Origin(str(tmp_path / "origins" / "a")).commit({"a.txt": "a"})
    with GitServer(str(tmp_path / "origins")) as server:
        repo = Repo(url=server.smart("a"), path="a", ref="main")
        commit = repos.checkout(repo, replace(offline.context, is_offline=False))
        asked = len(server.requests)

        assert repos.checkout(repo, offline.context) == commit
        with pytest.raises(Failure) as missing:
            repos.checkout(Repo(url=server.smart("a"), path="b"), offline.context)

        assert missing.value.class_ == "offline"
        assert len(server.requests) == asked


def test_a_repository_on_this_disk_is_cloned_all_the_same(tmp_path: Path, offline: Surroundings) -> None:
    origin = Origin(str(tmp_path / "origin"))
    commit = origin.commit({"a.txt": "a"})

    assert repos.checkout(Repo(url=origin.url, path="a"), offline.context) == commit


def test_a_package_of_the_system_that_is_missing_is_told_without_asking_apt(offline: Surroundings) -> None:
    with pytest.raises(Failure) as missing:
        apt.install(("provision-has-no-such-package",), offline.context)

    assert missing.value.class_ == "offline"
    assert offline.output == []


@pytest.mark.parametrize("installer", ["pip", "auto"])
def test_an_environment_that_is_there_is_taken_and_a_missing_package_is_told(
    installer: str, bare_pip: None, tmp_path: Path, offline: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "venv")
    copy_of_environment(path)
    venv = Venv(path, os.path.join(path, "bin", "python"), True)
    with PackageIndex() as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        index.add("sympy", "1.13")
        index.add("numpy", "2.1.0")
        there, more = Layer(packages=("sympy",)), Layer(packages=("numpy",))
        order = Python(installer=installer, timeout_s=5, retries=0, layers=(there,))
        packages.install(order, venv, replace(offline.context, is_offline=False), {"gpus": [], "cuda": None})
        asked = len(index.requests)

        packages.install(order, venv, offline.context, {"gpus": [], "cuda": None})
        with pytest.raises(Failure) as missing:
            packages.install(
                replace(order, layers=(there, more)), venv, offline.context, {"gpus": [], "cuda": None}
            )

        assert missing.value.class_ == "offline"
        assert "numpy" in missing.value.message
        assert len(index.requests) == asked
