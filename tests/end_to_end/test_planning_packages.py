"""A lock holds the versions of Python packages, too: learnt from one instance, obeyed on another."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from harness.package_index import PackageIndex
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import Here


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        index.add("einops", "0.8", requires=["helper"])
        index.add("helper", "1.0")
        yield index


@pytest.fixture
def instance_environment(index: PackageIndex) -> dict[str, str]:
    return index.environment


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_a_locked_run_brings_the_versions_that_stood_when_the_lock_was_made(
    here: Here, second: EmbeddedInstance, index: PackageIndex
) -> None:
    profile = here.profile("version: 1\nlimits: {run: 2m}\npython: {installer: pip, layers: [[einops]]}\n")
    workspace = ["--workspace", str(here.instance.workspace)]
    assert here.up(profile, within_s=60).code == 0
    without = here.run("lock", profile)
    lock = here.run("lock", profile, *here.connection(), *workspace)
    assert (without.code, lock.code) == (0, 0), without.stderr + lock.stderr
    assert "not pinned" in without.stderr and "not pinned" not in lock.stderr
    index.add("helper", "2.0")

    elsewhere = [*here.connection(to=second), "--profile", profile, "--workspace", str(second.workspace)]
    locked = here.run("up", *elsewhere, "--json", "--locked", within_s=60)

    assert locked.code == 0, locked.stdout
    written = json.loads((here.folder / "profile.lock.json").read_text())
    assert written["packages"] == ["einops==0.8", "helper==1.0"]
    assert version_of("helper", second) == "1.0", "without the lock it would be 2.0"


def test_doctor_says_which_torch_the_indexes_would_give_and_which_package_they_lack(
    here: Here, index: PackageIndex
) -> None:
    index.add_torch("2.9.1+cpu")
    layers = "[{torch: {version: [2.9.1], accelerator: cpu}}, [einops, no-such-package]]"
    profile = here.profile(f"version: 1\npython: {{layers: {layers}}}\n")

    done = here.run("doctor", *here.connection(), "--profile", profile, "--json")

    assert done.code == 1, "a run would fail"
    told = {finding["message"]: finding["state"] for finding in done.lines[0]["findings"]}
    assert any("torch 2.9.1" in message and state == "ok" for message, state in told.items()), told
    assert any("no-such-package" in message and state == "failed" for message, state in told.items()), told
    assert told["2 of 3 packages can be had from the indexes"] == "ok"


def version_of(name: str, instance: EmbeddedInstance) -> str:
    [found] = instance.workspace.glob(f"venv/lib/python*/site-packages/{name}-*.dist-info")
    return found.name.removeprefix(f"{name}-").removesuffix(".dist-info")
