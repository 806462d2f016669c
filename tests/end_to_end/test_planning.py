"""plan, check --online, lock, audit, verify, doctor and forward, as published, against a real instance and real sources."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from harness.content import Content
from harness.file_server import Fault, FileServer
from harness.git_server import Origin
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import Here, eventually
from .test_up import SIZE, free_port, profile_of


def at(here: Here, *, profile: str | None = None) -> list[str]:
    """The words that name the instance and its workspace, and a profile."""
    words = [*here.connection(), "--workspace", str(here.instance.workspace)]
    return [*words, *(["--profile", profile] if profile else [])]


def unknown_profile(files: FileServer, *, path: str = "models/a.safetensors", extra: str = "") -> str:
    """A profile that says neither size nor hash of its file."""
    return f"version: 1\nname: test\nlimits: {{run: 60s}}\ndownloads:\n  - {{url: '{files.url('/a.safetensors')}', path: {path}, level: critical{extra}}}\n"


def test_plan_asks_the_instance_what_is_there_and_what_the_line_gives(here: Here, files: FileServer) -> None:
    files.add("/a.safetensors", Content.safetensors(16 << 20))
    profile = here.profile(unknown_profile(files))

    before = here.run("plan", *at(here, profile=profile), "--price", "0.5", "--json").lines[0]
    assert here.up(profile).code == 0
    after = here.run("plan", *at(here, profile=profile), "--json").lines[0]

    assert (before["fetch_bytes"], before["there_bytes"], before["fits"]) == (16 << 20, 0, True)
    assert before["rate_is"] == "measured" and before["rate_bytes_per_s"] > 1e6
    assert before["complete_s"] == pytest.approx((16 << 20) / before["rate_bytes_per_s"])
    assert before["cost"] == pytest.approx(0.5 * before["complete_s"] / 3600)
    assert before["disks"][0]["free_bytes"] > before["disks"][0]["needed_bytes"] > 16 << 20
    assert (after["fetch_bytes"], after["there_bytes"], after["files"][0]["state"]) == (0, 16 << 20, "there")


def test_plan_changes_nothing_on_the_instance(here: Here, files: FileServer) -> None:
    before = sorted(here.instance.workspace.rglob("*"))
    files.add("/a.safetensors", Content.safetensors(SIZE))

    done = here.run("plan", *at(here, profile=here.profile(unknown_profile(files))))

    assert done.code == 0, done.stderr
    assert "3.1 MB needed" not in done.stdout and "free" in done.stdout
    assert [path for path in sorted(here.instance.workspace.rglob("*")) if "agent" not in str(path)] == [
        path for path in before if "agent" not in str(path)
    ]


def test_check_online_tells_every_source_apart_and_ends_with_the_worst_level(
    here: Here, files: FileServer
) -> None:
    good, other = Content.safetensors(SIZE), Content.safetensors(SIZE + 8)
    files.add("/good.safetensors", good)
    files.add("/other.safetensors", other)
    files.add("/gated.safetensors", good, Fault(status=403, headers={"X-Error-Code": "GatedRepo"}))
    files.add("/login.safetensors", good, Fault(status=401))
    files.add("/silent.safetensors", good, Fault(silent=True))
    files.add("/page.safetensors", Content.of(b"<!doctype html><html>"), content_type="text/html")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        items = {
            "good": files.url("/good.safetensors"),
            "differs": files.url("/other.safetensors"),
            "gated": files.url("/gated.safetensors"),
            "login": files.url("/login.safetensors"),
            "missing": files.url("/missing.safetensors"),
            "page": files.url("/page.safetensors"),
            "nobody": nobody,
            "silent": files.url("/silent.safetensors"),
        }
        text = "version: 1\nname: test\nlimits: {lookup: 2s}\ndownloads:\n" + "".join(
            f"  - {{url: '{url}', path: {name}.safetensors, size: {SIZE}}}\n" for name, url in items.items()
        )
        done = here.run("check", here.profile(text), "--online", "--json")

    assert done.code == 5
    states = {Path(row["item"]).stem: row["state"] for row in done.lines[0]["sources"]}
    assert states == {
        "good": "ok",
        "differs": "size differs",
        "gated": "gated",
        "login": "unauthorized",
        "missing": "missing",
        "page": "not the file",
        "nobody": "unreachable",
        "silent": "unreachable",
    }
    assert all(row["hint"] for row in done.lines[0]["sources"] if row["state"] != "ok")


def test_check_online_is_content_with_a_mirror_and_with_a_missing_optional_file(
    here: Here, files: FileServer
) -> None:
    files.add("/good.safetensors", Content.safetensors(SIZE))
    good, bad = files.url("/good.safetensors"), files.url("/none.safetensors")
    text = f"""version: 1
