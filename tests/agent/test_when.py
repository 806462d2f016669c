"""`when`: what of a plan is wanted on an instance; one place decides for every kind of item."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.agent_runs import AgentRuns
from harness.environments import Surroundings
from provision_agent.commands.query import quiet_context
from provision_agent.contract.plan import Check, Command, Download, File, Layer, Plan, Python, Repo, Service
from provision_agent.contract.plan_parts import AptPackages, Bound, Compared, When
from provision_agent.contract.steps import STEPS
from provision_agent.run import conditions
from provision_agent.run.context import Context
from provision_agent.run.state import StateFile

GIB = 1 << 30
FACTS: dict[str, Any] = {
    "gpus": [
        {"name": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9", "memory_bytes": 24 * GIB},
        {"name": "NVIDIA A100-SXM4-80GB", "compute_capability": "8.0", "memory_bytes": 80 * GIB},
    ],
    "pythons": [{"path": "/usr/bin/python3", "version": "3.11.9"}],
}
"""Of an instance with two cards of different kinds."""


def compared(text: str) -> tuple[Compared, ...]:
    operator = text.rstrip("0123456789.")
    return (Compared(operator, text[len(operator) :]),)


CONDITIONS: dict[str, tuple[When, When, str]] = {
    "gpu_memory": (
        When(gpu_memory=Bound(">=", 40 * GIB)),
        When(gpu_memory=Bound("<", 40 * GIB)),
        "GPU memory is 80 GiB, not < 40 GiB",
    ),
    "gpu_memory in a range": (
        When(gpu_memory=Bound(">", GIB, (Bound("!=", GIB),))),
        When(gpu_memory=Bound(">", GIB, (Bound("<=", 2 * GIB),))),
        "GPU memory is 80 GiB, not <= 2 GiB",
    ),
    "gpu_capability": (
        When(gpu_capability=compared("==8.0")),
        When(gpu_capability=compared(">=8.9")),
        "the compute capability is 8.0, not >= 8.9",
    ),
    "gpu_count": (
        When(gpu_count=compared(">=2")),
        When(gpu_count=compared("!=2")),
        "the number of GPUs is 2, not != 2",
    ),
    "gpu_name": (
        When(gpu_name=("rtx 4090 | h200", "*a100*", "!=Laptop")),
        When(gpu_name=("H100",)),
        "the GPU is NVIDIA GeForce RTX 4090, NVIDIA A100-SXM4-80GB, not `H100`",
    ),
    "disk_free": (When(disk_free=Bound(">", 1)), When(disk_free=Bound("<", 1)), "free disk is "),
    "python": (
        When(python=compared("<=3.11")),
        When(python=compared(">3.11")),
        "Python is 3.11.9, not > 3.11",
    ),
    "secret": (When(secret="SET"), When(secret="NOT_SET"), "the secret NOT_SET is not set"),
}
"""What holds on that instance, what does not, and why."""

SAMPLES: Mapping[str, object] = {"url": "https://127.0.0.1/x", "run": ("true",)}


def plan_with(step: str, when: When) -> Plan:
    """One item of *step*, of which only its identity is given."""
    if step == "apt":
        return Plan("p", apt=(AptPackages(("ffmpeg",), when),))
    if step == "python":
        return Plan("p", python=Python(layers=(Layer(("numpy",), when=when),)))
    kind = typing.get_args(typing.get_type_hints(Plan)[step])[0]
    needed = [each for each in dataclasses.fields(kind) if each.default is each.default_factory]
    given = {each.name: SAMPLES.get(each.name, "x") for each in needed}
    return Plan("p", **{step: (kind(**given, when=when),)})


def wanted(plan: Plan, step: str) -> tuple[object, ...]:
    return plan.python.layers if step == "python" and plan.python else getattr(plan, step)  # type: ignore[no-any-return]


@pytest.fixture
def here(tmp_path: Path) -> Context:
    return quiet_context(str(tmp_path), within_s=5.0, secrets={"SET": "x"}, has_state=False)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_decides_on_every_kind_of_item(name: str, step: str, here: Context) -> None:
    holds, fails, reason = CONDITIONS[name]

    there = conditions.select(plan_with(step, holds), FACTS, here)
    gone = conditions.select(plan_with(step, fails), FACTS, here)

    assert (len(wanted(there.plan, step)), there.skipped, there.clashes) == (1, (), ())
    assert not conditions.has_conditions(there.plan)
    assert wanted(gone.plan, step) == ()
    [skipped] = gone.skipped
    assert (skipped.step, skipped.number, bool(skipped.item)) == (step, 0, True)
    assert skipped.reason.startswith(reason)


@pytest.mark.parametrize(
    ("when", "facts", "reason"),
    [
        (When(gpu_capability=compared("<8.9")), {}, "there is no GPU; wanted is < 8.9"),
        (When(gpu_name=("4090",)), {}, "the GPU is none, not `4090`"),
        (When(gpu_name=("!=4090",)), {}, None),
        (When(gpu_count=compared("==0")), {}, None),
        (
            When(gpu_capability=compared("!=8.9")),
            {"gpus": [{"name": "x", "compute_capability": "[N/A]"}]},
            "the compute capability is not known; wanted is != 8.9",
        ),
        (When(python=compared("==3.11")), FACTS, None),
        (When(python=compared("==3.11.8")), FACTS, "Python is 3.11.9, not == 3.11.8"),
        (When(python=compared("!=3.11")), FACTS, "Python is 3.11.9, not != 3.11"),
        (When(gpu_capability=compared("==8")), FACTS, None),
        (When(gpu_name=("NVIDIA A100*",)), FACTS, None),
        (
            When(gpu_name=("A100*",)),
            FACTS,
            "the GPU is NVIDIA GeForce RTX 4090, NVIDIA A100-SXM4-80GB, not `A100*`",
        ),
    ],
    ids=[
        "capability-without-a-gpu",
        "name-without-a-gpu",
        "not-named-without-a-gpu",
        "no-gpu",
        "capability-that-nobody-tells",
        "python-as-far-as-written",
        "python-to-the-patch",
        "not-that-python",
        "capability-as-far-as-written",
        "pattern-for-all-of-the-name",
        "pattern-for-a-part",
    ],
)
def test_what_is_not_known_holds_nothing_and_versions_count_as_far_as_they_are_written(
    when: When, facts: dict[str, Any], reason: str | None, here: Context
) -> None:
    assert conditions.unmet(when, facts, here) == reason


@pytest.mark.parametrize(
    ("name", "mebibytes", "gib"),
    [
        ("RTX 4090", 24564, 24),
        ("A10G", 23028, 24),
        ("T4", 15360, 16),
        ("RTX 5090", 32607, 32),
        ("L40S", 46068, 48),
        ("A100 40", 40536, 40),
        ("H100", 81559, 80),
        ("H100 NVL", 95830, 94),
        ("H200", 143771, 141),
        ("GTX 1080 Ti", 11264, 11),
        ("unheard of", 35000, 35000 / 1024),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_a_card_has_the_memory_that_it_is_sold_with(
    name: str, mebibytes: int, gib: float, here: Context
) -> None:
    facts = {"gpus": [{"name": name, "memory_bytes": mebibytes << 20}]}

    assert conditions.unmet(When(gpu_memory=Bound("==", int(gib * GIB))), facts, here) is None


def test_the_python_of_an_environment_that_is_there_counts(here: Context) -> None:
    folder = Path(here.workspace, "venv", "bin")
    folder.mkdir(parents=True)
    (folder / "python").touch()
    Path(here.workspace, "venv", "pyvenv.cfg").write_text("home = /x\nversion_info = 3.12.4\n")
    plan = Plan("p", python=Python(layers=(Layer(("numpy",), when=When(python=compared("==3.12"))),)))

    assert conditions.select(plan, FACTS, here).skipped == ()


def test_one_of_two_variants_of_a_path_is_taken_and_two_that_hold_fail_by_name(here: Context) -> None:
    new = Download("https://h/fp8", "m/a", level="critical", when=When(gpu_capability=compared(">=8.9")))
    old = Download("https://h/fp16", "m/a", when=When(gpu_capability=compared("<8.9")))
    both = replace(new, when=When(gpu_count=compared("==2")))

    one = conditions.select(Plan("p", downloads=(new, old)), FACTS, here)
    two = conditions.select(Plan("p", downloads=(both, old)), FACTS, here)

    assert [item.url for item in one.plan.downloads] == ["https://h/fp16"]
    assert ([each.number for each in one.skipped], one.clashes) == ([0], ())
    assert two.plan.downloads == ()
    [clash] = two.clashes
    assert (clash.step, clash.numbers, clash.key, clash.level) == ("downloads", (0, 1), "m/a", "critical")
    assert clash.message == (
        "2 items that are not the same are wanted here as `m/a`: "
        "`gpu_count == 2` and `gpu_capability < 8.9` hold on this instance"
    )


def test_what_lies_in_a_skipped_checkout_or_asks_for_what_is_skipped_goes_with_it(here: Context) -> None:
    no = When(gpu_count=compared(">=99"))
    plan = Plan(
        "p",
        python=Python(layers=(Layer(requirements="app/requirements.txt"), Layer(("numpy",)))),
        repos=(Repo("https://h/app", "app", when=no), Repo("https://h/n", "app/nodes/n"), Repo("https://h/o", "other")),
        downloads=(Download("https://h/m", "app/models/m"), Download("https://h/k", "kept"), Download("https://h/g", "gone", when=no)),
        files=(File("app/settings", "x"), File("settings", "x")),
        commands=(Command("in app", ("true",), directory="app"), Command("elsewhere", ("true",))),
        checks=(
            Check("node", path="app/nodes/n"),
            Check("models", glob=("app/models/*", "app/more/*")),
            Check("also elsewhere", glob=("app/models/*", "models/*")),
            Check("asks", service="app"),
            Check("gone", path="gone"),
            Check("kept", path="kept"),
        ),
        services=(Service("app", ("true",), directory="app"),),
    )  # fmt: skip

    found = conditions.select(plan, FACTS, here)

    left = found.plan
    assert left.python is not None and [layer.title for layer in left.python.layers] == ["numpy"]
    assert [item.key for step in STEPS for item in left.items(step)] == [
        "other", "kept", "settings", "elsewhere", "also elsewhere", "kept",
    ]  # fmt: skip
    reasons = {(each.step, each.key): each.reason for each in found.skipped}
    why = "the number of GPUs is 2, not >= 99"
    assert reasons["repos", "app"] == why
    assert reasons["repos", "app/nodes/n"] == reasons["services", "app"] == f"`app` is skipped: {why}"
    assert reasons["checks", "asks"] == f"the service `app` is skipped: `app` is skipped: {why}"
    assert reasons["checks", "gone"] == f"`gone` is skipped: {why}"


def test_nothing_goes_with_a_checkout_that_another_variant_brings(here: Context) -> None:
    no, yes = When(gpu_count=compared("==0")), When(gpu_count=compared("==2"))
    plan = Plan(
        "p",
        repos=(Repo("https://h/a", "app", when=no), Repo("https://h/b", "app", when=yes)),
        services=(Service("app", ("true",), directory="app"),),
    )

    found = conditions.select(plan, FACTS, here)

    assert [repo.url for repo in found.plan.repos] == ["https://h/b"]
    assert len(found.plan.services) == 1


def test_what_depends_on_the_instance_is_left_aside_where_none_was_asked(here: Context) -> None:
    plan = replace(
        plan_with("python", When(gpu_count=compared("==1"))),
        apt=("git", AptPackages(("ffmpeg",), When(gpu_count=compared("==1")))),
        files=(File("f", "x"), File("g", "x", when=When(gpu_count=compared("==1")))),
    )

    found = conditions.unconditional(plan)

    assert (found.apt, [file.path for file in found.files]) == (("git",), ["f"])
    assert found.python is not None and found.python.layers == ()


def test_what_a_plan_has_brought_does_not_count_as_a_full_disk_for_it(tmp_path: Path) -> None:
    """A run that is resumed, or done again, wants what it wanted at first."""
    here = Surroundings(str(tmp_path)).context
    disk = os.statvfs(tmp_path)
    more = When(disk_free=Bound(">", disk.f_bavail * disk.f_frsize + (1 << 40)))
    plan = Plan("p", downloads=(Download("https://h/a", "a", when=more),))
    first = conditions.select(plan, FACTS, here)
    here.state.put("free_disk", plan.hash, {"bytes": disk.f_bavail * disk.f_frsize + (2 << 40)})

    again = conditions.select(plan, FACTS, here)
    other = conditions.select(replace(plan, name="q"), FACTS, here)

    assert [len(each.skipped) for each in (first, again, other)] == [1, 0, 1]


def test_a_run_remembers_how_much_was_free(tmp_path: Path) -> None:
    runs = AgentRuns(tmp_path)

    runs.run({"files": [{"path": "f", "content": "x", "when": {"disk_free": {"op": ">", "value_bytes": 1}}}]})

    records = StateFile(str(runs.workspace / ".provision" / "state.json")).all("free_disk")
    assert [record["bytes"] > 1 for record in records] == [True]  # type: ignore[operator]


NO = {"gpu_count": [{"op": ">=", "value": "99"}]}
YES = {"gpu_count": [{"op": "<", "value": "99"}]}


def test_a_run_says_what_it_skips_and_is_complete_without_it(tmp_path: Path) -> None:
    told = AgentRuns(tmp_path).run(
        {
            "apt": [{"packages": ["no-such-package"], "when": NO}],
            "python": {"layers": [{"packages": ["no-such-package"], "when": NO}]},
            "repos": [{"url": "file:///no/such", "path": "r", "level": "critical", "when": NO}],
            "downloads": [{"url": "file:///no/such", "path": "d", "level": "critical", "when": NO}],
            "files": [
                {"path": "f", "content": "one", "when": YES},
                {"path": "f", "content": "two", "when": NO},
            ],
            "commands": [{"name": "c", "run": ["false"], "level": "critical", "when": NO}],
            "checks": [{"name": "k", "path": "no", "level": "critical", "when": NO}],
            "services": [{"name": "s", "run": ["false"], "level": "critical", "when": NO}],
            "steps": ["apt", "repos", "downloads", "files", "commands", "checks", "services"],
        }
    )

    assert told.verdict == "complete"
    assert (tmp_path / "workspace" / "f").read_text() == "one"
    skipped = {each["item"]: each["event"] for each in told.events if each["event"].endswith("_skipped")}
    assert skipped == {
        "apt:no-such-package": "package_skipped",
        "r": "repo_skipped",
        "d": "download_skipped",
        "f": "file_skipped",
        "c": "command_skipped",
        "k": "check_skipped",
        "s": "service_skipped",
    }, "of the steps that are done"
    assert told.of("check_skipped")[0]["reason"].endswith(", not >= 99")
    assert told.of("run_usable") != [], "nothing critical is wanted here"


def test_a_run_fails_by_name_where_two_variants_are_wanted(tmp_path: Path) -> None:
    told = AgentRuns(tmp_path).run(
        {
            "files": [
                {"path": "f", "content": "one", "when": YES},
                {"path": "f", "content": "two", "level": "optional", "when": {"gpu_count": [{"op": "!=", "value": "98"}]}},
            ],
        }
    )  # fmt: skip

    assert told.verdict == "failed"
    [failed] = told.of("file_failed")
    assert (failed["item"], failed["level"], failed["class"]) == ("f", "required", "conflict")
    assert "`gpu_count < 99` and `gpu_count != 98` hold on this instance" in failed["message"]
    assert not os.path.exists(tmp_path / "workspace" / "f")
