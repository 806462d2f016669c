"""`provision services`: the published command against a real sshd and a real service."""

from __future__ import annotations

import json

from .conftest import Here, eventually
from .test_up import free_port


def test_services_are_listed_restarted_read_and_stopped(here: Here) -> None:
    port = free_port()
    profile = here.profile(
        f"""
        version: 1
        name: web
        services:
          - name: web
            run: [python3, -u, -m, http.server, "{port}", --bind, 127.0.0.1]
            ready: {{url: "http://127.0.0.1:{port}/", successes: 1, within: 25s}}
        """
    )
    done = here.up(profile)
    assert done.code == 0, done.stdout + done.stderr
    run = done.outcome["run"]

    listed = here.run("services", "list", "--json")
    restarted = here.run("services", "restart", "web", "--run", run, *here.connection()[2:])
    read = here.run("services", "logs", "web", "-n", "2")
    follower = here.spawn("services", "logs", "web", "-f")
    eventually(lambda: "starting again" in here.said(follower))
    unknown = here.run("services", "stop", "wbe")
    stopped = here.run("services", "stop", "web", *here.connection())
    again = here.run("services", "stop", "web", *here.connection())

    [service] = listed.lines
    assert (service["name"], service["state"], service["answers"]) == ("web", "running", True), listed.stderr
    assert f"newest run, {run}" in listed.stderr
    assert (restarted.code, restarted.stdout.splitlines()[0]) == (0, "web is restarted"), restarted.stderr
    assert f"web  answers  http://127.0.0.1:{port}/" in restarted.stdout
    assert len(read.stdout.splitlines()) == 2, read.stderr
    assert (unknown.code, "did you mean `web`?" in unknown.stderr) == (2, True), unknown.stderr
    assert (stopped.code, stopped.stdout.splitlines()[0]) == (0, "web is stopped"), stopped.stderr
    assert again.code == 0
    status = here.instance.workspace / ".provision/services/web.status.json"
    assert json.loads(status.read_text())["state"] == "stopped"
