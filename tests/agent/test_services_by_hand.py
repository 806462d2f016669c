"""Services restarted and stopped by hand: real programs, whole runs of the agent, its own command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from harness.adopted import adopted
from harness.agent_runs import AgentRuns

TALKS = "import os, time; print('key', os.environ.get('KEY'), flush=True); time.sleep(600)"


def up(runs: AgentRuns, code: str = TALKS, **fields: Any) -> None:
    service = {"name": "talker", "run": [sys.executable, "-c", code], **fields}
    secrets = [{"name": name, "hosts": []} for name in fields.get("secrets", [])]
    told = runs.run({"services": [service], "secrets": secrets}, {"KEY": "the value"})
    assert told.verdict == "complete", told.events[-1]


def ask(runs: AgentRuns, action: str, **fields: Any) -> dict[str, Any]:
    return runs.ask("services", {"action": action, "workspace": str(runs.workspace), **fields})


def test_a_service_is_listed_with_its_process_and_its_log(runs: AgentRuns) -> None:
    up(runs)

    [service] = ask(runs, "list")["services"]

    assert (service["name"], service["state"], service["starts"]) == ("talker", "running", 1)
    assert Path(f"/proc/{service['pid']}").exists()
    assert Path(service["log"]).read_text() == "key None\n"


def test_a_restart_keeps_the_supervisor_and_its_secrets_and_nobody_has_to_give_them_again(
    runs: AgentRuns,
) -> None:
    up(runs, secrets=["KEY"])
    before = runs.status("talker")

    answer = ask(runs, "restart", name="talker")

    assert answer["is_done"], answer
    [service] = answer["services"]
    after = runs.status("talker")
    assert (service["state"], service["starts"]) == ("running", 2)
    assert after["supervisor"] == before["supervisor"]
    assert after["child"] != before["child"]


def test_one_that_has_ended_asks_for_its_secrets_and_starts_with_them(runs: AgentRuns) -> None:
    up(runs, secrets=["KEY"])
    assert ask(runs, "stop", name="talker")["services"][0]["state"] == "stopped"

    without = ask(runs, "restart", name="talker")
    given = ask(runs, "restart", name="talker", secrets={"KEY": "another value"})

    assert (without["is_done"], without["wants_secrets"]) == (False, ["KEY"])
    assert (given["is_done"], given["services"][0]["state"]) == (True, "running")


def test_a_name_that_no_service_has_is_told_with_those_that_there_are(runs: AgentRuns) -> None:
    up(runs)

    answer = ask(runs, "stop", name="talkr")

    assert (answer["is_found"], answer["is_done"]) == (False, False)
    assert [service["name"] for service in answer["services"]] == ["talker"]


def test_a_program_that_ends_at_once_is_no_success_and_its_last_words_are_told(runs: AgentRuns) -> None:
    runs.write("is_broken", "")
    code = "import os, sys, time; os.path.exists('is_broken') or sys.exit('no way'); time.sleep(600)"
    up(runs, code)
    (runs.workspace / "is_broken").unlink()

    answer = ask(runs, "restart", name="talker")

    assert not answer["is_done"]
    assert "no way" in answer["last_lines"]


def test_a_service_that_an_image_started_is_healthy_on_whatever_port_it_answers(runs: AgentRuns) -> None:
    with adopted(runs.workspace, {}):
        answer = runs.ask("health", {"workspace": str(runs.workspace)})

    assert answer["services"] == [{"name": "ui", "state": "adopted", "problem": ""}]
