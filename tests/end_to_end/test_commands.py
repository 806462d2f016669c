"""The other commands on runs: status, logs, hosts, prune, check; and what they say of runs that are going."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

from harness.file_server import FileServer

from .conftest import PROVISION, Here, eventually
from .test_survival import SLOW, big_profile, landed, lift
from .test_up import profile_of


def test_status_tells_the_same_here_and_from_the_instance(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    here.up(profile, "--run-id", "a")

    local = here.run("status", "--json").lines
    remote = here.run("status", *here.connection(), "--json").lines

    assert [row["run"] for row in local] == [row["run"] for row in remote] == ["a"]
    for row in (local[0], remote[0]):
        assert (row["state"], row["verdict"]) == ("complete", "complete")
        assert len(row["downloads"]) == 3
        assert row["scorecard"]["runs"] == 1
    assert remote[0]["is_alive"] is False
    table = here.run("status").stdout
    assert "RUN" in table and "complete" in table and "3/3" in table


def test_logs_prints_the_mirror_as_it_is_and_follows_it_to_the_end(here: Here, files: FileServer) -> None:
    child = here.spawn_up(here.profile(big_profile(files)), "--run-id", "a")
    eventually(lambda: landed(files))
    follower = here.spawn("logs", "-f", "a")
    eventually(lambda: "Preflight" in here.said(follower))
    lift()
    outcome = here.finish(child).outcome
    followed = here.finish(follower)

    mirror = Path(outcome["logs"]["core"]).read_bytes()
    assert followed.stdout.encode() == mirror
    assert here.run("logs", "a").stdout.encode() == mirror
    lines = mirror.decode().splitlines(keepends=True)
    assert here.run("logs", "a", "-n", "3").stdout == "".join(lines[-3:])
    assert here.run("logs", "a", "--since", lines[4].split()[0]).stdout == "".join(
        line for line in lines if line.split()[0] >= lines[4].split()[0]
    )
    assert here.run("logs", "a", "--events").stdout.encode() == Path(outcome["logs"]["events"]).read_bytes()


def test_logs_of_a_host_are_fetched_by_a_machine_that_knows_nothing_of_the_run(
    here: Here, files: FileServer, tmp_path: Path
) -> None:
    other = Here(tmp_path / "other", here.instance)
    where = [*other.connection(), "--workspace", str(here.instance.workspace)]
    child = here.spawn_up(here.profile(big_profile(files)), "--run-id", "a")
    try:
        eventually(lambda: landed(files))
        so_far = other.run("logs", *where).stdout
        follower = other.spawn("logs", *where, "-f", "--events")
        eventually(lambda: "run_started" in other.said(follower))
        lift()
        here.finish(child)
        followed = other.finish(follower)
        nothing = other.run("logs", "nope", *where)
    finally:
        other.close()

    core = here.remote("a", "core.log").read_text()
    assert "Preflight" in so_far and core.startswith(so_far)
    assert followed.stdout == here.remote("a", "events.jsonl").read_text()
    assert (nothing.code, nothing.stdout) == (2, "") and "no run `nope`" in nothing.stderr


def test_an_unknown_run_is_a_usage_error_with_the_next_step(here: Here) -> None:
    for words in (("attach", "nope"), ("stop", "nope"), ("logs", "nope"), ("status", "nope")):
        done = here.run(*words)
        assert done.code == 2, words
        assert "provision status" in done.stderr


def test_hosts_lists_what_was_seen_first_and_forgets_it(here: Here, files: FileServer) -> None:
    here.up(here.profile(profile_of(files)))

    [row] = here.run("hosts", "list", "--json").lines

    assert row["host"] == f"[127.0.0.1]:{here.instance.port}"
    assert row["fingerprint"].startswith("SHA256:")
    assert here.run("hosts", "forget", f"127.0.0.1:{here.instance.port}").code == 0
    assert here.run("hosts", "list", "--json").lines == []


def test_prune_removes_old_runs_here_and_there_but_never_what_they_made(
    here: Here, files: FileServer
) -> None:
    profile = here.profile(profile_of(files))
    outcomes = [here.up(profile, "--run-id", run).outcome for run in ("a", "b", "c")]

    told = here.run("prune", "--keep", "1", "--dry-run", "--json").lines
    there = here.run("prune", "--keep", "1", "--dry-run", "--json", *here.connection()).lines
    assert [told[0]["removed"], sorted(there[0]["removed"])] == [["b", "a"], ["a", "b"]]
    assert here.run("prune", "--keep", "1", "--json").lines == [{"removed": ["b", "a"]}], (
        "they are still there"
    )
    there = here.run("prune", "--keep", "1", "--json", *here.connection()).lines

    assert sorted(there[0]["removed"]) == ["a", "b"]
    assert not Path(outcomes[0]["logs"]["core"]).exists()
    assert Path(outcomes[2]["logs"]["core"]).exists()
    assert (here.instance.workspace / "models/critical.safetensors").exists()
    assert here.remote("c", "core.log").exists()
    assert not here.remote("a", "core.log").exists()


def test_prune_leaves_a_run_that_is_going(here: Here, files: FileServer) -> None:
    child = here.spawn_up(here.profile(big_profile(files)), "--run-id", "a")
    eventually(lambda: landed(files))

    assert here.run("prune", "--keep", "0", "--json").lines == [{"removed": []}]
    assert here.run("prune", "--keep", "0", "--json", *here.connection()).lines[0]["removed"] == []

    assert SLOW.bytes_per_s
    lift()
    assert here.finish(child).code == 0


def test_a_run_whose_end_was_never_seen_is_forgotten_by_its_name(here: Here, files: FileServer) -> None:
    child = here.spawn_up(here.profile(big_profile(files)), "--run-id", "a")
    eventually(lambda: landed(files))
    child.kill()
    child.wait()

    assert here.run("prune", "b").code == 2
    assert here.run("prune", "a", "--json").lines == [{"removed": ["a"]}]
    assert here.run("status", "--json").lines == []
    lift()


def test_plain_lines_go_to_a_pipe_and_end_with_what_to_do(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files, levels=("critical",)))
    where = [*here.connection(), "--profile", profile, "--workspace", str(here.instance.workspace)]

    good = here.run("up", *where)
    quiet = here.run("up", *where, "--quiet")

    assert good.code == quiet.code == 0
    assert "\x1b" not in good.stdout + good.stderr
    assert "models/critical.safetensors" in good.stdout
    assert quiet.stdout == ""


def test_check_says_what_is_wrong_without_any_instance(here: Here, files: FileServer) -> None:
    assert here.run("check", here.profile(profile_of(files))).code == 0
    bad = here.run("check", here.profile("version: 1\nname: x\nlimits: {runn: 3}\n"))
    assert bad.code == 3
    assert ":3:10:" in bad.stderr


def test_no_python_on_the_instance_is_said_with_the_command_that_helps(here: Here, files: FileServer) -> None:
    fake = here.instance.home / "bin"
    fake.mkdir()
    # a login shell without any python: what a bare image looks like
    (here.instance.home / ".bashrc").write_text(f"PATH={fake}\n")
    (fake / "sh").symlink_to("/bin/sh")

    done = here.up(here.profile(profile_of(files)))

    assert done.code == 10
    error = done.outcome["errors"][0]
    assert error["class"] == "no-python"
    assert "apt-get install" in error["hint"]


def test_json_lines_are_json_and_nothing_else(here: Here, files: FileServer) -> None:
    done = here.up(here.profile(profile_of(files)))

    assert all(isinstance(json.loads(line), dict) for line in done.stdout.splitlines())
    assert done.lines[-1]["event"] == "outcome"


def test_a_reader_that_goes_away_is_no_failure_of_the_run(here: Here, files: FileServer) -> None:
    profile = here.profile(profile_of(files))
    words = [
        PROVISION,
        "up",
        *here.connection(),
        "--profile",
        profile,
        "--workspace",
        str(here.instance.workspace),
        "--json",
    ]

    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(words)} | head -1; exit ${{PIPESTATUS[0]}}"],
        cwd=here.folder, env=here.environment, timeout=25, check=False, capture_output=True,
    )  # fmt: skip

    assert done.returncode == 141, done.stderr
    assert b"Traceback" not in done.stderr


def test_ssh_is_the_systems_own_with_the_key_and_the_host_keys_of_the_run(
    here: Here, files: FileServer
) -> None:
    here.up(here.profile(profile_of(files)), "--run-id", "a")
    (here.folder / "home/.ssh").mkdir()
    (here.folder / "home/.ssh/config").write_text("Host *\n  SendEnv *\n  ForwardAgent yes\n  User nobody\n")

    by_run = here.run("ssh", "a", "--user", here.instance.user, "--", "echo", "it is", "$0; env")
    by_host = here.run("ssh", *here.connection(), "--host-key", "strict", "--", "exit", "7")
    stranger = here.run(
        "ssh",
        *here.connection(),
        "--host-key",
        "strict",
        "--known-hosts",
        str(here.folder / "none"),
        "--",
        "true",
    )

    assert by_run.code == 0, by_run.stderr
    assert by_run.stdout.startswith("it is ")
    assert "SSH_AUTH_SOCK" not in by_run.stdout and str(here.folder / "state") not in by_run.stdout
    assert by_host.code == 7, "the key that `up` saw first is known to it"
    assert stranger.code == 255 and "Host key verification failed" in stranger.stderr
