"""`extends`: what one profile takes from another, replaces in it and removes from it; and every mistake of every file."""

from __future__ import annotations

from pathlib import Path

import pytest
from provision_agent.contract.plan import Plan
from provision_collector.errors import ProfileError
from provision_collector.profile import Profile, compile_plan, load_profile

BASE = """
version: 1
name: base
python:
  layers:
    - {name: numbers, packages: [numpy]}
    - {name: gpu, torch: {version: 2.9.1}}
    - {name: comfy, requirements: ComfyUI/requirements.txt}
repos:
  - {url: https://h/comfy, path: ComfyUI}
  - {name: manager, url: https://h/manager, path: ComfyUI/custom_nodes/Manager}
downloads:
  - {name: model, url: https://h/a, path: models/a}
  - {url: https://h/b, path: models/}
  - {url: https://h/c, path: models/}
files: [{path: f.txt, content: x}]
commands: [{name: warm up, run: [a]}]
checks: [{name: Models, glob: "models/*"}, {name: Main, path: ComfyUI/main.py}]
services: [{name: web, run: [web]}]
"""


def plan_of(folder: Path, text: str, base: str = BASE) -> Plan:
    (folder / "base.yaml").write_text(base)
    return compile_plan(Profile.from_text("extends: ./base.yaml\n" + text, name=f"{folder}/p.yaml"))


def problems_of(path: Path, **overrides: str) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        load_profile(str(path), overrides=overrides)
    return [line.removeprefix(f"{path.parent}/").removeprefix("./") for line in caught.value.problems]


def said_by(folder: Path, text: str) -> list[str]:
    (folder / "base.yaml").write_text(BASE)
    (folder / "p.yaml").write_text("extends: ./base.yaml\n" + text)
    return problems_of(folder / "p.yaml")


def test_an_item_of_the_same_name_replaces_the_one_below_wherever_it_goes(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "python: {layers: [{name: gpu, torch: {version: 2.7.1, accelerator: cpu}}, [scipy]]}\n"
        "repos: [{name: manager, url: https://h/mine, path: ComfyUI/custom_nodes/Mine}]\n"
        "downloads: [{name: model, url: https://h/z, path: other/z}]\n"
        "checks: [{name: Models, path: other/z}]\n"
        "services: [{name: web, run: [mine]}]\n",
    )

    assert plan.python is not None
    layers = [layer.packages or layer.requirements or layer.torch for layer in plan.python.layers]
    assert [layers[0], *layers[2:]] == [("numpy",), "ComfyUI/requirements.txt", ("scipy",)]
    assert plan.python.layers[1].torch is not None and plan.python.layers[1].torch.versions == ("2.7.1",)
    assert [(repo.url, repo.path) for repo in plan.repos] == [
        ("https://h/comfy", "ComfyUI"),
        ("https://h/mine", "ComfyUI/custom_nodes/Mine"),
    ]
    assert [item.path for item in plan.downloads] == ["other/z", "models/", "models/"]
    assert [(check.name, check.path) for check in plan.checks] == [
        ("Models", "other/z"),
        ("Main", "ComfyUI/main.py"),
    ]
    assert [service.run for service in plan.services] == [("mine",)]


def test_what_is_removed_by_name_or_identity_is_not_in_the_plan(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "python: {layers: [{name: gpu, remove: true}]}\n"
        "repos: [{name: manager, remove: true}]\n"
        "downloads: [{name: model, remove: true}, {path: ./models/, url: https://h/c, remove: true}]\n"
        "files: [{path: f.txt, remove: true}]\n"
        "commands: [{name: warm up, remove: true}]\n"
        "checks: [{name: Models, remove: true}]\n"
        "services: [{name: web, remove: true}]\n",
    )

    assert plan.python is not None
    assert [layer.packages or layer.requirements for layer in plan.python.layers] == [
        ("numpy",),
        "ComfyUI/requirements.txt",
    ]
    assert [repo.path for repo in plan.repos] == ["ComfyUI"]
    assert [item.url for item in plan.downloads] == ["https://h/b"]
    assert (plan.files, plan.commands, plan.services) == ((), (), ())
    assert [check.name for check in plan.checks] == ["Main"]


def test_a_repo_without_a_name_is_removed_by_its_path(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "repos: [{path: ComfyUI/, remove: true}]")

    assert [repo.path for repo in plan.repos] == ["ComfyUI/custom_nodes/Manager"]


def test_what_one_base_brings_another_one_may_remove(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "small.yaml").write_text(
        "version: 1\nextends: base.yaml\nservices: [{name: web, remove: true}]"
    )
    (tmp_path / "p.yaml").write_text("extends: [small.yaml]\nchecks: [{name: Main, remove: true}]")
    plan = compile_plan(load_profile(str(tmp_path / "p.yaml")))

    assert ([each.name for each in plan.checks], plan.services) == (["Models"], ())


def test_the_name_of_an_item_is_no_part_of_the_work(tmp_path: Path) -> None:
    nameless = BASE
    for name in ("numbers", "gpu", "comfy", "manager", "model"):
        nameless = nameless.replace(f"name: {name}, ", "")

    assert plan_of(tmp_path, "").hash == plan_of(tmp_path, "", base=nameless).hash


