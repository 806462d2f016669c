"""A pool that knows its instances: how each is after its run, until it is released or gone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import eventually
from .server import Server
from .test_server import order
from .test_up import free_port

pytestmark = pytest.mark.timeout(120)

PROFILE = """
version: 1
name: web
limits: {{run: 60s}}
services:
  - name: web
    run: [python3, -m, http.server, "{0}", --bind, 127.0.0.1]
    ready: {{url: "http://127.0.0.1:{0}/", successes: 1}}
    level: critical
"""


class Pool:
    """A server that watches its instances, and what it told a hook of them."""

    def __init__(self, folder: Path) -> None:
        self._told = folder / "told"
        self.gone = folder / "gone"
        hook = folder / "hook.sh"
        hook.write_text(f"#!/bin/sh\n(cat; echo) >> {self._told}\n")
        check = folder / "check.sh"
        check.write_text(f"#!/bin/sh\ntest -e {self.gone}\n")
        for script in (hook, check):
            script.chmod(0o755)
        words = ("--watch-instances", "300ms", "--on-health", str(hook), "--gone-check", str(check))
        self.server = Server(folder / "server", *words)

    def told(self, event: str) -> dict[str, Any]:
        """The newest fact of that name, once there is one."""
        lines = lambda: [json.loads(line) for line in self._told.read_text().splitlines() if line]  # noqa: E731
        return dict(eventually(lambda: [each for each in lines() if each["event"] == event][-1], 40))

    def now(self) -> dict[str, Any]:
        """The one instance that is watched."""
        [instance] = self.server.get("/api/instances")["instances"]
        return dict(instance)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    made = Pool(tmp_path)
    made.server.start()
    yield made
    made.server.close()


def test_an_instance_is_known_healthy_then_degraded_by_a_dead_service_then_gone(
    pool: Pool, instance: EmbeddedInstance
) -> None:
    body = order(instance, PROFILE.format(free_port()), run_id="r", instance_id="i-7", labels={"pool": "a"})
    pool.server.post("/api/runs", body)
    assert pool.server.outcome("r")["verdict"] == "complete"

    healthy = pool.told("instance_healthy")
    assert (healthy["run"], healthy["instance_id"], healthy["labels"]) == ("r", "i-7", {"pool": "a"})
    assert pool.now()["state"] == "healthy"
    assert pool.now()["services"] == [{"name": "web", "state": "running", "problem": ""}]
    assert pool.now()["disk_free_bytes"] > 0

    status = json.loads((instance.workspace / ".provision/services/web.status.json").read_text())
    os.killpg(status["child"]["pid"], signal.SIGKILL)

    degraded = pool.told("instance_degraded")
    assert degraded["why"][0].startswith("service web: it does not run")

    pool.server.kill()  # the next server goes on
    pool.server.start()
    assert pool.now()["run"] == "r"
    pool.gone.touch()
    instance.stop()

    assert pool.told("instance_gone")["why"] == ["the provider says so"]
    assert pool.now()["state"] == "gone"
    assert 'provision_instances{state="gone"} 1.0' in pool.server.ask("GET", "/metrics")[2].decode()


def test_an_instance_is_watched_until_it_is_released_when_its_order_asks_for_it(
    server: Server, instance: EmbeddedInstance
) -> None:
    text = "version: 1\nname: x\nfiles: [{path: a.txt, content: a}]\n"
    server.post("/api/runs", order(instance, text, run_id="plain"))
    server.outcome("plain")
    assert server.get("/api/instances") == {"instances": []}

    server.post("/api/runs", order(instance, text, run_id="kept", watch="until_released"))
    server.outcome("kept")
    [kept] = eventually(lambda: server.get("/api/instances")["instances"])
    assert (kept["run"], kept["profile"]) == ("kept", "x")

    server.post("/api/runs/kept/release")
    assert server.get("/api/instances") == {"instances": []}
