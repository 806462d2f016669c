"""`when` in profiles: what may be written, which variants may stand side by side, and what `plan` says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from provision_agent.contract.findings import ClashTold, Disk, PackageTold, Present, SkippedTold, Standing
from provision_agent.contract.plan import Download, File, Plan, Repo
from provision_agent.contract.plan_parts import AptPackages, Bound, Compared, When
from provision_collector.cli.plan import screen
from provision_collector.errors import ProfileError
from provision_collector.planning.answers import Source, Survey
from provision_collector.planning.estimate import estimate_of
from provision_collector.profile import load_profile
from provision_collector.profile.compile import compile_plan

GIB = 1 << 30


def plan_of(tmp_path: Path, text: str, base: str | None = None) -> Plan:
    if base is not None:
        (tmp_path / "base.yaml").write_text(f"version: 1\n{base}")
    head = "version: 1\n" if base is None else "extends: ./base.yaml\n"
    (tmp_path / "p.yaml").write_text(head + text)
    return compile_plan(load_profile(str(tmp_path / "p.yaml")))


def problems_of(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ProfileError) as found:
        plan_of(tmp_path, text)
    return [line.partition("p.yaml:")[2] for line in found.value.problems]


CONDITIONS = {
    'gpu_memory: ">=24GiB"': When(gpu_memory=Bound(">=", 24 * GIB)),
    'gpu_memory: [">=16GiB", "<48GiB"]': When(gpu_memory=Bound(">=", 16 * GIB, (Bound("<", 48 * GIB),))),
    'gpu_capability: ">= 8.9"': When(gpu_capability=(Compared(">=", "8.9"),)),
    'gpu_capability: "9.0"': When(gpu_capability=(Compared("==", "9.0"),)),
    "gpu_count: 2": When(gpu_count=(Compared("==", "2"),)),
    'gpu_count: [">1", "!=3"]': When(gpu_count=(Compared(">", "1"), Compared("!=", "3"))),
    "gpu_name: RTX 4090 | RTX 5090": When(gpu_name=("RTX 4090 | RTX 5090",)),
    'gpu_name: ["=*H100*", "!= PCIe"]': When(gpu_name=("*H100*", "!=PCIe")),
    'python: "=3.11"': When(python=(Compared("==", "3.11"),)),
    'disk_free: "!=1GiB"': When(disk_free=Bound("!=", GIB)),
    "secret: HF_TOKEN": When(secret="HF_TOKEN"),
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_a_condition_is_read_as_it_is_written(text: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, f"checks: [{{name: a, path: b, when: {{{text}}}}}]")

    assert plan.checks[0].when == CONDITIONS[text]
    assert Plan.from_json(plan.to_json()) == plan


WRONG = {
    "gpu_memory: 24GiB": "write an operator and a size, such as `>=24GiB`",
    "gpu_capability: 8.9": "quote it, as",
    "gpu_capability: sm_89": "write an operator and a value, such as `>=8.9`",
    'gpu_count: ">=two"': "write an operator and a value, such as `>=2`",
    'gpu_name: ">=4090"': "names have no order",
    "gpu_name: 4090 |": "a name is missing beside `|`",
    "python: [3, 11.0]": "must be a string with a condition such as `>=3.11`, or a list of them",
    "gpu_memory: []": "must be a condition such as `>=24GiB`, or a list of them, not a list",
    "gpu: 1": "unknown key `gpu`; known here: disk_free, gpu_capability,",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_condition_that_is_none_is_said_in_one_line(text: str, tmp_path: Path) -> None:
    [problem] = problems_of(tmp_path, f"checks: [{{name: a, path: b, when: {{{text}}}}}]")

    assert WRONG[text] in problem


def test_packages_of_the_system_and_layers_have_conditions(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "apt: [git, {packages: [ffmpeg, vim], when: {gpu_count: 1}}]\n"
        "python: {layers: [{packages: [numpy], when: {gpu_count: 1}}]}\n",
    )

    one = When(gpu_count=(Compared("==", "1"),))
    assert plan.apt == ("git", AptPackages(("ffmpeg", "vim"), one))
    assert plan.python is not None and plan.python.layers[0].when == one
    assert all(plan.knows(f"apt:{name}") for name in ("git", "ffmpeg", "vim"))
    assert plan.system_packages == ("git",)


NEW, OLD = '{gpu_capability: ">=8.9"}', '{gpu_capability: "<8.9"}'


def test_variants_of_one_path_or_name_may_stand_side_by_side(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        f"downloads:\n  - {{url: https://h/fp8, path: m/a, when: {NEW}}}\n  - {{url: https://h/fp16, path: m/a, when: {OLD}}}\n"
        f"files: [{{path: f, content: a, when: {NEW}}}, {{path: f, content: b, when: {OLD}}}]\n"
        f"services:\n  - {{name: s, run: [a, --fast, fp8], when: {NEW}}}\n  - {{name: s, run: [a], when: {OLD}}}\n",
    )

    assert [len(plan.items(step)) for step in ("downloads", "files", "services")] == [2, 2, 2]


@pytest.mark.parametrize(
    ("first", "second"), [("", f", when: {NEW}"), (f", when: {NEW}", f", when: {NEW}")], ids=["one", "same"]
)
def test_variants_of_which_an_instance_cannot_choose_one_are_refused(
    first: str, second: str, tmp_path: Path
) -> None:
    [path, name] = problems_of(
        tmp_path,
        f"files: [{{path: f, content: a{first}}}, {{path: f, content: b{second}}}]\n"
        f"services: [{{name: s, run: [a]{first}}}, {{name: s, run: [b]{second}}}]\n",
    )

    assert path.endswith("; where an instance is to choose, both need a `when`, and not the same")
    assert "two services are called `s`" in name


VARIANTS = f"files: [{{path: f, content: a, when: {NEW}}}, {{path: f, content: b, when: {OLD}}}]\n"


@pytest.mark.parametrize(
    ("over", "left"),
    [
        (f"files: [{{path: f, content: c, when: {OLD}}}]", ["a", "c"]),
        ("files: [{path: f, content: c}]", ["c"]),
        ("files: [{path: f, content: c, when: {gpu_count: 1}}]", ["c"]),
        ("files: [{path: f, remove: true}]", []),
        (f"files: [{{path: f, content: c, when: {NEW}}}, {{path: f, content: d, when: {OLD}}}]", ["c", "d"]),
    ],
    ids=["the-same-variant", "all", "all-by-another", "removed", "each"],
)
def test_an_overlay_replaces_the_variant_of_its_condition_or_all(
    over: str, left: list[str], tmp_path: Path
) -> None:
    assert [file.content for file in plan_of(tmp_path, over, base=VARIANTS).files] == left


def variants() -> Plan:
    one, two = When(gpu_capability=(Compared(">=", "8.9"),)), When(gpu_capability=(Compared("<", "8.9"),))
    return Plan(
        "p",
        apt=("git", AptPackages(("nvtop",), one)),
        repos=(Repo("https://h/r", "r", when=one, install="requirements.txt"),),
        downloads=(
            Download("https://h/8", "m/a", size_bytes=8000, when=one),
            Download("https://h/16", "m/a", size_bytes=16000, when=two),
            Download("https://h/b", "m/b", size_bytes=500),
        ),
        files=(File("f", "x", when=two),),
    )


def test_without_an_instance_what_depends_on_it_is_said_and_counts_neither_way() -> None:
    found = estimate_of(variants(), None)

    assert [file.state for file in found.files] == ["depends", "depends", "fetch"]
    assert (found.fetch_bytes, found.total_bytes, found.depends_bytes) == (500, 500, 16000)
    assert found.at_once == ("downloads (3, 2 by the instance)", "repos (1, 1 by the instance)", "apt (2, 1 by the instance)")  # fmt: skip
    text = "\n".join(screen(found, host=None, width=200))
    assert "500 B, and up to 16.0 kB more as the instance is" in text
    assert "depends   apt: apt:nvtop: only when gpu_capability >= 8.9" in text
    assert "depends   files: f: only when gpu_capability < 8.9" in text
    assert "depends   m/a: only when gpu_capability >= 8.9" in text


def test_an_instance_says_what_of_it_is_skipped_and_what_clashes() -> None:
    why = "the compute capability is 8.6, not >= 8.9"
    skipped = (
        SkippedTold("repos", 0, "r", "r", "required", why),
        SkippedTold("downloads", 0, "m/a", "m/a", "required", why),
        SkippedTold("apt", 1, "apt:nvtop", "apt:nvtop", "critical", why),
    )
    clashes = (ClashTold("downloads", (1, 2), "m/b", "m/b", "required", "2 items are wanted here"),)
    present = (Present("absent", 8000), Present("absent", 16000), Present("absent", 500))
    disks = (Disk("/w", 10**12),)
    standing = Standing(
        "/w", True, {}, 0.0, present, (why, None, None), ("",), disks, {}, skipped=skipped, clashes=clashes
    )
    asked = tuple((Source(f"https://h/{name}", "ok"),) for name in "abc")

    found = estimate_of(variants(), Survey(asked, (asked[0],), standing, None))

    assert [file.state for file in found.files] == ["skipped", "unavailable", "unavailable"]
    assert (found.fetch_bytes, found.depends_bytes) == (0, 0)
    assert found.at_once == ("downloads (2)", "repos (0)", "apt (1)")
    assert [(each.step, each.item, each.state) for each in found.conditional] == [
        ("repos", "r", "skipped"),
        ("apt", "apt:nvtop", "skipped"),
    ]
    text = "\n".join(screen(found, host="h", width=200))
    assert (
        f"skipped   repos: r: {why}" in text and "missing   m/a (and 1 more): 2 items are wanted here" in text
    )


SAGE = "{name: sageattention, wheels: ['https://h/s-{python}-{torch}-{cuda}-sm{capability}.whl']"


def test_compiled_packages_stand_among_the_others_and_a_wrong_one_is_said_at_its_place(
    tmp_path: Path,
) -> None:
    plan = plan_of(tmp_path, f"python: {{layers: [[numpy, {SAGE}, level: optional}}, scipy]]}}")
    wrong = problems_of(
        tmp_path,
        "python:\n  layers:\n    - packages:\n        - {name: a, wheels: ['https://h/{gpu}.whl']}\n"
        "        - {name: a, wheels: ['https://h/a.zip']}\n        - {name: a, wheels: ['https://h/a.whl#sha256=1']}\n"
        "        - {name: a, wheel: x}\n        - -x\n",
    )

    assert plan.python is not None
    [layer] = plan.python.layers
    assert layer.packages == ("numpy", "scipy")
    assert [(each.name, each.build, each.level) for each in layer.compiled] == [
        ("sageattention", "never", "optional")
    ]
    assert Plan.from_json(plan.to_json()) == plan
    assert [line.partition(": ")[0] for line in wrong] == ["5:30", "6:30", "7:30", "8:11", "8:21", "9:11"]
    assert "`{gpu}` is none of the placeholders of a wheel: {python}, {python_version}, {torch}" in wrong[0]


def test_the_plan_names_the_wheel_or_says_none(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, f"python: {{layers: [[{SAGE}}}, {SAGE.replace('sage', 'fast')}, level: optional}}]]}}"
    )
    rows = (
        PackageTold("sageattention", "required", "s-cp311.whl", "s-cp311.whl is for Python 3.11"),
        PackageTold(
            "fastattention", "optional", None, "there is no prebuilt wheel of fastattention for Python 3.11"
        ),
    )
    standing = Standing("/w", True, {}, 0.0, (), (), (), (), {}, compiled=rows)

    told = "\n".join(screen(estimate_of(plan, Survey((), (), standing, None)), host="h", width=200))
    unknown = "\n".join(screen(estimate_of(plan, None), host=None, width=200))

    assert "wheel     python: sageattention: s-cp311.whl is for Python 3.11" in told
    assert "none      python: fastattention: there is no prebuilt wheel of fastattention" in told
    assert (
        "depends   python: sageattention: a wheel for the instance's Python, torch, CUDA and card" in unknown
    )
