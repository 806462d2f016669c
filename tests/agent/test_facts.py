"""Facts, of this machine and of one that is played."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from provision_agent.contract.failures import Failure
from provision_agent.contract.findings import Facts
from provision_agent.contract.parsing import parse
from provision_agent.contract.plan import Torch
from provision_agent.host import facts
from provision_agent.steps.python.builds import candidates

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


LIBRARY = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static const char *card(int index) {
    static char words[256];
    strcpy(words, getenv("FAKE_CARDS"));
    char *word = strtok(words, " ");
    while (index-- && word) word = strtok(NULL, " ");
    return word;
}
int cuInit(unsigned flags) { return atoi(getenv("FAKE_INIT")); }
int cuDriverGetVersion(int *version) { *version = atoi(getenv("FAKE_DRIVER")); return 0; }
int cuDeviceGetCount(int *count) { *count = 0; while (card(*count)) ++*count; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Card %d", device); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int major, minor;
    sscanf(card(device), "%d.%d", &major, &minor);
    *value = attribute == 75 ? major : attribute == 76 ? minor : -1;
    return 0;
}
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver's library that says what the environment tells it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no compiler here to make one")
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "cuda.c").write_text(LIBRARY)
    argv = [compiler, "-shared", "-fPIC", "-o", "libcuda.so.1", "cuda.c"]
    subprocess.run(argv, cwd=folder, check=True, timeout=25)
    return folder


DRIVERS = {
    "driver 12.4, Ada": ("12040", "8.9", "12.4", "cu118"),
    "driver 12.8, Blackwell": ("12080", "12.0", "12.8", "cu128"),
    "driver 13.0, Volta": ("13000", "7.0", "13.0", "cu126"),
    "driver 12.8, Pascal beside Ampere": ("12080", "6.1 8.6", "12.8", "cu126"),
    "driver 11.8, Hopper": ("11080", "9.0", "11.8", "cu118"),
    "driver 12.4, Blackwell": ("12040", "12.0", "12.4", None),
}


@pytest.mark.parametrize("case", DRIVERS.values(), ids=DRIVERS.keys())
def test_the_drivers_own_library_answers_first_and_the_build_of_torch_follows(
    case: tuple[str, str, str, str | None],
    library: Path,
    programs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version, cards, cuda, tag = case
    play(programs, "nvidia-smi", SMI)
    played = {"FAKE_INIT": "0", "FAKE_DRIVER": version, "FAKE_CARDS": cards, "LD_LIBRARY_PATH": str(library)}
    for name, value in played.items():
        monkeypatch.setenv(name, value)

    found = facts.find_facts(str(tmp_path))

    assert [gpu["compute_capability"] for gpu in found["gpus"]] == cards.split()
    assert found["gpus"][0]["name"] == "Card 0"
    assert found["gpus"][0]["memory_bytes"] == 24 << 30
    assert (found["cuda"], found["driver"]) == (cuda, "550.54.15")
    wanted = Torch(versions=("2.9.1", "2.7.1", "2.5.1"))
    if tag is None:
        with pytest.raises(Failure, match=r"needs a driver for CUDA 12\.8, this one ends at 12\.4"):
            candidates(wanted, parse(Facts, found))
    else:
        assert candidates(wanted, parse(Facts, found))[0].tag == tag


def test_a_library_whose_driver_is_gone_leaves_the_word_to_nvidia_smi(
    library: Path, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(programs, "nvidia-smi", SMI)
    monkeypatch.setenv("FAKE_INIT", "999")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))

    found = facts.find_facts(str(tmp_path))

    assert ([gpu["compute_capability"] for gpu in found["gpus"]], found["cuda"]) == (["8.9", "9.0"], "12.4")


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


LIES = {
    "a petabyte": ("NVIDIA L4, 8.9, 1000000000, 550.54.15", ("NVIDIA L4", "8.9", None), "550.54.15"),
    "no number": ("NVIDIA L4, 8.9, nan, 550.54.15", ("NVIDIA L4", "8.9", None), "550.54.15"),
    "without end": ("NVIDIA L4, 8.9, 1e999, 550.54.15", ("NVIDIA L4", "8.9", None), "550.54.15"),
    "less than nothing": ("NVIDIA L4, -1, -5, x", ("NVIDIA L4", None, None), None),
    "an old one, which has no such field": (
        "NVIDIA L4, [N/A], 23034, 470.86",
        ("NVIDIA L4", None, 23034 << 20),
        "470.86",
    ),
    "garbage": ("\x1b[31m\x07, 99999.9, 99999999999999999999, " + "7" * 5000, None, None),
}


@pytest.mark.parametrize("name", LIES)
def test_what_nvidia_smi_cannot_mean_is_left_out_and_the_rest_is_taken(
    name: str, programs: Path, tmp_path: Path
) -> None:
    row, card, driver = LIES[name]
    (tmp_path / "row").write_text(row + "\n")
    play(programs, "nvidia-smi", f"#!/bin/sh\ncat {tmp_path}/row\necho 'CUDA Version: twelve'\n")

    found = facts.find_facts(str(tmp_path))

    if os.path.exists("/proc/driver/nvidia"):
        pytest.skip("a real driver answers first here")
    names = ("name", "compute_capability", "memory_bytes")
    wanted = [] if card is None else [dict(zip(names, card))]  # noqa: B905  # Python 3.8 has no `strict`
    assert found["gpus"] == wanted
    assert (found["driver"], found["cuda"]) == (driver, None)
    parse(Facts, found, "facts")


def test_an_nvidia_smi_without_end_costs_neither_memory_nor_the_other_facts(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(programs, "nvidia-smi", "#!/bin/sh\nexec yes 'NVIDIA L4, 8.9, 23034, 550.54.15'\n")
    monkeypatch.setattr(facts, "PROBE_S", 0.5)

    found = facts.find_facts(str(tmp_path))

    assert found["cpus"] >= 1
    parse(Facts, found, "facts")


def test_of_several_kinds_of_cards_the_lowest_decides_the_build(programs: Path, tmp_path: Path) -> None:
    play(
        programs,
        "nvidia-smi",
        SMI.replace("9.0, 81559", "6.1, 11264").replace("CUDA Version: 12.4", "CUDA Version: 12.8"),
    )

    found = facts.find_facts(str(tmp_path))

    if os.path.exists("/proc/driver/nvidia"):
        pytest.skip("a real driver answers first here")
    assert [gpu["compute_capability"] for gpu in found["gpus"]] == ["8.9", "6.1"]
    assert candidates(Torch(versions=("2.9.1",)), parse(Facts, found))[0].tag == "cu126"


def test_without_nvidia_smi_and_library_there_is_no_gpu_and_torch_is_for_the_cpu(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(programs))

    found = facts.find_facts(str(tmp_path))

    if os.path.exists("/proc/driver/nvidia"):
        pytest.skip("a real driver answers here")
    assert (found["gpus"], found["cuda"]) == ([], None)
    assert candidates(Torch(versions=("2.9.1",)), parse(Facts, found))[0].tag == "cpu"


def test_a_card_that_does_not_tell_what_it_is_gets_what_its_driver_runs(tmp_path: Path) -> None:
    one = {"gpus": [{"name": "L4", "compute_capability": None}], "cuda": "12.8"}
    two = {"gpus": [*one["gpus"], {"name": "P40", "compute_capability": "6.1"}], "cuda": "12.8"}

    assert candidates(Torch(versions=("2.9.1",)), parse(Facts, one))[0].tag == "cu128"
    assert candidates(Torch(versions=("2.9.1",)), parse(Facts, two))[0].tag == "cu126"


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
