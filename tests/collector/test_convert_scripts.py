"""Provisioning scripts in the styles that people write: what they bring becomes items, and nothing of it is lost in silence."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
from provision_agent.contract.plan import Plan
from provision_collector import Profile
from provision_collector.convert.converted import Converted
from provision_collector.convert.files import from_file
from provision_collector.convert.shell import from_script
from provision_collector.profile import compile_plan

SCRIPTS = sorted(Path(__file__).with_name("scripts").glob("*.sh"))


def plan_of(converted: Converted) -> Plan:
    return compile_plan(Profile.from_text(converted.to_yaml(comment="a test"), name="made.yaml"))


def wanted(text: str) -> set[str]:
    """What a script says it brings, in lines that begin `#wants:`."""
    return {word for line in re.findall(r"^#wants: (.*)$", text, re.M) for word in line.split()}


def brought(plan: Plan) -> set[str]:
    """`URL>path` of downloads, `URL@path` of repos, `apt:` and `pip:` names."""
    found = {f"{item.url}>{item.path}" for item in plan.downloads}
    found |= {f"{repo.url}@{repo.path}" for repo in plan.repos}
    found |= {f"apt:{name}" for name in plan.apt}
    layers = plan.python.layers if plan.python is not None else ()
    found |= {f"pip:{name}" for layer in layers for name in layer.packages}
    found |= {f"requirements:{layer.requirements}" for layer in layers if layer.requirements}
    return found | {f"file:{file.path}" for file in plan.files}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_script_brings_becomes_items(script: Path) -> None:
    text = script.read_text()

    plan = plan_of(from_file(script))

    assert wanted(text) - brought(plan) == set(), sorted(brought(plan))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_no_address_of_a_script_is_lost_in_silence(script: Path) -> None:
    code = "".join(line for line in script.read_text().splitlines(keepends=True) if not line.startswith("#"))
    converted = from_file(script)
    told = converted.to_yaml(comment="").replace("$${", "${")

    of_the_base = re.compile(r"https://github.com/(comfyanonymous/ComfyUI|ltdrdata/ComfyUI-Manager)(.git)?$")
    for url in re.findall(r"https?://[a-z0-9][^\s\"'|<>;)$]+", code):
        assert of_the_base.match(url) or url.split("?")[0].rstrip("/") in told, url


def test_of_two_branches_the_first_is_taken_and_the_other_is_said() -> None:
    script = (
        "if has_valid_hf_token; then\n"
        "  wget -O models/unet/dev.safetensors https://example.org/dev.safetensors\n"
        "else\n"
        "  wget -O models/unet/schnell.safetensors https://example.org/schnell.safetensors\n"
        "fi\n"
    )

    made = from_script(script, "x")

    assert [item["url"] for item in made.listed("downloads")] == ["https://example.org/dev.safetensors"]
    assert any(
        "the one for `has_valid_hf_token` is taken; `else` would bring `https://example.org/schnell.safetensors`"
        in sentence
        for sentence in made.unresolved
    )


def test_what_is_there_already_is_not_there_on_a_new_instance() -> None:
    script = "if [[ -d tool ]]; then cd tool; git pull; else git clone https://github.com/a/tool; fi\n"

    made = from_script(script, "x")

    assert [repo["url"] for repo in made.listed("repos")] == ["https://github.com/a/tool"]
    assert not [sentence for sentence in made.unresolved if "branches" in sentence]


ENDLESS = {
    "variables that name each other": "A=xxxxxxxxxx\n"
    + "".join(f"{chr(66 + n)}={'$' + chr(65 + n) * 1}{('$' + chr(65 + n)) * 9}\n" for n in range(20))
    + 'LORA_MODELS=("https://example.org/$U")\n',
    "a function that calls itself": "f() { f; f; wget https://example.org/$1; }\nf a\n",
    "loops in loops": "X=("
    + "a " * 200
    + ")\n"
    + 'for a in "${X[@]}"; do ' * 6
    + "wget https://example.org/$a; "
    + "done; " * 6,
    "brackets without end": "if " * 5000 + "(" * 5000 + "$(" * 5000,
    "quotes without end": "a=\"'`$(\"'`" * 5000,
    "a long pattern": 'A="' + "a" * 100_000 + '"\nB=${A%%*a*a*a*a*b}\nLORA_MODELS=("$B")\n',
    "here-documents without end": "cat > x <<EOF\n" * 2000,
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_script_that_grows_without_bound_is_read_within_one(case: str) -> None:
    begun = time.process_time()

    made = from_script(ENDLESS[case], "x")

    assert time.process_time() - begun < 20, "seconds of processor time, on any machine"
    assert len(made.to_yaml(comment="")) < 4 << 20


def blocks() -> list[str]:
    """Lines of many scripts; a text that is written is one of them."""
    found: list[str] = []
    for line in SCRIPTS[0].with_name("lines.txt").read_text().splitlines():
        if found and "<<XX" in found[-1] and not found[-1].endswith("\nXX"):
            found[-1] += f"\n{line}"
        else:
            found.append(line)
    return found


@pytest.mark.parametrize(
    "seeds",
    [range(25), pytest.param(range(25, 1000), marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
    ids=["few", "many"],
)
def test_whatever_lines_a_script_has_the_profile_is_one_and_no_address_is_lost(seeds: range) -> None:
    for seed in seeds:
        chosen = random.Random(seed)
        script = "\n".join(chosen.sample(blocks(), chosen.randint(1, 14)))
        made = from_script(script, "x")
        told = made.to_yaml(comment="").replace("hf://", "https://huggingface.co/")

        plan_of(made)
        for url in re.findall(r"https?://[^\s\"'|<>;)$]+", script):
            url = url.replace("user:pass@", "")  # a login is left out, and never shown
            assert url.split("?")[0].rstrip("/").removesuffix(".git") in told, script
        assert "user:pass" not in told
