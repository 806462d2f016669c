"""`when` as published: one profile, and each instance gets its own files, services and checks."""

from __future__ import annotations

import pytest
from harness.content import Content
from harness.file_server import FileServer

from .conftest import Here
from .test_planning import at

PROFILE = """
version: 1
name: test
limits: {{run: 60s}}
downloads:
  - {{url: "{0}/fp8.bin", path: model.bin, level: critical, when: {{gpu_capability: ">=8.9"}}}}
  - {{url: "{0}/small.bin", path: model.bin, level: critical, when: {{gpu_count: "<99", disk_free: ">1MiB"}}}}
files:
  - {{path: settings, content: many, when: {{gpu_count: ">=99"}}}}
checks:
  - {{name: model, path: model.bin, level: critical}}
  - {{name: settings, path: settings, level: critical}}
  - {{name: serves, path: nowhere, level: critical, when: {{gpu_name: "no such card"}}}}
services:
  - {{name: big, run: ["false"], level: critical, when: {{gpu_count: ">=99"}}}}
"""


@pytest.mark.timeout(240)
def test_an_instance_gets_what_it_is_for_and_each_command_says_what_it_does_not_get(
    here: Here, files: FileServer
) -> None:
    files.add("/fp8.bin", Content(2_000_000))
    files.add("/small.bin", Content(1_000_000))
    profile = here.profile(PROFILE.format(files.url("")))

    unasked = here.run("plan", profile, "--json").lines[0]
    asked = here.run("plan", *at(here, profile=profile), "--json").lines[0]
    done = here.up(profile)
    verified = here.run("verify", *at(here, profile=profile), "--json")

    assert [file["state"] for file in unasked["files"]] == ["depends", "depends"]
    assert (unasked["fetch_bytes"], unasked["depends_bytes"]) == (0, 2_000_000)
    assert [file["state"] for file in asked["files"]] == ["skipped", "fetch"]
    assert asked["fetch_bytes"] == 1_000_000
    skipped = {(each["step"], each["item"]): each["message"] for each in asked["conditional"]}
    assert set(skipped) == {
        ("files", "settings"),
        ("checks", "settings"),
        ("checks", "serves"),
        ("services", "big"),
    }
    assert skipped["checks", "settings"].startswith("`settings` is skipped: the number of GPUs is ")
    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stderr
    assert done.outcome["checks"] == {"passed": 1, "failed": []}
    assert (here.instance.workspace / "model.bin").stat().st_size == 1_000_000
    told = {each["event"]: each["reason"] for each in done.lines if each["event"].endswith("_skipped")}
    assert set(told) == {"download_skipped", "file_skipped", "check_skipped", "service_skipped"}
    assert {(each["group"], each["item"]) for each in done.outcome["skipped"]} == {
        ("files", "settings"),
        ("checks", "settings"),
        ("checks", "serves"),
        ("services", "big"),
    }
    assert all(each["reason"] for each in done.outcome["skipped"])
    assert verified.code == 0
    assert [each["item"] for each in verified.lines if each["event"] == "check_skipped"] == [
        "settings",
        "serves",
    ]
