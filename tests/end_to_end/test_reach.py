"""What is asked from outside: a service's public address, and whether the key still opens the door."""

from __future__ import annotations

from pathlib import Path

import pytest
from provision_collector import Profile, start
from provision_collector.run import access, reach

from .conftest import Here, instance_of
from .test_up import free_port

PROFILE = """
version: 1
name: test
limits: {{run: 60s}}
variables: {{outside: {0}}}
services:
  - name: web
    run: [python3, -m, http.server, "{0}", --bind, 127.0.0.1]
    ready: {{url: "http://127.0.0.1:{0}/", successes: 1}}
    public: "http://${{host}}:${{outside}}/"
    level: critical
"""


def profile() -> str:
    return PROFILE.format(free_port())


@pytest.mark.timeout(240)
def test_the_outcome_says_whether_a_service_is_reached_from_here(here: Here) -> None:
    done = here.up(here.profile(profile()))

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stderr
    [service] = done.outcome["services"]
    assert (service["name"], service["state"], service["reachable"]) == ("web", "ready", True)
    [reached] = done.named("service_reached")
    assert reached["url"].startswith("http://127.0.0.1:")


@pytest.mark.usefixtures("own_state")
@pytest.mark.timeout(240)
async def test_a_port_that_is_not_open_outside_changes_no_verdict(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "WAIT_S", 0.01)
    closed = Profile.from_text(profile(), name="test.yaml", overrides={"outside": str(free_port())})
    about = {"workspace": str(here.instance.workspace), "logs_dir": tmp_path / "logs"}

    async with await start(instance_of(here.instance, tmp_path), closed, **about) as run:
        outcome = await run.outcome()
        told = [event async for event in run.events() if event["event"] == "service_reached"]

    assert (outcome["verdict"], outcome["services"][0]["reachable"]) == ("complete", False)
    assert told[0]["reason"]


@pytest.mark.usefixtures("own_state")
@pytest.mark.timeout(240)
async def test_a_key_that_was_removed_is_told_while_the_open_connection_goes_on(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "PROVE_EVERY_S", 0.2)
    going = here.instance.workspace / "go"
    waits = f"version: 1\nname: t\ncommands: [{{name: w, run: [sh, -c, 'until [ -e {going} ]; do sleep 0.1; done']}}]"
    [keys] = here.instance.key_path.parent.rglob("authorized_keys")
    about = {"workspace": str(here.instance.workspace), "logs_dir": tmp_path / "logs"}

    async with await start(
        instance_of(here.instance, tmp_path), Profile.from_text(waits, name="t.yaml"), **about
    ) as run:
        await run.started()
        held = keys.read_text()
        keys.write_text("")
        async for event in run.events():
            if event["event"] == "access_lost":
                break
        keys.write_text(held)
        going.touch()
        outcome = await run.outcome()

    assert outcome["verdict"] == "complete"