downloads:
  - {{url: '{bad}', mirrors: ['{good}'], path: a.safetensors, level: critical}}
  - {{url: '{bad}', path: b.safetensors, level: optional}}
"""
    assert here.run("check", here.profile(text), "--online").code == 0
    text = text.replace("optional", "critical")
    assert here.run("check", here.profile(text), "--online").code == 1


def test_a_lock_from_a_run_brings_the_same_bytes_to_another_instance_with_the_first_source_gone(
    here: Here, second: EmbeddedInstance, files: FileServer, tmp_path: Path
) -> None:
    content = Content.safetensors(SIZE)
    files.add("/a.safetensors", content)
    files.add("/mirror.safetensors", content)
    node = Origin(str(tmp_path / "node"))
    node.commit({"__init__.py": "one"})
    extra = f", mirrors: ['{files.url('/mirror.safetensors')}']"
    profile = here.profile(
        unknown_profile(files, extra=extra) + f"repos: [{{url: '{node.url}', path: node, level: critical}}]\n"
    )
    assert here.run("lock", profile).code == 1, "no source tells the hash"
    assert here.up(profile).code == 0
    head = (here.instance.workspace / "node" / "__init__.py").read_text()

    node.commit({"__init__.py": "two"})  # the branch moves on; what stands on the instance counts
    locked = here.run("lock", *at(here, profile=profile), "--json")
    assert locked.code == 0, locked.stderr
    lock = json.loads((here.folder / "profile.lock.json").read_text())
    assert lock["downloads"][0]["sha256"] == content.sha256
    files.set_faults("/a.safetensors", Fault(status=404))
    words = ["--profile", profile, "--workspace", str(second.workspace), "--locked", "--json"]
    done = here.run("up", *here.connection(to=second), *words)

    assert done.code == 0, done.stdout
    assert (second.workspace / "models/a.safetensors").read_bytes() == content.bytes()
    assert (second.workspace / "node/__init__.py").read_text() == head == "one"


def test_a_lock_pins_a_hubs_branch_to_the_commit_and_the_hash_that_it_stands_for(
    here: Here, files: FileServer
) -> None:
    content, commit = Content.safetensors(SIZE), "c" * 40
    for revision in ("main", commit):
        path = f"/owner/name/resolve/{revision}/a.safetensors"
        files.add(path, content, headers={"X-Linked-Etag": f'"{content.sha256}"'})
    files.add("/api/models/owner/name/revision/main", Content.of(json.dumps({"sha": commit}).encode()))
    profile = here.profile(
        "version: 1\ndownloads: [{url: 'hf://owner/name/a.safetensors', path: a.safetensors}]\n"
    )

    done = here.run("lock", profile, environment={"HF_ENDPOINT": files.url("")})

    assert done.code == 0, done.stderr
    [file] = json.loads((here.folder / "profile.lock.json").read_text())["downloads"]
    assert (file["sha256"], file["size"]) == (content.sha256, SIZE)
    assert file["url"] == files.url(f"/owner/name/resolve/{commit}/a.safetensors")


def test_a_lock_that_does_not_fit_its_profile_is_refused_as_a_whole(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    assert here.run("lock", profile).code == 0
    here.profile(profile_of(files) + "\n", "profile.yaml")
    Path(profile).write_text(Path(profile).read_text().replace("models/optional", "models/else"))

    done = here.up(profile, "--locked")

    assert (done.code, done.outcome["verdict"]) == (3, "profile")
    assert "models/else.safetensors" in done.stderr and "provision lock" in done.stderr
    assert not (here.instance.workspace / "models").exists()


def test_audit_names_every_difference_and_repair_mends_only_those(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    assert here.up(profile).code == 0
    models = here.instance.workspace / "models"
    (models / "optional.safetensors").unlink()
    good = (models / "critical.safetensors").read_bytes()
    stamp = (models / "critical.safetensors").stat()
    (models / "critical.safetensors").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    os.utime(models / "critical.safetensors", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as bit rot does
    (models / "mine.safetensors").write_bytes(b"x")
    sent = files.bytes_sent("/required.safetensors")

    found = here.run("audit", *at(here), "--json")
    repaired = here.run("audit", *at(here), "--repair", "--json")

    states = {item["item"]: item["state"] for item in found.lines[0]["items"]}
    assert found.code == 1
    assert states == {
        "models/critical.safetensors": "wrong_hash",
        "models/required.safetensors": "ok",
        "models/optional.safetensors": "missing",
    }
    assert found.lines[0]["extra"] == ["models/mine.safetensors"]
    assert repaired.code == 0, repaired.stdout
    assert (models / "critical.safetensors").read_bytes() == good
    assert (models / "optional.safetensors").exists() and (models / "mine.safetensors").exists()
    assert files.bytes_sent("/required.safetensors") == sent
    assert here.run("verify", *at(here), "--json").outcome["checks"]["passed"] == 1, (
        "the run's plan, not the repair's"
    )


def test_audit_sees_a_repo_that_moved(here: Here, files: FileServer, tmp_path: Path) -> None:
    node = Origin(str(tmp_path / "node"))
    node.commit({"a.py": "one"})
    profile = here.profile(
        f"version: 1\nname: x\nlimits: {{run: 60s}}\nrepos: [{{url: '{node.url}', path: node}}]\n"
    )
    assert here.up(profile).code == 0
    there = str(here.instance.workspace / "node")
    (here.instance.workspace / "node/a.py").write_text("changed")
    assert here.run("audit", *at(here), "--json").lines[0]["items"][0]["state"] == "changed"
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "-C", there, *identity, "commit", "-qam", "mine"], check=True, capture_output=True)

    done = here.run("audit", *at(here), "--json")

    assert (done.code, done.lines[0]["items"][0]["state"]) == (5, "wrong_commit")


def test_verify_runs_the_checks_of_the_current_run_again(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    assert here.up(profile, "--run-id", "a").code == 0

    good = here.run("verify", "a", "--profile", profile, "--workspace", str(here.instance.workspace))
    (here.instance.workspace / "models/critical.safetensors").unlink()
    bad = here.run("verify", *at(here), "--json")

    assert (good.code, good.stdout) == (0, "ok      critical  Checkpoints\n")
    assert (bad.code, bad.outcome["verdict"], bad.outcome["checks"]["failed"]) == (
        1,
        "failed",
        ["Checkpoints"],
    )
    assert bad.named("check_failed")[0]["hint"]


def test_doctor_names_the_source_that_the_instance_cannot_have(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    good = here.run("doctor", *at(here, profile=profile), "--json")
    files.set_faults("/critical.safetensors", Fault(status=404))
    bad = here.run("doctor", *at(here, profile=profile))

    assert good.code == 0, good.stdout
    names = {finding["name"]: finding["state"] for finding in good.lines[0]["findings"]}
    assert {"ssh", "python", "workspace", "disk", "gpu", "clock", "source"} <= set(names)
    assert (names["source"], names["clock"], names["workspace"]) == ("ok", "ok", "ok")
    assert bad.code == 1
    assert "models/critical.safetensors: missing" in bad.stdout


def web(port: int) -> str:
    """A service that serves the models' folder."""
    return f"""
services:
  - name: web
    run: [python3, -m, http.server, "{port}", --bind, 127.0.0.1]
    directory: models
    ready: {{url: "http://127.0.0.1:{port}/", within: 20s, successes: 1}}
"""


