"""`provision up` as a user types it, against a real sshd: every way that a run can end."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import asyncssh
from harness.content import Content
from harness.file_server import Fault, FileServer

from .conftest import Here, eventually

SIZE = 3 << 20


def profile_of(
    server: FileServer, *, extra: str = "", levels: tuple[str, ...] = ("critical", "required", "optional")
) -> str:
    """A profile with one file of each level and a check of the critical one."""
    items = []
    for number, level in enumerate(levels):
        content = Content.safetensors(SIZE, seed=number)
        server.add(f"/{level}.safetensors", content)
        items.append(
            f"  - {{url: '{server.url(f'/{level}.safetensors')}', path: models/{level}.safetensors, "
            f"size: {SIZE}, sha256: {content.sha256}, level: {level}}}"
        )
    return "\n".join(
        [
            "version: 1",
            "name: test",
            "limits: {run: 60s, attempts: 2}",
            "downloads:",
            *items,
            "checks:",
            "  - {name: Checkpoints, glob: ['models/critical*.safetensors'], min_size: 1MiB, level: critical}",
            extra,
        ]
    )


def test_a_run_ends_complete_and_everything_is_mirrored_exactly(here: Here, files: FileServer) -> None:
    extra = f"""
files: [{{path: notes.txt, content: "hello ${{run_id}}", level: critical}}]
commands: [{{name: count, run: [sh, -c, "ls models | wc -l > count.txt"]}}]
services:
  - name: web
    run: [python3, -m, http.server, "{free_port()}", --bind, 127.0.0.1]
    directory: models
    level: critical
