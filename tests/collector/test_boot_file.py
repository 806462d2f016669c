"""What is in the file of `provision bundle`, and what is refused because it must not be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from provision_agent.contract.plan import Download, File, Plan
from provision_collector.cli import main
from provision_collector.errors import UsageError
from provision_collector.planning.boot_file import boot_file, secrets_within

PROFILE = """
version: 1
name: p
secrets: {HF_TOKEN: {hosts: [example.org]}}
commands: [{name: c, run: [echo, "%s"]}]
"""


def test_the_same_plan_makes_the_same_bytes() -> None:
    plan = Plan(name="é")

    assert boot_file(plan, labels={"a": "b"}) == boot_file(plan, labels={"a": "b"})
    assert boot_file(plan, labels={}) != boot_file(plan, labels={"a": "b"})


def test_a_value_that_stands_in_the_plan_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text(PROFILE % "hf_abcdefghijklmnop")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    with pytest.raises(SystemExit) as ended:
        main(["bundle", str(tmp_path / "p.yaml"), "-o", str(tmp_path / "boot.py")])

    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "the value of `HF_TOKEN` stands in the plan" in said and "hf_abc" not in said
    assert "declare it under `secrets:`" in said
    assert not (tmp_path / "boot.py").exists()


@pytest.mark.parametrize(
    "url",
    [
        "https://a:b@example.org/x",
        "https://example.org/x?token=abc",
        "https://example.org/x?a=1&X-Amz-Signature=9",
    ],
)
def test_an_address_that_opens_a_door_is_named_without_its_key(url: str) -> None:
    plan = Plan(
        name="p", downloads=(Download(url, "x"), Download("https://example.org/y?download=true#part", "y"))
    )

    [found] = secrets_within(plan, {})

    assert found.startswith("`https://example.org/x") and "is given with a login, a token" in found
    assert "abc" not in found and "b@" not in found


def test_a_plan_that_is_too_large_is_refused_with_what_to_do() -> None:
    import random

    noise = random.Random(1).randbytes(700_000).hex()
    with pytest.raises(UsageError, match="1048576 are the most"):
        boot_file(Plan(name="p", files=(File("x", noise),)), labels={})


def test_an_older_python_is_told_what_to_do(tmp_path: Path) -> None:
    text = boot_file(Plan(name="p"), labels={}).decode()
    path = tmp_path / "boot.py"
    path.write_text(text.replace("version_info < (3, 8)", "version_info < (9, 9)"))
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert "it takes 3.8 or newer" in done.stderr and "next: run this file with a newer one" in done.stderr
