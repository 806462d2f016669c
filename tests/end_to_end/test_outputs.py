"""Outputs through the published command: what a run makes is here when it ends, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from provision_agent.host.detach import argv_of, processes
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import Here, eventually
from .server import Server
from .test_fleet import inventory

pytestmark = pytest.mark.timeout(240)

MAKES = """
import os, pathlib, sys, time
out = pathlib.Path("made/sub"); out.mkdir(parents=True, exist_ok=True)
(out / "first.png").write_bytes(b"1")
(out.parent / "skipped.tmp").write_text("no")
os.path.lexists("made/link.png") or (out.parent / "link.png").symlink_to("/etc/passwd")
with open("made/big.bin", "wb") as big:
    for number in range(48):
        big.write(bytes([number]) * (1 << 20))
        big.flush()
go = pathlib.Path("go")
while not go.exists():
    time.sleep(0.05)
(out / "last.png").write_bytes(b"last")
"""
PROFILE = """
version: 1
name: makes
files:
  - {path: make.py, content: %s}
commands:
  - {name: make, run: [python3, make.py], timeout: 2m}
outputs:
  - {path: made, to: pictures, exclude: ["*.tmp"]}
"""


def home(folder: Path) -> dict[str, int]:
    """The files that are home, without the record, and their sizes."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


ALL = {"big.bin": 48 << 20, "sub/first.png": 1, "sub/last.png": 4}


def test_what_was_closed_is_home_when_the_run_ends_though_both_sides_were_killed(here: Here) -> None:
    profile = here.profile(PROFILE % json.dumps(MAKES))
    folder = here.folder / "home" / "pictures"
    child = here.spawn_up(profile, "--run-id", "a", "--outputs", "home")
    eventually(lambda: (folder / "sub" / "first.png").read_bytes() == b"1", within_s=40)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    os.kill(here.lock()["agent"]["pid"], signal.SIGKILL)
    (here.instance.workspace / "go").touch()
    done = here.run("attach", "a", "--json", "--outputs", "home", within_s=100)

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout[-2000:]
    assert home(folder) == ALL
    assert (folder / "big.bin").read_bytes() == (here.instance.workspace / "made/big.bin").read_bytes()
    assert [word for word in done.outcome["warnings"] if "not home" in word] == []
    size = sum(ALL.values())
    assert done.outcome["outputs"] == {"files": 3, "bytes": size, "missing_files": 0, "missing": {}}
    told = done.named("outputs_progress")[-1]
    assert (told["files"], told["bytes"], told["left"]) == (3, size, 0)
    assert told["path"].startswith("pictures/")
    [last] = done.named("outputs_finished")
    assert (last["files"], last["left"]) == (3, 0)
    [row] = here.run("status", "a", "--json").lines
    assert (row["outputs"]["files"], row["outputs"]["bytes"], row["outputs"]["left"]) == (3, size, 0)
    assert re.search(r"^outputs +3 outputs home", here.run("status", "a").stdout, re.MULTILINE)
    assert (here.instance.workspace / "made" / "sub" / "first.png").exists()  # nothing is deleted there


def test_a_cap_and_a_folder_of_another_instance_are_said_by_name(here: Here) -> None:
    profile = here.profile(PROFILE % json.dumps(MAKES))
    here.instance.workspace.mkdir(exist_ok=True)
    (here.instance.workspace / "go").touch()
    capped = here.up(profile, "--outputs", "small", "--max-outputs", "1MB", within_s=60)
    (here.folder / "taken" / "pictures").mkdir(parents=True)
    (here.folder / "taken" / "pictures" / ".provision-files.jsonl").write_text('{"owner": "another"}\n')
    taken = here.up(profile, "--outputs", "taken", within_s=60)

    assert capped.code == 0
    assert home(here.folder / "small" / "pictures") == {"sub/first.png": 1, "sub/last.png": 4}
    assert any("`big.bin`" in word and "--max-outputs" in word for word in capped.outcome["warnings"])
    [failed] = capped.named("output_failed")
    assert (failed["item"], failed["class"]) == ("big.bin", "disk_full")
    assert failed["message"].startswith("more than `--max-outputs`") and failed["hint"]
    assert (
        capped.outcome["outputs"]["missing_files"] == 1 and "big.bin" in capped.outcome["outputs"]["missing"]
    )
    assert taken.code == 2 and "holds files of another" in taken.outcome["errors"][0]["message"]


