"""The built-in profiles: each is valid, and says what the public sources say."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from provision_collector.planning.uv_tool import find_uv
from provision_collector.profile import compile_plan, load_profile, named_profiles
from provision_collector.profile.library import descriptions

NAMES = [
    "comfyui",
    "comfyui-base",
    "comfyui-flux-fp8",
    "comfyui-flux2",
    "comfyui-ltx2",
    "comfyui-min",
    "comfyui-qwen-image",
    "comfyui-wan22-5b",
    "comfyui-wan22-i2v",
    "comfyui-wan22-t2v",
    "comfyui-z-image",
    "forge",
    "jupyter",
    "ollama",
    "pytorch",
    "selftest",
    "trainer",
    "vllm",
]
SETS: dict[str, Any] = json.loads(
    Path(__file__).with_name("golden").joinpath("built_in_sets.json").read_text()
)
"""What was resolved together: what each repository asks for at its commit, and the versions that uv chose for that."""
COMFYUI = [name for name in NAMES if name.startswith("comfyui")]


def test_these_are_the_built_in_profiles() -> None:
    assert sorted(named_profiles()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_profile_becomes_a_plan_of_its_name(name: str) -> None:
    profile = load_profile(name)
    plan = compile_plan(profile)

    assert plan.name == profile.name == name
    assert profile.document.description
    assert plan.bind(workspace="/w", home="/h", run_id="r").hash


def test_a_list_says_of_each_what_it_says_of_itself() -> None:
    assert descriptions() == {name: load_profile(name).document.description for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_hash_is_never_given_without_its_size(name: str) -> None:
    downloads = compile_plan(load_profile(name)).downloads

    assert [d.path for d in downloads if (d.sha256 is None) != (d.size_bytes is None)] == []


@pytest.mark.parametrize("name", COMFYUI)
def test_a_comfyui_profile_decides_usable_by_its_service(name: str) -> None:
    [service] = compile_plan(load_profile(name)).services

    assert (service.name, service.level, service.start) == ("comfyui", "critical", "usable")
    assert service.ready is not None and service.ready.url == "http://127.0.0.1:8188/system_stats"
    assert "127.0.0.1" in service.run, "ComfyUI asks nobody for a password: it listens on the instance only"


@pytest.mark.parametrize("name", [name for name in COMFYUI if name != "comfyui-base"])
def test_a_profile_with_models_checks_that_they_are_there(name: str) -> None:
    plan = compile_plan(load_profile(name))

    assert any(download.level == "critical" for download in plan.downloads)
    assert any(check.glob and check.level == "critical" for check in plan.checks)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_several_profiles_have_is_the_same_file(name: str) -> None:
    known = {d.path: d.sha256 for d in compile_plan(load_profile("comfyui")).downloads}

    for download in compile_plan(load_profile(name)).downloads:
        assert known.get(download.path, download.sha256) == download.sha256


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_https_and_pinned_where_a_commit_is_known(name: str) -> None:
    for download in compile_plan(
        load_profile(name, overrides=dict([("server", "https://h")] if name == "selftest" else []))
    ).downloads:
        assert download.url.startswith(("https://", "hf://"))
        if "Wan_2.1" in download.url or "stable-diffusion-xl-base" in download.url:
            assert re.search(r"/resolve/[0-9a-f]{40}/", download.url)


def test_the_selftest_takes_its_server_from_the_command_line() -> None:
    plan = compile_plan(load_profile("selftest", overrides={"server": "http://127.0.0.1:1", "file": "a.bin"}))

    assert [(d.url, d.path) for d in plan.downloads] == [("http://127.0.0.1:1/a.bin", "selftest/a.bin")]


def test_the_critical_four_nodes_are_checked() -> None:
    plan = compile_plan(load_profile("comfyui"))
    critical = {repo.path.rpartition("/")[2] for repo in plan.repos if repo.level == "critical"}

    assert critical >= {
        "ComfyUI-AnimateDiff-Evolved",
        "ComfyUI-Frame-Interpolation",
        "ComfyUI-Impact-Pack",
        "ComfyUI-WanVideoWrapper",
    }
    asked = {check.name for check in plan.checks if check.level == "critical" and check.service == "comfyui"}
    assert {name.replace("ComfyUI-", "") for name in critical - {"ComfyUI-Manager"}} <= asked, "of what runs"
    assert [service.name for service in plan.services] == ["comfyui"]


def lines_of(made: dict[str, Any]) -> list[str]:
    return [*made["layers"], *(line for repo in made["repos"].values() for line in repo["requirements"])]


@pytest.mark.parametrize("name", SETS)
def test_a_set_was_resolved_together_for_every_python_that_images_have(name: str) -> None:
    resolved = SETS[name]["resolved"]

    assert list(resolved) == ["3.10", "3.11", "3.12"]
    for python, versions in resolved.items():
        for line in map(Requirement, lines_of(SETS[name])):
            chosen = versions[canonicalize_name(line.name)]
            assert line.specifier.contains(chosen, prereleases=True), f"{python}: {line} and {chosen}"


@pytest.mark.parametrize("name", SETS)
def test_a_profile_takes_what_was_resolved_together(name: str) -> None:
    wanted = {repo: facts["ref"] for repo, facts in SETS[name]["repos"].items()}
    plan = compile_plan(load_profile(name))
    assert plan.python is not None
    refs = {repo.url.rpartition("/")[2]: repo.ref for repo in plan.repos}

    assert {repo: refs[repo] for repo in wanted} == wanted
    assert [repo for repo in refs if repo not in wanted] == [], "every repository is pinned"
    known = {canonicalize_name(Requirement(line).name) for line in lines_of(SETS[name])}
    listed = [package for layer in plan.python.layers for package in layer.packages]
    assert {canonicalize_name(Requirement(package).name) for package in listed} <= known


@pytest.mark.soak
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_uv_still_finds_no_contradiction(name: str, python: str, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.in"
    wanted.write_text("\n".join(lines_of(SETS[name])) + "\n")
    words = [
        find_uv(),
        "pip",
        "compile",
        "-q",
        "--python-version",
        python,
        "--python-platform",
        "x86_64-manylinux_2_28",
    ]

    done = subprocess.run(
        [*words, "--exclude-newer", SETS[name]["exclude_newer"], str(wanted)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
