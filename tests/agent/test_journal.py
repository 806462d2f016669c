"""The journal: every line on the disk at once, one sequence through every death, nothing secret in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from provision_agent.run.journal import Journal, read_state
from provision_agent.run.workspace import Workspace, resolve

SECRET = "hf_AbCdEf/123"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = resolve(str(tmp_path / "w"), fallback=False)
    os.makedirs(workspace.run_directory("r"), mode=0o700)
    return workspace


def events_of(workspace: Workspace) -> list[dict[str, Any]]:
    with open(workspace.run_file("r", "events.jsonl")) as file:
        return [json.loads(line) for line in file]


def opened(workspace: Workspace) -> Journal:
    return Journal(workspace, "r", secrets={"HF_TOKEN": SECRET, "SHORT": "ab"})


def start(journal: Journal) -> None:
    journal.event("run_started", plan_hash="x", name="n", deadline_s=9.0, resumed=False)


def test_a_check_is_called_one_in_the_log_with_what_was_found(workspace: Workspace) -> None:
    journal = opened(workspace)
    journal.event("check_passed", item="six", level="required", found=1)
    journal.close()

    assert "✔ check six passed, found: 1" in Path(workspace.run_file("r", "core.log")).read_text()


def test_an_event_is_on_the_disk_when_the_call_returns(workspace: Workspace) -> None:
    journal = opened(workspace)
    start(journal)

    assert [event["event"] for event in events_of(workspace)] == ["run_started"]
    assert "Run r started" in Path(workspace.run_file("r", "core.log")).read_text()
    journal.close()


def test_a_torn_last_line_is_ended_and_the_sequence_goes_on(workspace: Workspace) -> None:
    journal = opened(workspace)
    start(journal)
    journal.close()
    path = Path(workspace.run_file("r", "events.jsonl"))
    torn = path.read_bytes() + b'{"seq":2,"ev'
    path.write_bytes(torn)

    journal = opened(workspace)
    journal.event("run_usable", after_s=1.0)
    journal.close()

    data = path.read_bytes()
    assert data.startswith(torn + b"\n")
    assert json.loads(data.splitlines()[-1])["seq"] == 2


def test_failures_stand_in_the_error_log_in_the_promised_form(workspace: Workspace) -> None:
    journal = opened(workspace)
    journal.event(
        "download_failed",
        item="models/a.safetensors",
        level="critical",
        url="https://a.org/a?token=zzz",
        message="HTTP 404",
        hint="h",
        retriable=False,
        **{"class": "not_found"},
    )
    journal.close()

    line = Path(workspace.errors).read_text()
    assert line.endswith(" run=r FAILED: models/a.safetensors from https://a.org/a (not_found: HTTP 404)\n")


def test_secrets_are_in_no_file_whatever_field_they_came_in(workspace: Workspace) -> None:
    journal = opened(workspace)
    journal.event("warning", message=f"got {SECRET}", extra={"deep": [SECRET, "hf_AbCdEf%2F123"]})
    journal.output(f"curl -H 'Authorization: Bearer {SECRET}'")
    journal.close()

    for folder, _, names in os.walk(workspace.root):
        for name in names:
            data = Path(folder, name).read_bytes()
            assert SECRET.encode() not in data
            assert b"hf_AbCdEf%2F123" not in data


def test_the_status_is_the_fold_of_the_events(workspace: Workspace) -> None:
    journal = opened(workspace)
    start(journal)
    journal.event("download_started", item="a", level="critical", url="https://a.org/a")
    journal.event("download_progress", item="a", level="critical", bytes=5, total_bytes=9, bytes_per_s=1)
    journal.close()

    with open(workspace.run_file("r", "status.json")) as file:
        written = json.load(file)
    state = read_state(workspace, "r")
    assert state is not None and written == state.to_json()
    assert written["downloads"]["a"]["bytes"] == 5
    assert written["state"] == "running"


def test_the_last_word_says_how_long_the_logs_are(workspace: Workspace) -> None:
    journal = opened(workspace)
    start(journal)
    journal.event("run_finished", verdict="complete", duration_s=1.0)
    journal.close()

    last = events_of(workspace)[-1]
    assert last["sizes"]["core"] == os.path.getsize(workspace.run_file("r", "core.log"))
    assert last["sizes"]["errors"] == os.path.getsize(workspace.errors)
    assert "✅ PROVISIONING COMPLETE" in Path(workspace.run_file("r", "core.log")).read_text()


def test_the_tools_own_files_are_for_their_owner_alone(workspace: Workspace) -> None:
    opened(workspace).close()

    for folder, _, names in os.walk(workspace.tool):
        assert os.stat(folder).st_mode & 0o077 == 0, folder
        for name in names:
            assert os.stat(os.path.join(folder, name)).st_mode & 0o077 == 0, name


def test_each_line_of_a_secret_with_several_is_hidden(workspace: Workspace) -> None:
    key = "-----BEGIN KEY-----\nAAAAB3NzaC1yc2EAAAADAQABAAAB\n-----END KEY-----\n"
    journal = Journal(workspace, "r", secrets={"DEPLOY_KEY": key})
    journal.output("AAAAB3NzaC1yc2EAAAADAQABAAAB")
    journal.close()

    assert Path(workspace.run_file("r", "agent.log")).read_text() == "***\n"


def test_a_secret_that_is_a_word_of_the_protocol_breaks_nothing(workspace: Workspace) -> None:
    journal = Journal(workspace, "r", secrets={"A": "finished", "B": "complete"})
    journal.event("run_finished", verdict="complete", duration_s=1.0, note="complete")
    journal.close()

    last = events_of(workspace)[-1]
    assert (last["event"], last["verdict"], last["note"]) == ("run_finished", "complete", "***")