"""
    done = here.up(here.profile(profile_of(files, extra=extra)), "--label", "pool=a", "--run-id", "first")

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stderr + done.stdout
    assert done.lines[0]["event"] == "run_accepted"
    assert done.outcome["labels"] == {"pool": "a"}
    assert done.outcome["downloads"] == {"ok": 3, "failed": 0, "skipped": 0}
    assert done.outcome["next"] == "none"
    workspace = here.instance.workspace
    for number, level in enumerate(("critical", "required", "optional")):
        assert (workspace / f"models/{level}.safetensors").read_bytes() == Content.safetensors(
            SIZE, seed=number
        ).bytes()
    assert (workspace / "notes.txt").read_text() == "hello first"
    assert (workspace / "count.txt").read_text().strip() == "3"
    core = (workspace / "provision_core.log").read_text()
    assert "✅ All critical components verified" in core
    assert "📊 Download batch complete: 3/3 succeeded, 0 failed" in core
    assert "✅ PROVISIONING COMPLETE" in core
    names = [event["event"] for event in here.agent_events("first")]
    assert names[0] == "run_started"
    assert names.index("run_usable") < names.index("run_finished") == len(names) - 1
    here.assert_mirrored(done.outcome)
    assert (here.folder / "logs/latest.log").read_bytes() == Path(done.outcome["logs"]["core"]).read_bytes()
    service = done.named("service_started")[0]["pid"]
    os.kill(service, 0)  # it outlives the run


def test_the_second_run_fetches_nothing_again(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    assert here.up(profile).code == 0
    sent = files.bytes_sent()

    done = here.up(profile)

    assert done.code == 0
    assert files.bytes_sent() - sent < 10_000
    here.assert_mirrored(done.outcome)


def test_a_missing_critical_file_fails_the_run_and_stands_in_the_error_log(
    here: Here, files: FileServer
) -> None:
    profile = here.profile(profile_of(files))
    files.set_faults("/critical.safetensors", Fault(status=404))

    done = here.up(profile)

    assert (done.code, done.outcome["verdict"], done.outcome["next"]) == (1, "failed", "fix_profile")
    error = next(error for error in done.outcome["errors"] if error["item"] == "models/critical.safetensors")
    assert error["class"] == "not_found"
    assert error["hint"]
    text = (here.instance.workspace / "provision_errors.log").read_text()
    run = done.outcome["run"]
    assert (
        f"run={run} FAILED: models/critical.safetensors from {files.url('/critical.safetensors')} (not_found: "
        in text
    )
    assert f"run={run} VALIDATION FAILED: 1 critical component(s) missing (Checkpoints: 0)" in text
    core = (here.instance.workspace / "provision_core.log").read_text()
    assert "❌ VALIDATION FAILED: 1 critical component(s) missing" in core
    assert "❌ Checkpoints: NONE FOUND (at least 1 required)" in core
    assert "FATAL: " in core
    assert "run_usable" not in [event["event"] for event in done.lines]
    here.assert_mirrored(done.outcome)


def test_strict_stops_at_the_first_critical_failure(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    files.set_faults("/critical.safetensors", Fault(status=404))

    done = here.up(profile, "--strict")

    assert done.code == 1
    assert not (here.instance.workspace / "models/required.safetensors").exists()


def test_a_missing_required_file_makes_the_run_incomplete(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    files.set_faults("/required.safetensors", Fault(status=404))

    done = here.up(profile)

    assert (done.code, done.outcome["verdict"]) == (5, "incomplete")
    assert done.named("run_usable")
    here.assert_mirrored(done.outcome)


def test_a_missing_optional_file_is_a_warning(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    files.set_faults("/optional.safetensors", Fault(status=404))

    done = here.up(profile)

    assert (done.code, done.outcome["verdict"], done.outcome["errors"]) == (0, "complete", [])
    assert any("models/optional.safetensors" in warning for warning in done.outcome["warnings"])


def test_a_wrong_profile_lists_every_problem(here: Here) -> None:
    path = here.profile("version: 1\nname: x\ndownlods: []\nlimits: {run: soon}\n")

    done = here.up(path)

    assert (done.code, done.outcome["exit_code"], done.outcome["next"]) == (3, 3, "fix_profile")
    assert f"{path}:3:1: " in done.stderr
    assert "did you mean `downloads`?" in done.stderr
    assert f"{path}:4:" in done.stderr


def test_a_refused_connection_is_unreachable_after_the_boot_grace(here: Here, files: FileServer) -> None:
    where = here.connection(port=free_port())
    where[-1] = "1s"

    done = here.up(here.profile(profile_of(files)), connection=where)

    assert (done.code, done.outcome["verdict"], done.outcome["next"]) == (
        10,
        "unreachable",
        "fix_address",
    )
    assert done.outcome["errors"][0]["class"] == "refused"
    assert done.named("connecting"), "the wait is told"


def test_a_wrong_key_is_refused_after_the_boot_grace(here: Here, files: FileServer, tmp_path: Path) -> None:
    other = tmp_path / "other_key"
    other.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    other.chmod(0o600)
    where = here.connection(key=other)
    where[-1] = "1s"

    done = here.up(here.profile(profile_of(files)), connection=where)

    assert (done.code, done.outcome["verdict"], done.outcome["next"]) == (
        13,
        "auth-refused",
        "fix_credentials",
    )


def test_a_changed_host_key_is_refused_until_it_is_forgotten(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    assert here.up(profile).code == 0
    here.instance.stop()
    here.instance.host_key_path.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    here.instance.start()

    done = here.up(profile)

    assert (done.code, done.outcome["verdict"]) == (11, "host-key")
    hint = done.outcome["errors"][0]["hint"]
    assert "provision hosts forget" in hint
    name = hint.split("'")[1]
    assert here.run("hosts", "forget", name).code == 0
    assert here.up(profile).code == 0


def test_the_deadline_ends_the_run_as_timeout(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    files.set_faults("/required.safetensors", Fault(slow_after=1 << 16, bytes_per_s=80_000))

    done = here.up(profile, "--timeout", "3s")

    assert (done.code, done.outcome["verdict"]) == (124, "timeout")
    assert here.agent_events(done.outcome["run"])[-1]["verdict"] == "timeout"
    here.assert_mirrored(done.outcome)


def test_ctrl_c_leaves_the_run_going_and_attach_brings_it_home(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    files.set_faults("/required.safetensors", Fault(slow_after=1 << 18, bytes_per_s=1_200_000))
    child = here.spawn_up(profile, "--run-id", "long")
    eventually(lambda: (here.instance.workspace / "models/critical.safetensors").exists())
    os.kill(child.pid, signal.SIGINT)
    left = here.finish(child)

    assert (left.code, left.outcome["verdict"], left.outcome["exit_code"]) == (130, "cancelled", 130)
    assert "provision attach long" in left.stderr
    assert "provision stop long" in left.stderr
    home = here.run("attach", "long", "--json")
    assert (home.code, home.outcome["verdict"]) == (0, "complete"), home.stderr
    assert home.outcome["logs"] == left.outcome["logs"]
    here.assert_mirrored(home.outcome)


def test_stop_ends_the_run_for_every_watcher_and_keeps_what_landed(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    brake = Fault(bytes_per_s=500_000)  # of each connection
    files.set_faults("/required.safetensors", brake)
    child = here.spawn_up(profile, "--run-id", "long")
    eventually(lambda: files.bytes_sent("/required.safetensors") > 1 << 20)
    brake.bytes_per_s = 1000

    stopped = here.run("stop", "long", "--json")
    watcher = here.finish(child)

    assert stopped.code == 0, stopped.stderr
    assert (watcher.code, watcher.outcome["verdict"]) == (130, "cancelled")
    here.assert_mirrored(watcher.outcome)
    files.set_faults("/required.safetensors")
    before = files.bytes_sent("/required.safetensors")
    assert here.up(profile).code == 0
    assert files.bytes_sent("/required.safetensors") - before < SIZE - (1 << 19)


def test_the_id_of_a_finished_run_is_refused(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    assert here.up(profile, "--run-id", "one").code == 0

    assert here.up(profile, "--run-id", "one").code == 2


def test_detach_prints_the_run_id_and_attach_follows(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    files.set_faults("/required.safetensors", Fault(delay_s=1.0))
    where = [*here.connection(), "--profile", profile, "--workspace", str(here.instance.workspace)]

    left = here.run("up", *where, "--detach")

    assert left.code == 0, left.stderr
    run = left.stdout.strip()
    done = here.run("attach", run, "--json")
    assert done.code == 0
    here.assert_mirrored(done.outcome)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
