"""Packages told before a run, and pinned for it: what the published command says, chooses and installs from an index."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.content import Content
from harness.file_server import FileServer
from harness.git_server import Origin
from harness.package_index import PackageIndex, wheel

from .conftest import Here

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PLATFORM = f"linux-{platform.machine()}"
LARGE = {"big/__init__.py": "", "big/data.txt": "all of it alike\n" * 60_000}
PROFILE = "version: 1\nname: p\nlimits: {run: 2m}\npython:\n  layers: [[einops, big]]\n"


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex(is_modern=True) as index:
        index.add("einops", "0.8", requires=["helper"])
        index.add("helper", "1.0")
        index.add("big", "1.0", files=LARGE)
        yield index


@pytest.fixture
def instance_environment(index: PackageIndex) -> dict[str, str]:
    return index.environment


def test_plan_counts_the_packages_of_a_machine_that_is_only_described(
    here: Here, index: PackageIndex
) -> None:
    profile = here.profile(PROFILE)

    bare = here.run("plan", profile, "--rate", "1MB", "--price", "1")
    done = here.run(
        "plan", profile, "--python", HERE, "--rate", "1MB", "--json", environment=index.environment
    )

    assert (bare.code, done.code) == (0, 0), done.stderr
    assert "packages  unknown" in bare.stdout and "time      unknown" in bare.stdout
    assert " 0 B" not in bare.stdout and "0.00" not in bare.stdout, "unknown is no nought"
    [told] = done.lines
    packages = told["packages"]
    assert (packages["count"], packages["unknown_sizes"], packages["basis"]) == (3, 0, "resolved")
    assert packages["fetch_bytes"] > 900_000, "the wheels are not compressed"
    assert packages["unpacked_bytes"] == pytest.approx(960_000, rel=0.2)
    assert told["disks"][0]["needed_bytes"] > packages["fetch_bytes"] + packages["unpacked_bytes"]
    assert told["complete_s"] == pytest.approx(packages["fetch_bytes"] / 1e6)


def test_plan_ends_as_a_run_would_where_packages_or_files_cannot_be_had(
    here: Here, index: PackageIndex, files: FileServer
) -> None:
    files.add("/a.safetensors", Content.safetensors(1000))

    def item(name: str, level: str) -> str:
        return (
            f"  - {{url: '{files.url(f'/{name}.safetensors')}', path: {name}.safetensors, level: {level}}}\n"
        )

    def ends(text: str, *words: str) -> int:
        return here.run("plan", here.profile(text), *words, environment=index.environment).code

    good = "version: 1\ndownloads:\n" + item("a", "critical")
    assert ends(good) == 0
    assert ends(good + item("none", "critical")) == 1
    assert ends(good + item("none", "required")) == 5
    assert ends(good + item("none", "optional")) == 0
    assert ends(PROFILE.replace("einops", "no-such-package"), "--python", HERE) == 1


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_a_lock_made_without_an_instance_is_all_that_a_locked_run_installs(
    here: Here, index: PackageIndex
) -> None:
    profile = here.profile(PROFILE)
    lock = here.run("lock", profile, "--python", HERE, "--platform", PLATFORM, environment=index.environment)
    assert lock.code == 0, lock.stderr
    written = json.loads((here.folder / "profile.lock.json").read_text())
    index.add("helper", "2.0")
    asked = len(index.requests)

    done = here.up(profile, "--locked", within_s=75)

    assert done.code == 0, done.stdout
    wheels = {wheel["name"]: wheel for wheel in written["environment"]["wheels"]}
    assert sorted(wheels) == ["big", "einops", "helper"]
    assert all(len(wheel["sha256"]) == 64 and wheel["size"] for wheel in wheels.values())
    [helper] = here.instance.workspace.glob("venv/lib/python*/site-packages/helper-*.dist-info")
    assert helper.name == "helper-1.0.dist-info", "2.0 would be newer"
    pages = [path for path in index.requests[asked:] if path.startswith("/simple") and path.endswith("/")]
    assert not {"/simple/einops/", "/simple/helper/"} & set(pages), "no index is asked again"
    where = ["--workspace", str(here.instance.workspace)]
    [after] = here.run("plan", profile, *here.connection(), *where, "--json", within_s=60).lines
    assert (after["packages"]["count"], after["packages"]["present"]) == (3, 3), after["packages"]
    assert (after["packages"]["fetch_bytes"], after["exit_code"]) == (0, 0), "what is installed stays"


def test_a_lock_for_another_python_is_refused_before_anything_is_brought(
    here: Here, index: PackageIndex
) -> None:
    profile = here.profile(PROFILE)
    other = "3.12" if HERE != "3.12" else "3.11"
    assert here.run("lock", profile, "--python", other, environment=index.environment).code == 0

    done = here.up(profile, "--locked")

    assert (done.code, done.outcome["next"]) == (1, "fix_profile")
    [error] = done.outcome["errors"]
    assert f"for Python {other}" in error["message"] and HERE in error["message"]
    assert not (here.instance.workspace / "venv").exists()


def test_check_names_a_lock_that_does_not_fit_its_profile_any_more(here: Here, index: PackageIndex) -> None:
    profile = here.profile(PROFILE)
    assert here.run("lock", profile, "--python", HERE, environment=index.environment).code == 0
    fitting = here.run("check", profile)
    Path(profile).write_text(PROFILE.replace("big", "small"))

    done = here.run("check", profile)
    [told] = here.run("check", profile, "--json").lines

    assert (fitting.code, done.code) == (0, 0) and fitting.stderr == ""
    assert "`small` of the profile's packages is not in the lock" in done.stderr
    assert told["lock"]["fits"] is False and len(told["lock"]["problems"]) == 2


def test_a_compiled_package_is_in_a_lock_as_a_wheel_and_one_without_a_wheel_is_named(
    here: Here, index: PackageIndex, files: FileServer
) -> None:
    file, data = wheel("fast", "1.0", {"fast/__init__.py": ""})
    files.add(f"/{HERE}/{file}", Content.of(data))
    place = files.url("/{python_version}/") + file
    package = "[{{name: {}, wheels: ['{}'], level: {}}}]"
    layers = [package.format("fast", place, "critical"), package.format("slow", f"{place}.whl", "optional")]
    profile = here.profile(f"version: 1\nname: p\npython:\n  layers: [{', '.join(layers)}]\n")

    done = here.run("lock", profile, "--python", HERE, environment=index.environment)
    critical = Path(profile).read_text().replace("optional", "critical")
    refused = here.run("lock", here.profile(critical), "--python", HERE, environment=index.environment)

    assert done.code == 0, done.stderr
    [found] = json.loads((here.folder / "profile.lock.json").read_text())["environment"]["wheels"]
    assert (found["name"], found["size"], len(found["sha256"])) == ("fast", len(data), 64)
    assert "leaves out `slow`" in done.stderr
    assert refused.code == 1 and "cannot pin `slow" in refused.stderr


def test_a_lock_reads_the_requirements_of_nodes_and_names_the_lines_that_it_goes_without(
    here: Here, index: PackageIndex, tmp_path: Path
) -> None:
    index.add("helper", "2.0")
    node, other = Origin(str(tmp_path / "node")), Origin(str(tmp_path / "other"))
    node.commit(
        {"requirements.txt": "einops  # one\n-r more.txt\ngit+https://x.invalid/y\n", "more.txt": "none==9\n"}
    )
    other.commit({"requirements.txt": "helper==2.0\n"})
    repos = "".join(
        f"  - {{url: '{origin.url}', path: nodes/{name}, install: requirements.txt}}\n"
        for name, origin in (("a", node), ("b", other))
    )
    text = f"version: 1\nname: p\nrepos:\n{repos}python:\n  layers: [[helper<2]]\n"

    done = here.run("lock", here.profile(text), "--python", HERE, environment=index.environment)

    assert done.code == 0, done.stderr
    written = json.loads((here.folder / "profile.lock.json").read_text())
    assert [wheel["name"] for wheel in written["environment"]["wheels"]] == ["einops", "helper"]
    left = {(each["path"], each["asked"]) for each in written["left_out"]}
    assert left == {
        ("nodes/a/requirements.txt:3", "git+https://x.invalid/y"),
        ("nodes/a/more.txt:1", "none==9"),
        ("nodes/b/requirements.txt:1", "helper==2.0"),
    }
    assert "leaves out `none==9` (nodes/a/more.txt:1)" in done.stderr
