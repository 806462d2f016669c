"""The end of an instance by itself, through the published command: said, put off, and come to with nobody listening."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from provision_agent.host.detach import argv_of, processes
from provision_agent.lifetime.logins import logins

from .conftest import Here, eventually
from .server import Server

pytestmark = pytest.mark.timeout(400)

PROFILE = """
version: 1
name: ends
secrets: {API_KEY: {}}
files: [{path: a.txt, content: a}]
jobs:
  - {name: train, run: [python3, -c, %s], timeout: 2m}
outputs: [{path: made}]
lifetime:
  idle: 1h
  max: 8h
  then: {run: [python3, -c, %s], secrets: [API_KEY]}
"""
TRAIN = """
import pathlib, time
pathlib.Path("made").mkdir(exist_ok=True)
pathlib.Path("made/a.bin").write_bytes(b"result")
while not pathlib.Path("go").exists():
    time.sleep(0.02)
"""
HOOK = (
    "import os; open('ended', 'a').write(os.environ['PROVISION_KEY'] + ' ' + os.environ['API_KEY'] + chr(10))"
)


def end_process(here: Here) -> None:
    """End what outlives the test."""
    path = here.instance.workspace / ".provision/lifetime/process.status.json"
    status = json.loads(path.read_text()) if path.exists() else {}
    for role in ("supervisor", "child"):
        if status.get(role):
            try:
                os.kill(status[role]["pid"], signal.SIGKILL)
            except ProcessLookupError:
                pass


def test_an_instance_says_when_it_ends_is_kept_longer_and_ends_when_its_results_are_home(here: Here) -> None:
    text = PROFILE % (json.dumps(TRAIN), json.dumps(HOOK))
    secret = {"API_KEY": "k3y-of-the-provider"}
    profile = here.profile(text)
    try:
        detached = here.run(
            "up", *here.connection(), "--profile", profile, "--workspace", str(here.instance.workspace),
            "--run-id", "a", "--detach", environment=secret, within_s=100,
        )  # fmt: skip
        assert detached.code == 0, detached.stderr
        state = here.instance.workspace / ".provision/lifetime/state.json"
        eventually(lambda: json.loads(state.read_text())["busy"], within_s=100)
        page = here.run("status", "a", *here.connection(), within_s=100).stdout
        assert re.search(r"not as long as there is .*\b(run a|job train)\b.*; in [78] h", page), page
        kept = here.run("keep", "a", "--for", "2h", within_s=100)
        assert kept.code == 0 and re.search("in (9|10) h", kept.stdout), kept.stdout + kept.stderr

        # the time goes by, and nobody is there
        measured = json.loads(state.read_text())
        lifetime = here.instance.workspace / ".provision/lifetime"
        child = json.loads((lifetime / "process.status.json").read_text())["child"]["pid"]
        os.kill(child, signal.SIGSTOP)
        state.write_text(
            json.dumps({**measured, "elapsed_s": 10 * 3600.0, "extensions": 1, "extended_s": 7200.0})
        )
        os.kill(child, signal.SIGKILL)
        eventually(lambda: json.loads(state.read_text())["not_home"] == 1, within_s=100)
        ended = here.instance.workspace / "ended"
        assert not ended.exists()
        (here.instance.workspace / "go").touch()
        done = here.run("attach", "a", "--json", "--outputs", "out", within_s=100)
        eventually(lambda: ended.exists() and ended.read_text().endswith("\n"), within_s=100)

        assert (done.code, done.outcome["jobs"][0]["exit_status"]) == (0, 0), done.stdout[-2000:]
        assert (here.folder / "out/outputs/a.bin").read_bytes() == b"result"
        assert ended.read_text() == "a:lifetime k3y-of-the-provider\n"
        over = here.run("status", "a", *here.connection(), within_s=100).stdout
        assert "its hook has ended it" in over or "now (max)" in over
        late = here.run("keep", "a", "--for", "2h", within_s=100)
        assert late.code == 1 and "being ended already" in late.stderr
    finally:
        end_process(here)


def test_over_http_a_job_s_log_is_read_and_the_end_is_asked_for_and_put_off_though_the_server_was_killed(
    here: Here,
) -> None:
    train = "print('step 1', flush=True)\n" + TRAIN + "print('step 2', flush=True)\n"
    server = Server(here.folder.parent / "server", environment={"API_KEY": "k3y"})
    server.start()
    try:
        body = {
            "host": here.instance.host, "port": here.instance.port, "user": here.instance.user, "run_id": "a",
            "key": "instance/client_key", "workspace": str(here.instance.workspace),
            "profile_yaml": PROFILE % (json.dumps(train), json.dumps(HOOK)), "secrets": {"API_KEY": "k3y"},
        }  # fmt: skip
        server.post("/api/runs", body)
        log = "/api/runs/a/log?job=train"
        eventually(lambda: server.ask("GET", log)[2] == b"step 1\n", within_s=100)
        assert server.ask("GET", "/api/runs/a/log?job=other")[0] == 200, "it may begin yet"
        told = server.get("/api/runs/a/lifetime")
        assert told["run"] == "a" and 7 * 3600 < told["lifetime"]["max_in_s"] <= 8 * 3600
        server.kill()
        server.start()
        kept = server.post("/api/runs/a/keep", {"for": "2h"}, status=200)
        assert 9 * 3600 < kept["lifetime"]["max_in_s"] <= 10 * 3600
        for wrong in ({}, {"for": "0s"}, {"for": "long"}, {"for": -1.0}, {"for": "2h", "more": 1}):
            assert server.ask("POST", "/api/runs/a/keep", wrong)[0] == 422, wrong
        assert server.ask("POST", "/api/runs/b/keep", {"for": "2h"})[0] == 404
        for wrong in ("job=", "file=core&job=train"):
            assert server.ask("GET", f"/api/runs/a/log?{wrong}")[0] == 422, wrong
        (here.instance.workspace / "go").touch()
        status, _, followed = server.ask("GET", f"{log}&follow=1&from=7")
        assert (status, followed) == (200, b"step 2\n")
        assert server.outcome("a", 100)["verdict"] == "complete"
        assert server.ask("GET", log)[2] == b"step 1\nstep 2\n"
        assert server.ask("GET", "/api/runs/a/log?job=other")[0] == 404
        here.instance.stop()
        status, _, said = server.ask("POST", "/api/runs/a/keep", {"for": "2h"})
        assert (status, json.loads(said)["error"]["class"]) == (424, "refused")
    finally:
        server.close()
        end_process(here)


def test_somebody_in_a_shell_is_logged_in_and_a_watcher_is_not(here: Here) -> None:
    (here.instance.workspace / "made").mkdir(parents=True)
    (here.instance.workspace / "made/a.bin").write_bytes(b"1")
    source, home = f":{here.instance.workspace}/made/", here.folder / "came"
    here.spawn("copy", *here.connection(), "--follow", source, f"{home}/")
    eventually((home / "a.bin").exists, within_s=100)
    shell = here.spawn("ssh", *here.connection()[:4], "--", "sleep 7654.3; true")
    eventually(lambda: any("sleep 7654.3" in login.text for login in logins()), within_s=100)

    ours = next(
        pid
        for pid in processes()
        for words in [argv_of(pid)]
        if words[-1:] == ["send"] and any(str(here.instance.home) in word for word in words)
    )
    above = {ours}
    while ours > 1:
        ours = int(Path(f"/proc/{ours}/stat").read_text().rpartition(")")[2].split()[1])
        above.add(ours)
    assert above.isdisjoint({login.server for login in logins()})
    os.killpg(shell.pid, signal.SIGKILL)
    eventually(lambda: not any("sleep 7654.3" in login.text for login in logins()), within_s=100)
