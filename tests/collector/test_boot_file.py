"""What is in the file of `provision bundle`, and what is refused because it must not be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from harness.content import Content
from harness.file_server import FileServer
from provision_agent.contract.plan import Download, File, Plan
from provision_collector.cli import main
from provision_collector.errors import UsageError
from provision_collector.planning.boot_file import boot_file, secrets_within

pytestmark = pytest.mark.timeout(240)

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


ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "boot"


def script_of(example: str) -> str:
    text = (EXAMPLES / example).read_text(encoding="utf-8")
    if not example.endswith(".yaml"):
        return text
    written = {each["path"]: each["content"] for each in yaml.safe_load(text)["write_files"]}
    script = next(content for path, content in written.items() if "per-boot" in path)
    return script.replace(". /etc/provision.env", written["/etc/provision.env"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples fetch with curl")
@pytest.mark.parametrize("example", ["vast-onstart.sh", "runpod-start.sh", "cloud-init.yaml"])
def test_the_example_for_a_provider_begins_the_run(example: str, tmp_path: Path) -> None:
    """As it stands, but for the folders and the address that are of the provider's machine."""
    plan = Plan(name="p", workspace=str(tmp_path / "w"), files=(File("x", "there"),))
    with FileServer() as server:
        (tmp_path / "served.py").write_bytes(boot_file(plan, labels={}))
        url = server.add("/boot.py", Content.of((tmp_path / "served.py").read_bytes()))
        (tmp_path / "start.sh").write_text("#!/bin/sh\necho the image goes on\n")
        (tmp_path / "start.sh").chmod(0o755)
        script = script_of(example).replace("https://example.org/boot.py", url)
        script = script.replace("/root/", f"{tmp_path}/").replace("/start.sh", f"{tmp_path}/start.sh")
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )  # fmt: skip
    assert "has begun in" in done.stdout, done.stdout + done.stderr
    assert ("the image goes on" in done.stdout) == (example == "runpod-start.sh")
    events = next((tmp_path / "w/.provision/runs").iterdir()) / "events.jsonl"
    waited = ["timeout", "120", "sh", "-c", f"until grep -q run_finished {events}; do sleep 0.1; done"]
    assert subprocess.run(waited, check=False).returncode == 0
    assert (tmp_path / "w/x").read_text() == "there"
