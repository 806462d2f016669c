"""What a profile means: every key, `extends`, variables, anchors; seen in the plan that comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
from provision_agent.contract import plan as plans
from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_parts import Bound, HostLimits, SecretRule, Stall, When
from provision_agent.contract.source_kinds import host_limits
from provision_agent.contract.steps import STEP_NAMES
from provision_collector.cli.profiles import as_yaml
from provision_collector.errors import UsageError
from provision_collector.profile import Profile, compile_plan, load_profile

GOLDEN = Path(__file__).parent / "golden"


def plan_of(text: str, **overrides: str) -> Plan:
    return compile_plan(Profile.from_text("version: 1\n" + text, overrides=overrides))


@pytest.fixture
def everything() -> Plan:
    return compile_plan(load_profile(str(GOLDEN / "everything.yaml")))


def test_every_key_of_the_language_reaches_the_plan(everything: Plan) -> None:
    model, folder, zipped, tarred = everything.downloads
    assert (everything.name, everything.workspace, everything.workspace_fallback) == (
        "everything",
        "/data/work",
        False,
    )
    assert (model.size_bytes, model.sha256) == (
        6979321856,
        "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
    )
    assert model.substitute == plans.Substitute(
        "https://example.org/small.safetensors", "models/small.safetensors"
    )
    assert model.when == When(Bound(">=", 24 << 30), "HF_TOKEN", Bound(">", 100 << 30))
    assert (model.limits.file_s, model.limits.stall) == (1800.0, Stall(51200, 60.0))
    assert [d.unpack for d in everything.downloads] == ["no", "auto", "zip", "tar"]
    assert (folder.path, zipped.path, tarred.limits.file_s) == ("packs/", "packs/a.zip", None)
    assert everything.python is not None
    packages, torch, requirements = everything.python.layers
    assert packages.packages == ("numpy", "sympy", "fsspec")
    assert torch.torch == plans.Torch(("2.9.1", "2.7.1", "2.5.1"), "auto", ("torchvision", "torchaudio"))
    assert requirements.requirements == "ComfyUI/requirements.txt"
    assert everything.commands[0].environment == {"PORT": "8188"}
    assert everything.checks[3].glob == ("models/motion/*",)
    assert everything.services[0].run[-1] == "8188"
    assert everything.services[0].ready == plans.Ready(
        "http://127.0.0.1:8188/system_stats", 600.0, 2, {"devices": "not_empty"}
    )
    assert everything.on_failure == plans.Hook(
        ("vastai", "destroy", "instance", "${run_id}"), ("VAST_API_KEY",)
    )
    assert everything.secrets[0] == SecretRule("HF_TOKEN", ("huggingface.co",), ("HUGGINGFACE_HUB_TOKEN",))


def test_the_agent_fills_in_what_only_the_instance_knows(everything: Plan) -> None:
    bound = everything.bind(workspace="/data/work", home="/root", run_id="r1")

    assert bound.files[0].content == "base: /data/work, ${kept}\n"
    assert bound.on_failure is not None and bound.on_failure.run[-1] == "r1"


def test_a_profile_of_nothing_has_every_default() -> None:
    assert plan_of("") == Plan(name="profile", workspace_fallback=True, default_secrets=True)


def test_gentle_hosts_stay_gentle_beside_those_of_the_profile() -> None:
    hosts = plan_of(
        "limits: {hosts: {Dropbox.com: {files: 2}, civitai.com: {connections: 3}, h: {connections: 4}}}"
    ).limits.hosts

    assert host_limits(hosts) == {
        **host_limits(),
        "civitai.com": HostLimits(files=1, connections=3),
        "dropbox.com": HostLimits(files=2, connections=1),
        "h": HostLimits(connections=4),
    }


def test_a_run_is_patient_for_a_minute_unless_the_profile_says_otherwise() -> None:
    assert plan_of("").limits.patience_s == 60.0
    assert plan_of("limits: {patience: 5m}").limits.patience_s == 300.0


def test_an_items_limits_lie_over_the_profiles() -> None:
    plan = plan_of(
        "limits: {file: 1h, attempts: 9, connections: 2, stall: {below: 1MB, for: 5s}}\n"
        "downloads: [{url: https://h/a, path: a, limits: {file: auto, stall: {below: 2MB}}}]"
    )

    limits = plan.downloads[0].limits
    assert (limits.file_s, limits.attempts, limits.connections) == (None, 9, 2)
    assert limits.stall == Stall(2_000_000, 5.0)


PATHS = {
    "plain": ("a/b", "a/b"),
    "with a dot": ("./a//b", "a/b"),
    "with the workspace": ("${workspace}/a/b", "a/b"),
    "a folder": ("a/b/", "a/b/"),
}


@pytest.mark.parametrize("case", PATHS)
def test_a_path_is_relative_to_the_workspace_in_its_shortest_form(case: str) -> None:
    written, expected = PATHS[case]

    assert plan_of(f'downloads: [{{url: https://h/x, path: "{written}"}}]').downloads[0].path == expected


def test_two_downloads_may_go_into_one_folder() -> None:
    plan = plan_of("downloads: [{url: https://h/a, path: d/}, {url: https://h/b, path: d/}]")

    assert len(plan.downloads) == 2


def test_the_same_item_twice_is_one_item() -> None:
    plan = plan_of("apt: [git, git]\ndownloads: [{url: https://h/a, path: a}, {url: https://h/a, path: a}]")

    assert (plan.apt, len(plan.downloads)) == (("git",), 1)


# variables


def content_of(template: str, variables: str = "{}", **overrides: str) -> str:
    text = f"variables: {variables}\nfiles: [{{path: f, content: '{template}'}}]"
    return plan_of(text, **overrides).bind(workspace="/w", home="/h", run_id="r").files[0].content


TEMPLATES = {
    "a variable": ("<${a}>", "{a: x}", {}, "<x>"),
    "a number": ("<${a}>", "{a: 8188}", {}, "<8188>"),
    "a variable in a variable": ("<${a}>", '{a: "${b}!", b: x}', {}, "<x!>"),
    "a built-in in a variable": ("<${a}>", '{a: "${workspace}/${run_id}"}', {}, "</w/r>"),
    "an override": ("<${a}>", "{a: x}", {"a": "y"}, "<y>"),
    "an override inside a variable": ("<${a}>", '{a: "${b}!", b: x}', {"b": "y"}, "<y!>"),
    "an override that nothing declares": ("<${a}>", "{}", {"a": "y"}, "<y>"),
    "an override that looks like a variable": ("<${a}>", "{a: x}", {"a": "${home}$${b}"}, "<${home}$${b}>"),
    "an override that ends in half a variable": ("<${a}{home}>", "{a: x}", {"a": "$"}, "<${home}>"),
    "an escape": ("<$${a}>", "{a: x}", {}, "<${a}>"),
    "an escape in a variable": ("<${a}>", '{a: "$${home}"}', {}, "<${home}>"),
    "a dollar alone": ("5$ $a $$ {a}", "{a: x}", {}, "5$ $a $$ {a}"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_variables_mean_the_same_here_and_on_the_instance(case: str) -> None:
    template, variables, overrides, expected = TEMPLATES[case]

    assert content_of(template, variables, **overrides) == expected


def test_a_variable_can_stand_for_a_number() -> None:
    plan = plan_of(
        'variables: {n: "3"}\nlimits: {run: "${n}", files: "${n}"}\ndownloads: [{url: https://h/a, path: a, size: "${n}"}]'
    )

    assert (plan.limits.run_s, plan.limits.files, plan.downloads[0].size_bytes) == (3.0, 3, 3)


# extends

BASE = """
version: 1
name: base
description: below
variables: {dir: models, ref: v1}
limits: {run: 1h, attempts: 7, hosts: {h: {files: 1}}}
apt: [git]
python: {layers: [[numpy]], protect: [numpy]}
repos: [{url: https://h/r, path: r, ref: "${ref}"}]
downloads:
  - {url: https://h/1, path: "${dir}/a"}
  - {url: https://h/2, path: b, level: critical}
services: [{name: s, run: [one, --flag]}]
on_failure: {run: [destroy, it]}
markers: {success: [done]}
"""


@pytest.fixture
def derived(tmp_path: Path) -> Profile:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "derived.yaml").write_text(
        "version: 1\nextends: base.yaml\n"
        "variables: {ref: v2}\n"
        "limits: {run: 2h, attempts: null, hosts: {h: {connections: 3}}}\n"
        "apt: [ffmpeg, git]\n"
        "python: {layers: [[scipy]]}\n"
        "downloads: [{url: https://h/3, path: c}, {url: https://h/4, path: ./models/a}]\n"
        "services: [{name: s, run: [two]}]\n"
        "on_failure: {run: [stop, it]}\n"
        "markers: {success: [finished]}\n"
    )
    return load_profile(str(tmp_path / "derived.yaml"))


def test_scalars_override_lists_append_and_items_replace_in_their_place(derived: Profile) -> None:
    plan = compile_plan(derived)

    assert (plan.limits.run_s, plan.downloads[0].limits.attempts) == (7200.0, 5)
    assert plan.limits.hosts["h"] == HostLimits(files=1, connections=3)
    assert plan.apt == ("git", "ffmpeg")
    assert plan.python is not None and [layer.packages for layer in plan.python.layers] == [
        ("numpy",),
        ("scipy",),
    ]
    assert [(d.url, d.path) for d in plan.downloads] == [
        ("https://h/4", "models/a"),
        ("https://h/2", "b"),
        ("https://h/3", "c"),
    ]
    assert plan.repos[0].ref == "v2"
    assert [s.run for s in plan.services] == [("two",)]
    assert plan.on_failure is not None and plan.on_failure.run == ("stop", "it")
    assert derived.markers.success == ("done", "finished")


def test_a_profile_is_called_by_its_own_name_and_knows_its_files(derived: Profile) -> None:
    assert (derived.name, derived.document.description) == ("derived", "")
    assert [Path(source).name for source in derived.sources] == ["base.yaml", "derived.yaml"]


def test_a_base_that_two_bases_share_counts_once(tmp_path: Path) -> None:
    (tmp_path / "root.yaml").write_text("version: 1\nlimits: {run: 1h}\npython: {layers: [[numpy]]}\n")
    (tmp_path / "left.yaml").write_text("version: 1\nextends: root.yaml\nlimits: {run: 2h}\n")
    (tmp_path / "right.yaml").write_text("version: 1\nextends: root.yaml\napt: [git]\n")

    plan = compile_plan(
        Profile.from_text("extends: [left.yaml, right.yaml]", name=str(tmp_path / "top.yaml"))
    )

    assert (plan.limits.run_s, plan.apt) == (7200.0, ("git",))
    assert plan.python is not None and len(plan.python.layers) == 1


def test_null_removes_what_the_base_has(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)

    plan = compile_plan(
        Profile.from_text(
            "extends: ./base.yaml\ndownloads: null\non_failure:\npython: ~", name=f"{tmp_path}/p.yaml"
        )
    )

    assert (plan.downloads, plan.on_failure, plan.python) == ((), None, None)


def test_anchors_and_merge_keys_work() -> None:
    plan = plan_of(
        "downloads:\n"
        "  - &first {url: https://h/a, path: a, level: critical, size: 5}\n"
        "  - {<<: *first, path: b, size: 6}\n"
        "  - {<<: [{size: 7}, *first], path: c}\n"
    )

    assert [(d.path, d.level, d.size_bytes) for d in plan.downloads] == [
        ("a", "critical", 5),
        ("b", "critical", 6),
        ("c", "critical", 7),
    ]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbfversion: 1\r\napt:\r\n  - git\r\n")

    assert load_profile(str(path)).document.apt == ("git",)


def test_what_is_resolved_reads_back_as_the_same_plan(everything: Plan) -> None:
    profile = load_profile(str(GOLDEN / "everything.yaml"))

    assert compile_plan(Profile.from_text(as_yaml(profile.resolved()))) == everything


# the caller's choices

WORKSPACES = {
    "the default": ("", None, "/workspace", True),
    "the default, written out": ("workspace: /workspace", None, "/workspace", True),
    "the profile's": ("workspace: ~/w", None, "~/w", False),
    "the caller's": ("workspace: /w", "/mnt/x/", "/mnt/x", False),
    "the default, from the caller": ("", "/workspace", "/workspace", False),
}


@pytest.mark.parametrize("case", WORKSPACES)
def test_only_the_default_workspace_may_be_replaced(case: str) -> None:
    text, given, folder, fallback = WORKSPACES[case]
    plan = compile_plan(Profile.from_text("version: 1\n" + text), workspace=given)

    assert (plan.workspace, plan.workspace_fallback) == (folder, fallback)


STEPS = {
    "all": ((), (), STEP_NAMES),
    "some skipped": (
        ("apt", "services"),
        (),
        tuple(name for name in STEP_NAMES if name not in ("apt", "services")),
    ),
    "one only": ((), ("downloads",), ("downloads", "checks")),
    "one only, without checks": (("checks",), ("downloads",), ("downloads",)),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps_are_skipped_and_chosen(case: str) -> None:
    skip, only, expected = STEPS[case]

    assert compile_plan(Profile.from_text("version: 1"), skip=skip, only=only).steps == expected


def test_the_callers_timeout_and_strictness_win() -> None:
    plan = compile_plan(Profile.from_text("version: 1\nstrict: true"), timeout_s=5.0, strict=False)

    assert (plan.limits.run_s, plan.strict) == (5.0, False)


def test_an_unknown_step_and_a_relative_workspace_are_usage_errors() -> None:
    profile = Profile.from_text("version: 1")

    with pytest.raises(UsageError, match=r"unknown step `download`; did you mean `downloads`\?"):
        compile_plan(profile, skip=["download"])
    with pytest.raises(UsageError, match="must be an absolute path"):
        compile_plan(profile, workspace="work")


def test_the_host_of_a_public_address_is_left_to_whoever_watches() -> None:
    service = '{name: s, run: [a], public: "http://${host}:${port}/"}'

    [planned] = plan_of(f'variables: {{port: "8188"}}\nservices: [{service}]', port="40188").services

    assert planned.public == "http://{host}:40188/"
