"""Uploads through the published command: what lies here is there before the run ends, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from .conftest import Here, eventually
from .server import Server

pytestmark = pytest.mark.timeout(240)

PROFILE = """
version: 1
name: sends
uploads:
  - {from: ./loras/, path: models/loras/, exclude: ["*.tmp", cache/], level: critical}
  - {from: ./settings.yaml, path: config/settings.yaml}
checks:
  - {name: loras, glob: "models/loras/**/*.safetensors", min_count: 2, level: critical}
"""


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def lay_out(here: Here, big: bytes = b"first") -> Path:
    """The folder that the profile sends."""
    folder = here.folder / "loras"
    (folder / "styles" / "empty").mkdir(parents=True)
    (folder / "cache").mkdir()
    (folder / "big.safetensors").write_bytes(big)
    (folder / "styles" / "ink.safetensors").write_bytes(blob(300_000))
    (folder / "styles" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "styles" / "run.sh").chmod(0o755)
    (folder / "latest.safetensors").symlink_to("styles/ink.safetensors")
    with (folder / "holes.bin").open("wb") as holes:
        holes.seek(5 << 20)
        holes.write(b"end")
    (folder / "half.tmp").write_text("no")
    (folder / "cache" / "x").write_text("no")
    (here.folder / "settings.yaml").write_text("a: 1\n")
    return folder


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


def test_what_lies_beside_the_profile_is_there_with_its_modes_links_and_holes_and_is_sent_once(
    here: Here,
) -> None:
    folder = lay_out(here)
    profile = here.profile(PROFILE)

    first = here.up(profile)
    again = here.up(profile)

    there = here.instance.workspace / "models" / "loras"
    assert (first.code, first.outcome["verdict"]) == (0, "complete"), first.stdout
    assert first.outcome["uploads"] == {"ok": 2, "failed": 0, "skipped": 0}
    names = sorted(str(path.relative_to(there)) for path in there.rglob("*"))
    assert names == [
        "big.safetensors", "holes.bin", "latest.safetensors", "styles", "styles/empty",
        "styles/ink.safetensors", "styles/run.sh",
    ]  # fmt: skip
    assert os.readlink(there / "latest.safetensors") == "styles/ink.safetensors"
    assert (there / "styles/run.sh").stat().st_mode & 0o777 == 0o755
    assert (there / "holes.bin").read_bytes() == (folder / "holes.bin").read_bytes()
    assert (there / "holes.bin").stat().st_blocks * 512 < 1 << 20
    assert (here.instance.workspace / "config/settings.yaml").read_text() == "a: 1\n"
    [done] = [event for event in named(first.lines, "upload_finished") if event["level"] == "critical"]
    assert done["files"] == 5 and done["sent_bytes"] < done["bytes"]
    assert again.code == 0
    assert len(named(again.lines, "upload_skipped")) == 2 and not named(again.lines, "upload_finished")


def test_a_kill_of_this_side_and_one_of_the_agent_cost_no_byte_that_had_landed(here: Here) -> None:
    big = blob(160 << 20)
    lay_out(here, big)
    profile = here.profile(PROFILE)
    there = here.instance.workspace / "models" / "loras"
    child = here.spawn_up(profile, "--run-id", "a")

    def part() -> int:
        return max((path.stat().st_size for path in there.glob(".big.safetensors.*.part")), default=0)

    eventually(lambda: part() > 8 << 20)
    os.killpg(child.pid, signal.SIGKILL)
    agent = here.lock()["agent"]["pid"]
    os.kill(agent, signal.SIGKILL)
    landed = eventually(part)
    attached = here.run("attach", "a", "--json", within_s=100)

    assert (attached.code, attached.outcome["verdict"]) == (0, "complete"), attached.stdout
    assert (there / "big.safetensors").read_bytes() == big
    assert list(there.rglob("*.part")) == []
    [done] = [event for event in named(attached.lines, "upload_finished") if event["level"] == "critical"]
    assert done["sent_bytes"] <= len(big) + 400_000 - landed


def test_what_cannot_be_sent_fails_by_name_and_level_and_costs_nothing_else(here: Here) -> None:
    (here.folder / "good").mkdir()
    (here.folder / "good" / "a.bin").write_bytes(b"a")
    (here.folder / "bad").mkdir()
    (here.folder / "bad" / "out").symlink_to("../../etc/passwd")
    (here.instance.workspace / "taken" / "a.bin").mkdir(parents=True)
    profile = here.profile(
        "version: 1\nuploads:\n"
        "  - {from: good, path: there/}\n"
        "  - {from: good, path: taken/, level: optional}\n"
        "  - {from: bad, path: bad/, level: optional}\n"
        "  - {from: nothing, path: nothing/, level: optional}\n"
    )

    ended = here.up(profile)

    assert (ended.code, ended.outcome["verdict"]) == (0, "complete"), ended.stdout
    assert (here.instance.workspace / "there/a.bin").read_bytes() == b"a"
    failed = {event["item"].partition("/")[0]: event for event in named(ended.lines, "upload_failed")}
    assert {name: event["class"] for name, event in failed.items()} == {
        "taken": "conflict", "bad": "unsafe_path", "nothing": "missing",
    }  # fmt: skip
    assert "`out` leads out" in failed["bad"]["message"]
    assert not (here.instance.workspace / "bad").exists()
    assert len(ended.outcome["warnings"]) >= 3


def test_a_detached_up_leaves_when_the_files_are_there(here: Here) -> None:
    lay_out(here, blob(24 << 20))
    profile = here.profile(
        PROFILE + "  - {name: later, path: later}\ncommands:\n  - {name: w, run: [sleep, '5']}\n"
    )

    left = here.run(
        "up",
        *here.connection(),
        "--workspace",
        str(here.instance.workspace),
        "--profile",
        profile,
        "--detach",
    )

    assert left.code == 0
    assert (here.instance.workspace / "models/loras/big.safetensors").stat().st_size == 24 << 20

    def states() -> set[str]:
        status = json.loads(here.remote(left.stdout.strip(), "status.json").read_text())
        return {item["state"] for item in status["uploads"].values()}

    eventually(lambda: states() == {"done"})  # the run hears of it a moment after this side


def test_over_http_a_profile_sends_what_lies_below_the_servers_folder_and_nothing_else(here: Here) -> None:
    shared = here.folder / "shared"
    (shared / "loras").mkdir(parents=True)
    (shared / "loras" / "a.bin").write_bytes(b"a")
    (shared / "out").symlink_to(here.folder)
    (here.folder / "secret").write_text("no")
    server = Server(here.folder.parent / "server", "--uploads", str(shared))
    server.start()
    try:
        answers = []
        for source in (
            "../secret",
            "../nothing",
            str(here.folder / "secret"),
            "/nothing",
            "~",
            "out/secret",
            "nothing",
        ):
            text = f"version: 1\nuploads: [{{from: '{source}', path: x/}}]\n"
            status, _, body = server.ask("POST", "/api/runs", {"host": "h", "profile_yaml": text})
            answers.append((status, json.loads(body)["error"]["message"], json.loads(body)["error"]["hint"]))
        assert answers[0][0] == 422
        assert len(set(answers)) == 1, answers

        body = {
            "host": here.instance.host, "port": here.instance.port, "user": here.instance.user,
            "key": "instance/client_key", "workspace": str(here.instance.workspace), "run_id": "a",
            "profile_yaml": "version: 1\nuploads: [{from: loras, path: x/}]\n",
        }  # fmt: skip
        server.post("/api/runs", body)
        assert server.outcome("a", 60)["verdict"] == "complete"
    finally:
        server.close()
    assert (here.instance.workspace / "x/a.bin").read_bytes() == b"a"