def test_a_fleet_keeps_a_folder_per_instance_and_goes_on_with_them_after_a_kill(
    here: Here, second: EmbeddedInstance
) -> None:
    both = {"i-0": here.instance, "i-1": second}
    file = inventory(here, list(both.values()))
    profile = here.profile(PROFILE % json.dumps(MAKES))
    where = ["--workspace", "~/work", "--outputs", "home"]
    words = ["fleet", "up", file, "--profile", profile, *where, "--json"]
    child = here.spawn(*words)
    for name in both:
        first = here.folder / "home" / name / "pictures" / "sub" / "first.png"
        eventually(lambda first=first: first.read_bytes() == b"1", within_s=60)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for instance in both.values():
        (instance.home / "work" / "go").touch()
    done = here.run(*words, within_s=100)

    assert done.code == 0, done.stdout[-2000:] + done.stderr
    for name, instance in both.items():
        folder = here.folder / "home" / name / "pictures"
        assert home(folder) == ALL
        made = instance.home / "work" / "made"
        assert all((folder / path).read_bytes() == (made / path).read_bytes() for path in ALL)
    outcomes = [line["outcome"] for line in done.lines if "outcome" in line] or done.named("outcome")
    assert {outcome["outputs"]["files"] for outcome in outcomes} == {3}


def most_memory(pid: int) -> int:
    """The most that a process has used so far, in MB."""
    told = Path(f"/proc/{pid}/status").read_text()
    return int(told.split("VmHWM:")[1].split()[0]) // 1024


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("cold")
def test_a_hundred_thousand_files_come_home_in_little_memory_and_few_open_files(here: Here) -> None:
    many = """
import os
for folder in range(100):
    os.makedirs(f"made/{folder}", exist_ok=True)
    for number in range(1000):
        with open(f"made/{folder}/{number}.txt", "w") as file:
            file.write(f"{folder} {number}")
"""
    profile = here.profile(PROFILE % json.dumps(many))
    folder, said = here.folder / "home" / "pictures", {"here": 0, "there": 0}
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    child = here.spawn_up(profile, "--run-id", "a", "--outputs", "home")
    while child.poll() is None:
        time.sleep(0.5)
        with suppress(OSError, IndexError):
            said["here"] = max(said["here"], most_memory(child.pid))
        for pid in processes():
            with suppress(OSError, IndexError):
                if argv_of(pid)[-1:] == ["send"]:
                    said["there"] = max(said["there"], most_memory(pid))
    done = here.finish(child)
    print(said, done.outcome["outputs"], done.outcome["duration_s"])

    assert done.code == 0, done.stdout[-2000:] + done.stderr
    assert done.outcome["outputs"]["files"] == 100_000 and done.outcome["outputs"]["missing_files"] == 0
    assert (folder / "99/999.txt").read_text() == "99 999"
    assert max(said.values()) < 400


def test_a_server_keeps_a_folder_per_run_lists_it_and_serves_files_as_downloads_only(here: Here) -> None:
    here.instance.workspace.mkdir(exist_ok=True)
    (here.instance.workspace / "go").touch()
    server = Server(here.folder.parent / "server", "--outputs", str(here.folder / "outputs"))
    server.start()
    try:
        body = {
            "host": here.instance.host, "port": here.instance.port, "user": here.instance.user, "run_id": "a",
            "key": "instance/client_key", "workspace": str(here.instance.workspace),
            "profile_yaml": PROFILE % json.dumps(MAKES),
        }  # fmt: skip
        server.post("/api/runs", body)
        assert server.outcome("a", 60)["verdict"] == "complete"
        found = server.get("/api/runs/a/outputs")
        status, headers, data = server.ask("GET", "/api/runs/a/outputs/pictures/sub/last.png")
        assert (status, data) == (200, b"last")
        assert headers["content-disposition"].startswith("attachment")
        assert headers["x-content-type-options"] == "nosniff"
        for path in (
            "nothing",
            "pictures",
            "pictures/.provision-files.jsonl",
            "..%2f..%2fx",
            "%2fetc%2fpasswd",
        ):
            assert server.ask("GET", f"/api/runs/a/outputs/{path}")[0] == 404
    finally:
        server.close()
    assert {file["path"]: file["size_bytes"] for file in found["files"]} == {
        f"pictures/{path}": size for path, size in ALL.items()
    }
    assert home(here.folder / "outputs" / "a" / "pictures") == ALL
