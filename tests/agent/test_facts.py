"""Facts, of this machine and of one that is played."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest
from provision_agent import facts

SMI = """#!/bin/sh
case "$1" in
--query-gpu=*) echo "NVIDIA GeForce RTX 4090, 8.9, 24564, 550.54.15"; echo "NVIDIA H100, 9.0, 81559, 550.54.15";;
*) echo "| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4  |";;
esac
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def play(programs: Path, name: str, text: str) -> None:
    (programs / name).write_text(text)
    (programs / name).chmod(0o755)


def test_the_facts_of_this_machine_are_json_and_plausible(tmp_path: Path) -> None:
    found = json.loads(json.dumps(facts.find_facts(str(tmp_path / "not" / "yet" / "there"))))

    assert found["disks"][0]["path"] == str(tmp_path / "not" / "yet" / "there")
    assert 0 < found["disks"][0]["free_bytes"] <= found["disks"][0]["total_bytes"]
    assert found["memory_bytes"] > 1 << 20
    assert found["cpus"] >= 1
    assert found["pythons"][0]["path"] == sys.executable
    assert found["is_root"] == (os.geteuid() == 0)
    assert found["init"] in ("systemd", "supervisor", "none")


def test_nvidia_smi_answers_where_the_library_does_not(programs: Path, tmp_path: Path) -> None:
    play(programs, "nvidia-smi", SMI)

    found = facts.find_facts(str(tmp_path))

    if os.path.exists("/proc/driver/nvidia"):
        pytest.skip("a real driver answers first here")
    assert [gpu["compute_capability"] for gpu in found["gpus"]] == ["8.9", "9.0"]
    assert found["gpus"][0]["name"] == "NVIDIA GeForce RTX 4090"
    assert found["gpus"][0]["memory_bytes"] == 24564 << 20
    assert (found["driver"], found["cuda"]) == ("550.54.15", "12.4")


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\nexec sleep 60\n",
        "#!/bin/sh\nexit 9\n",
        "#!/bin/sh\necho '[N/A], [N/A], [N/A], [N/A]'\n",
        "no program",
    ],
    ids=["hangs", "fails", "knows nothing", "cannot be started"],
)
def test_a_broken_nvidia_smi_costs_its_bound_and_raises_nothing(
    text: str, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(programs, "nvidia-smi", text)
    monkeypatch.setattr(facts, "PROBE_S", 0.5)

    started = time.monotonic()
    found = facts.find_facts(str(tmp_path))

    assert time.monotonic() - started < 8
    assert found["cpus"] >= 1


def test_what_serves_here_already_is_named_with_its_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = facts.find_facts(str(tmp_path))["listening"]

    (mine,) = [each for each in found if each["port"] == port]
    assert f"(pid {os.getpid()})" in mine["process"]


def test_environments_are_found_with_the_torch_that_they_hold(tmp_path: Path) -> None:
    site = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    (site / "torch-2.9.1+cu128.dist-info").mkdir(parents=True)
    (tmp_path / "venv" / "bin").mkdir()
    (tmp_path / "venv" / "bin" / "python").touch()

    found = facts.find_facts(str(tmp_path))["venvs"]

    mine = [venv for venv in found if venv["path"] == str(tmp_path / "venv")]
    assert [venv["torch"] for venv in mine] == ["2.9.1+cu128"]
