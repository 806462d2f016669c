"""Several items of one folder through the published command: brought, told apart, kept, audited, locked."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from harness.content import Content
from harness.file_server import Fault, FileServer

from .conftest import Here, eventually

BODIES = {name: Content.safetensors(300_000 + 1000 * seed, seed=seed) for seed, name in enumerate("abc")}


@pytest.fixture
def instance_environment(files: FileServer) -> dict[str, str]:
    return {"HF_ENDPOINT": files.url("").rstrip("/")}


def profile_of(files: FileServer, here: Here, *, last: str = "c.safetensors", name: str = "p.yaml") -> str:
    """Three items of one folder; their servers name the files."""
    names = {"a": "a.safetensors", "b": "b.safetensors", "c": last}
    urls = [
        files.add(f"/{key}/dl", body, headers={"Content-Disposition": f'attachment; filename="{names[key]}"'})
        for key, body in BODIES.items()
    ]
    items = "".join(f'  - {{url: "{url}", path: models/loras/, level: critical}}\n' for url in urls)
    return here.profile(f"version: 1\nname: folder\nlimits: {{run: 60s}}\ndownloads:\n{items}", name)


def brought(here: Here) -> dict[str, bytes]:
    folder = here.instance.workspace / "models/loras"
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def at(here: Here, profile: str) -> list[str]:
    workspace = str(here.instance.workspace)
    return ["--profile", profile, "--workspace", workspace, *here.connection(), "--json"]


def keys(lines: list[dict[str, Any]]) -> set[str]:
    return {str(line["key"]) for line in lines if line["event"].startswith("download_")}


def test_all_items_of_a_folder_are_brought_once_audited_mended_and_locked(
    here: Here, files: FileServer
) -> None:
    profile = profile_of(files, here)
    expected = {f"{key}.safetensors": body.bytes() for key, body in BODIES.items()}

    first = here.up(profile)
    second = here.up(profile)
    (here.instance.workspace / "models/loras/b.safetensors").unlink()
    found = here.run("audit", *at(here, profile))
    mended = here.run("audit", *at(here, profile), "--repair")
    locked = here.run("lock", *at(here, profile))
    third = here.up(profile, "--locked")

    assert (first.code, first.outcome["downloads"]["ok"]) == (0, 3), first.stdout
    assert (second.outcome["downloads"]["ok"], second.outcome["bytes_downloaded"]) == (3, 0)
    assert len(keys(first.lines)) == 3 and keys(first.lines) == keys(second.lines)
    assert {line["item"] for line in first.named("download_finished")} == {
        f"models/loras/{name}" for name in expected
    }
    assert found.code == 1
    assert [item["state"] for item in found.lines[-1]["items"]] == ["ok", "missing", "ok"]
    assert mended.code == 0, mended.stdout
    assert brought(here) == expected
    assert (locked.code, locked.lines[-1]["downloads"]) == (0, 3), locked.stderr
    assert (third.code, third.outcome["bytes_downloaded"]) == (0, 0), third.stdout


def test_one_name_for_two_files_is_said_by_check_by_plan_and_by_the_run(
    here: Here, files: FileServer
) -> None:
    profile = profile_of(files, here, last="b.safetensors")

    check = here.run("check", profile, "--online", "--json")
    done = here.up(profile)

    rows = check.lines[-1]["sources"]
    assert check.code == 1
    assert [row["state"] for row in rows] == ["ok", "same name", "same name"]
    assert done.code == 1
    assert [error["class"] for error in done.outcome["errors"]] == ["conflict", "conflict"]
    assert done.outcome["downloads"] == {"ok": 1, "failed": 2, "skipped": 0}
    assert all(
        "/b/dl" in error["message"] and "/c/dl" in error["message"] for error in done.outcome["errors"]
    )
    assert set(brought(here)) == {"a.safetensors", "b.safetensors"}
    assert brought(here)["b.safetensors"] in (BODIES["b"].bytes(), BODIES["c"].bytes())
    assert not done.named("run_usable")


def test_an_item_of_a_folder_is_replaced_by_its_source_and_the_others_stay(
    here: Here, files: FileServer
) -> None:
    base = profile_of(files, here, name="base.yaml")
    over = here.profile(
        f"version: 1\nname: over\nextends: {base}\ndownloads:\n"
        f'  - {{url: "{files.url("/b/dl")}", path: models/loras/, sha256: {"f" * 64}, level: optional}}\n'
    )

    done = here.up(over)

    assert done.code == 0, done.stdout
    assert set(brought(here)) == {"a.safetensors", "c.safetensors"}
    assert done.outcome["downloads"]["failed"] == 1 and "b.safetensors" in str(done.outcome["warnings"])


def test_a_killed_agent_goes_on_with_every_file_of_the_folder(here: Here, files: FileServer) -> None:
    profile = profile_of(files, here)
    files.set_faults("/b/dl", Fault(bytes_per_s=60_000, min_length=1000))
    child = here.spawn_up(profile)

    started = lambda: [json.loads(line) for line in here.said(child).splitlines()]  # noqa: E731
    landing = lambda event: event["event"] == "download_progress" and "b.saf" in event["item"]  # noqa: E731
    eventually(lambda: any(landing(event) for event in started()))
    pid = next(event["pid"] for event in started() if event["event"] == "run_started")
    os.kill(pid, signal.SIGKILL)
    done = here.finish(child)

    assert done.code == 0, done.stdout
    assert brought(here) == {f"{key}.safetensors": body.bytes() for key, body in BODIES.items()}
    assert (done.outcome["downloads"]["ok"], len(keys(done.lines))) == (3, 3)


def test_state_of_an_earlier_release_is_taken_over_and_nothing_is_fetched_again(
    here: Here, files: FileServer
) -> None:
    profile = profile_of(files, here)
    here.up(profile)
    state = Path(here.instance.workspace / ".provision/state.json")
    data = json.loads(state.read_text())
    # the earlier release fetched only the first item of a folder, and knew it by the folder
    kept = next(record for record in data["items"].values() if record["path"].endswith("a.safetensors"))
    state.write_text(json.dumps({**data, "items": {"download:models/loras/": kept}}))

    again = here.up(profile)

    assert (again.code, again.outcome["bytes_downloaded"]) == (0, 0), again.stdout
    skipped = [line["item"] for line in again.named("download_skipped")]
    assert "models/loras/a.safetensors" in skipped


def test_a_substitute_in_a_folder_is_a_warning_each_time_and_audit_names_it(
    here: Here, files: FileServer
) -> None:
    files.add("/gone", BODIES["a"], Fault(status=404))
    files.add("/instead", BODIES["b"])
    gone, instead = files.url("/gone"), files.url("/instead")
    profile = here.profile(
        "version: 1\nname: t\nlimits: {run: 60s}\ndownloads:\n"
        f'  - {{url: "{gone}", path: m/, substitute: {{url: "{instead}", path: m/other.safetensors}}}}\n'
        f'  - {{url: "{gone}", path: n/b.safetensors, level: optional}}\n'
    )

    for _ in range(2):
        done = here.up(profile)

        assert done.code == 0, done.stdout
        assert any("m/other.safetensors" in warning for warning in done.outcome["warnings"])
    assert not (here.instance.workspace / "n/b.safetensors").exists()
    audit = here.run("audit", *at(here, profile))
    assert [item["state"] for item in audit.lines[-1]["items"]] == ["substituted", "missing"]


def test_one_name_for_two_files_of_which_conditions_want_one_is_no_conflict(
    here: Here, files: FileServer
) -> None:
    for key in "ab":
        named = {"Content-Disposition": 'attachment; filename="m.safetensors"'}
        files.add(f"/{key}", BODIES[key], headers=named)
    profile = here.profile(
        "version: 1\nname: t\nlimits: {run: 60s}\ndownloads:\n"
        f'  - {{url: "{files.url("/a")}", path: m/, when: {{disk_free: ">=1MiB"}}}}\n'
        f'  - {{url: "{files.url("/b")}", path: m/, when: {{disk_free: "<1MiB"}}}}\n'
    )

    check = here.run("check", profile, "--online", "--json")
    done = here.up(profile)

    assert check.code == 0, check.stdout
    assert done.code == 0, done.stdout
    assert done.outcome["downloads"] == {"ok": 1, "failed": 0, "skipped": 1}
    assert (here.instance.workspace / "m/m.safetensors").read_bytes() == BODIES["a"].bytes()


def test_two_repositories_share_a_folder_and_a_file_that_differs_is_named(
    files: FileServer, here: Here
) -> None:
    files.add_hub("o/one", {"a.safetensors": BODIES["a"], "config.json": Content.of(b'{"a": 1}')})
    files.add_hub("o/two", {"b.safetensors": BODIES["b"], "config.json": Content.of(b'{"a": 2, "b": 1}')})
    profile = here.profile(
        "version: 1\nname: t\nlimits: {run: 60s}\ndownloads:\n"
        '  - {url: "hf://o/one", path: m/}\n  - {url: "hf://o/two", path: m/}\n'
    )

    check = here.run(
        "check", profile, "--online", "--json", environment={"HF_ENDPOINT": files.url("").rstrip("/")}
    )
    done = here.up(profile)

    assert [row["state"] for row in check.lines[-1]["sources"]] == ["same name", "same name"]
    assert done.code == 1
    assert [error["item"] for error in done.outcome["errors"]] == ["m/config.json"] * 2
    assert done.outcome["downloads"] == {"ok": 2, "failed": 2, "skipped": 0}