WRONG_REMOVALS = {
    "what is not there": (
        "repos: [{name: manger, remove: true}]",
        ["2:9: there is no `manger` in the `repos` below to remove; did you mean `manager`?"],
    ),
    "nothing by name": (
        "services: [{remove: true}]",
        ["2:12: an entry that removes another one says which, by its `name`"],
    ),
    "nothing by path": (
        "downloads: [{url: https://h/a, remove: true}]",
        ["2:13: an entry that removes another one says which, by its `name` or `path`"],
    ),
    "with more to say": (
        "checks: [{name: Main, level: critical, remove: true}]",
        ["2:23: `level` means nothing beside `remove: true`; to replace an item, leave out `remove`"],
    ),
    "false": (
        "checks: [{name: Main, remove: false}]",
        ["2:31: `remove` is `true`, or is left out; here it is `false`"],
    ),
    "twice": (
        "checks: [{name: Main, remove: true}, {name: Main, remove: true}]",
        ["2:38: `Main` of the `checks` below is removed or replaced above already"],
    ),
}


@pytest.mark.parametrize("case", WRONG_REMOVALS)
def test_a_removal_that_means_nothing_is_said(case: str, tmp_path: Path) -> None:
    text, expected = WRONG_REMOVALS[case]

    assert [line.removeprefix("p.yaml:") for line in said_by(tmp_path, text)] == expected


def test_a_profile_without_a_base_has_nothing_to_remove() -> None:
    with pytest.raises(ProfileError) as caught:
        Profile.from_text("version: 1\nchecks: [{name: A, remove: true}]", name="p.yaml")

    assert caught.value.problems == ["p.yaml:2:10: there is no `A` in the `checks` below to remove"]


def test_two_items_of_one_name_are_said(tmp_path: Path) -> None:
    text = "repos: [{name: a, url: https://h/1, path: one}, {name: a, url: https://h/2, path: two}]"

    assert said_by(tmp_path, text) == ["p.yaml:2:56: two repos are called `a`; the first is on line 2"]


MISTAKES = """
limits: {run: soon}
apt: [Git, ffmpeg]
repos: [{url: https://h/r, path: /abs}]
downloads:
  - {url: ftp://h/a, path: a}
  - {url: https://h/a, path: ../b, level: urgent}
checks: [{name: a}]
colour: red
"""
SAID = ["limits", "Git", "`/abs`", "ftp", "../b", "`level`", "a check has one of", "unknown key `colour`"]


@pytest.mark.parametrize(
    "extends",
    ["no-such-name", "./no.yaml", "[{a: b}]", "[./p.yaml]", "./torn.yaml", "[comfyui-min, ./no.yaml]", "5"],
)
def test_a_wrong_extends_hides_no_other_mistake(extends: str, tmp_path: Path) -> None:
    (tmp_path / "torn.yaml").write_text("version: 1\napt: [git\n")
    (tmp_path / "p.yaml").write_text(f"version: 1\nextends: {extends}{MISTAKES}")
    found = problems_of(tmp_path / "p.yaml")

    assert [word for word in SAID if not any(word in line for line in found)] == []
    assert len(found) == len(SAID) + 1, found


def test_every_file_of_the_chain_tells_its_own_mistakes_beside_a_base_that_is_not_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\nextends: ./gone.yaml\nname: not a name\napt: [Git]\n")
    (tmp_path / "b.yaml").write_text("version: 1\nextends: [./gone.yaml, nobody]\nstrict: maybe\n")
    (tmp_path / "p.yaml").write_text("version: 1\nextends: [./a.yaml, ./b.yaml]\nlimits: {files: 0}\n")

    assert [line.partition(": ")[0] for line in problems_of(tmp_path / "p.yaml")] == [
        "p.yaml:3:17", "a.yaml:2:10", "a.yaml:3:7", "a.yaml:4:7", "b.yaml:2:11", "b.yaml:2:24", "b.yaml:3:9",
    ]  # fmt: skip


def test_a_mistake_in_a_base_is_said_though_the_profile_above_replaces_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "version: 1\nname: no name\nlimits: {run: soon}\nfiles: [{path: a, content: x, mode: rw}]\n"
        "checks: [{name: c, path: p, glob: g}]\nservices: [{name: s, run: []}]\n"
    )
    (tmp_path / "p.yaml").write_text(
        "extends: ./base.yaml\nlimits: {run: 1h}\nfiles: [{path: a, content: x}]\nchecks: [{name: c, path: p}]\nservices: null\n"
    )

    assert [line.partition(": ")[0] for line in problems_of(tmp_path / "p.yaml")] == [
        "base.yaml:2:7", "base.yaml:3:15", "base.yaml:4:37", "base.yaml:5:29", "base.yaml:6:27",
    ]  # fmt: skip


def test_what_a_missing_base_may_have_held_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "extends: ./gone.yaml\n"
        "variables: {both: '${theirs}/x'}\n"
        "files: [{path: '${both}', content: '${theirs}', mode: '${mode}'}]\n"
        "downloads: [{url: '${host}/a', path: a, size: '${size}', when: {secret: THEIR_TOKEN}}]\n"
        "checks: [{name: Theirs, remove: true}]\n"
        "commands: [{name: a, run: [b], secrets: [THEIR_TOKEN]}]\n"
    )

    assert problems_of(tmp_path / "p.yaml", theirs2="x") == [
        f"p.yaml:1:10: `{tmp_path}/./gone.yaml`: no such file"
    ]
