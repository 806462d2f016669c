"""After a run every file that it left is searched for the values of its secrets: found is told, by the file's name only."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from provision_agent.run import secret_search
from provision_agent.run.journal import Journal
from provision_agent.run.state import write_atomically
from provision_agent.run.workspace import Workspace, resolve

SECRET = 'hf_Ab"Cd/Ef 123'


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = resolve(str(tmp_path / "w"), fallback=False)
    os.makedirs(workspace.run_directory("r"), mode=0o700)
    write_atomically(workspace.run_file("r", "plan.json"), b"{}")
    return workspace


def written(workspace: Workspace, path: str, content: str | bytes = SECRET) -> Path:
    file = Path(workspace.root, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else f"before {content} after\n".encode())
    return file


def searched(
    workspace: Workspace, *, secrets: dict[str, str] | None = None, downloads: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """The events that a search leaves; none of them, and no log, holds a value."""
    secrets = {"HF_TOKEN": SECRET} if secrets is None else secrets
    journal = Journal(workspace, "r", secrets=secrets)
    for path in downloads:
        journal.event("download_skipped", item=path, key=path, level="required", reason="verified")
    secret_search.tell(workspace, "r", journal, secrets)
    journal.close()
    lines = Path(workspace.run_file("r", "events.jsonl")).read_text().splitlines()
    logs = [
        Path(workspace.run_file("r", name)).read_text()
        for name in ("core.log", "events.jsonl", "status.json")
    ]
    assert not any(secret in log for secret in secrets.values() for log in logs if len(secret) > 3)
    return [event for event in map(json.loads, lines) if event["event"] in ("secret_found", "warning")]


def names(events: list[dict[str, Any]]) -> list[str]:
    return sorted(event["item"] for event in events)


FORMS = {
    "as it is": SECRET,
    "in a URL": quote(SECRET, safe=""),
    "in JSON": json.dumps({"token": SECRET}),
    "in base64": base64.b64encode(SECRET.encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_value_in_any_form_is_found_and_never_shown(workspace: Workspace, form: str) -> None:
    written(workspace, "ComfyUI/.env", FORMS[form])
    written(workspace, "other.txt", "nothing")

    [event] = searched(workspace)

    assert (event["item"], event["class"], event["level"]) == ("ComfyUI/.env", "secret_in_file", "required")
    assert event["message"] == "the value of `HF_TOKEN` stands in `ComfyUI/.env`"
    error = json.loads(Path(workspace.run_file("r", "status.json")).read_text())["errors"][0]
    assert (error["item"], error["class"]) == ("ComfyUI/.env", "secret_in_file")
    assert "ComfyUI/.env" in Path(workspace.errors).read_text()


def test_the_tools_own_logs_and_state_are_searched_whatever_their_size(workspace: Workspace) -> None:
    filler = b"x" * (3 << 20)
    written(workspace, ".provision/services/web.log", filler + SECRET.encode() + filler)
    written(workspace, ".provision/state.json")
    written(workspace, "provision_errors.log")

    assert names(searched(workspace)) == [
        ".provision/services/web.log",
        ".provision/state.json",
        "provision_errors.log",
    ]


def test_a_value_across_two_reads_is_found(workspace: Workspace) -> None:
    written(workspace, ".provision/services/web.log", b"\0" * ((1 << 20) - 5) + SECRET.encode())

    assert names(searched(workspace)) == [".provision/services/web.log"]


def test_what_was_there_before_what_was_downloaded_and_environments_are_passed_over(
    workspace: Workspace,
) -> None:
    written(workspace, "models/list.txt")
    written(workspace, "venv/pyvenv.cfg", "home = /usr/bin")
    written(workspace, "venv/lib/site.py")
    written(workspace, "repo/.git/objects/aa/bb")
    written(workspace, "repo/.git/config")
    written(workspace, "large.txt", SECRET + "x" * (2 << 20))
    written(workspace, "weights.bin", b"\0\1" + SECRET.encode())
    os.symlink("/etc/hostname", os.path.join(workspace.root, "link"))
    os.mkfifo(os.path.join(workspace.root, "pipe"))
    began = os.stat(workspace.run_file("r", "plan.json")).st_mtime

    assert names(searched(workspace, downloads=("models/list.txt",))) == ["repo/.git/config"]
    later = began + 3600
    os.utime(workspace.run_file("r", "plan.json"), (later, later))
    assert searched(workspace)[1:] == []


def test_a_short_value_and_no_value_are_not_searched_for(workspace: Workspace) -> None:
    written(workspace, "a.txt", "abc")

    assert searched(workspace, secrets={"PIN": "abc", "EMPTY": ""}) == []


def test_each_secret_of_a_file_is_named(workspace: Workspace) -> None:
    written(workspace, "a.txt", f"{SECRET} and other-secret")

    [event] = searched(workspace, secrets={"HF_TOKEN": SECRET, "OTHER": "other-secret"})

    assert event["message"] == "the value of `HF_TOKEN`, `OTHER` stands in `a.txt`"


def test_many_files_are_told_in_bounded_words(workspace: Workspace) -> None:
    for number in range(30):
        written(workspace, f"d/{number}.txt")

    events = searched(workspace)

    assert len([event for event in events if event["event"] == "secret_found"]) == secret_search.MAX_TOLD
    assert events[-1]["message"] == "secrets stand in 10 more files of the workspace"


def test_a_search_that_meets_a_bound_says_so(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_search, "MAX_BYTES", 1000)
    for number in range(30):
        written(workspace, f"d/{number}.txt", "x" * 100)

    [event] = searched(workspace)

    assert "not all files" in event["message"]