def test_forward_brings_a_service_to_this_machine_until_it_is_ended(here: Here, files: FileServer) -> None:
    port = free_port()
    assert here.up(here.profile(profile_of(files, extra=web(port)))).code == 0

    child = here.spawn("forward", *here.connection(), "--json")
    facts = json.loads(eventually(lambda: here.said(child)))
    page = urllib.request.urlopen(facts["url"], timeout=10).read().decode()
    child.send_signal(2)

    assert here.finish(child).code == 130
    assert (facts["service"], facts["remote_port"]) == ("web", port)
    assert facts["local_port"] != port, "the same number is taken by the service itself here"
    assert "critical.safetensors" in page


def test_up_brings_the_services_here_once_it_is_usable_and_stays_until_it_is_ended(
    here: Here, files: FileServer
) -> None:
    profile = here.profile(profile_of(files, extra=web(free_port())))

    child = here.spawn_up(profile, "--forward")
    eventually(lambda: '"outcome"' in here.said(child))
    [url] = eventually(lambda: re.findall(r"web  (http://127\.0\.0\.1:[0-9]+)", here.complained(child)))
    page = urllib.request.urlopen(url, timeout=10).read().decode()
    child.send_signal(signal.SIGINT)
    done = here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stderr
    assert "critical.safetensors" in page
