"""Services below a real systemd, as rented machines have one."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import systemd as harness
from provision_agent.services import systemd

USER = "nobody"
SECRET = "hf_never_to_be_seen_again"
AGENT = """
import json, sys
from harness.environments import Surroundings
from provision_agent.services import manager
from provision_agent.contract.plan import Service
here = Surroundings(sys.argv[1])
if sys.argv[2:] == ["stop"]:
    manager.stop("ui", here.context)
else:
    manager.start(Service(name="ui", run=tuple(sys.argv[2:]), restart="on_failure"), here.context, None)
print(json.dumps(here.events))
"""
MANAGER = """
[Service]
User={user}
Type=notify
Delegate=yes
Environment=XDG_RUNTIME_DIR=/run/user/{uid} HOME={home}
ExecStart={program} --user
[Install]
WantedBy=multi-user.target
"""


class Machine:
    """A machine with a systemd, and one workspace on it; `user` None is root."""

    def __init__(self, booted: harness.Systemd, workspace: Path, user: str | None = None) -> None:
        self.booted = booted
        self.workspace = workspace
        self.user = user
        self.code = _CODE
        """Folders that hold the agent and this harness, to be imported from."""
        workspace.mkdir()

    def agent(self, *words: str, **environment: str) -> list[Any]:
        """Start *words* as a service, or ``stop`` it; what the agent reported."""
        argv = self._as_user(
            {"PYTHONPATH": os.pathsep.join(map(str, self.code)), **environment},
            self._python,
            "-c",
            AGENT,
            str(self.workspace),
        )
        return list(json.loads(self.booted.run([*argv, *words])))

    def systemctl(self, *words: str) -> str:
        scope = [] if self.user is None else ["--user"]
        return self.booted.run(self._as_user({}, "systemctl", *scope, *words), stderr=subprocess.DEVNULL)

    def status(self) -> dict[str, Any]:
        path = self.workspace / ".provision" / "services" / "ui.status.json"
        return dict(json.loads(path.read_text()))

    def main_pids(self) -> list[int]:
        """Of the units that a run made."""
        return [
            int(line)
            for line in self.systemctl("show", "--property=MainPID", "--value", "provision-*").split()
        ]

    def lives(self, process: dict[str, Any]) -> bool:
        return bool(self.booted.run(["cat", f"/proc/{process['pid']}/cmdline"], stderr=subprocess.DEVNULL))

    def until_another_than(self, before: dict[str, Any]) -> dict[str, Any]:
        """The status once another supervisor than in *before* has the service running."""

        def runs() -> bool:
            now = self.status()
            return now["supervisor"] != before["supervisor"] and now["state"] == "running"

        harness.until(runs, lambda: f"{self.status()} {self.systemctl('status')}", within_s=60.0)
        return self.status()

    @property
    def _python(self) -> str:
        return sys.executable if self.user is None else "/usr/bin/python3"  # one that every user may run

    def _as_user(self, environment: dict[str, str], *argv: str) -> list[str]:
        if self.user is None:
            return ["env", *(f"{name}={value}" for name, value in environment.items()), *argv]
        own = {"HOME": str(self.workspace.parent), "LOGNAME": self.user, **environment}
        runtime = f"XDG_RUNTIME_DIR=/run/user/{pwd.getpwnam(self.user).pw_uid}"
        become = ["setpriv", "--reuid", self.user, "--regid", "nogroup", "--clear-groups"]
        named = [f"{name}={value}" for name, value in own.items()]
        return [*become, "env", *([] if "PYTHONPATH" in own else [runtime]), *named, *argv]


_CODE = [Path(systemd.__file__).resolve().parents[2], Path(__file__).resolve().parents[1]]


@pytest.fixture
def booted() -> Iterator[harness.Systemd]:
    try:
        booted = harness.boot()
    except harness.Refused as refused:
        pytest.skip(f"no systemd can be booted here: {refused}")
    yield booted
    booted.close()


@pytest.fixture
def machine(lasting_path: Path, booted: harness.Systemd) -> Machine:
    return Machine(
        booted, lasting_path / '100%h "${HOME}" \\tand more'
    )  # systemd expands and splits such things


def test_systemd_keeps_the_service_and_brings_it_back_after_the_machine_restarts(machine: Machine) -> None:
    first = machine.agent("sleep", "600")
    before = machine.status()
    assert machine.main_pids() == [before["supervisor"]["pid"]]

    machine.booted.restart()
    machine.until_another_than(before)
    again = machine.agent("sleep", "600")

    assert [name for name, _ in first + again] == ["service_started", "service_started"]
    assert [fields["adopted"] for _, fields in first + again] == [False, True]


def test_a_supervisor_of_ours_that_was_killed_is_brought_back_and_the_program_with_it(
    machine: Machine,
) -> None:
    machine.agent("sleep", "600")
    before = machine.status()

    machine.booted.run(["kill", "-KILL", str(before["supervisor"]["pid"])])
    after = machine.until_another_than(before)

    assert not machine.lives(before["child"])
    assert machine.lives(after["child"])


def test_a_service_that_has_ended_for_good_is_not_brought_back(machine: Machine) -> None:
    machine.agent("true")
    harness.until(lambda: machine.status()["state"] == "exited", lambda: str(machine.status()), within_s=60.0)

    harness.until(lambda: machine.main_pids() in ([0], []), lambda: str(machine.main_pids()), within_s=60.0)
    assert machine.status()["starts"] == 1


def test_a_replaced_or_stopped_service_is_forgotten(machine: Machine) -> None:
    machine.agent("sleep", "600")
    first = machine.status()["child"]
    machine.agent("sleep", "601")
    second = machine.status()["child"]
    assert (machine.lives(first), machine.lives(second)) == (False, True)

    machine.agent("stop")

    assert not machine.lives(second)
    assert list(machine.booted.own.rglob("*.service")) == []
    assert "provision" not in machine.systemctl("list-units", "--all", "--plain")


def test_what_the_login_holds_is_in_no_unit_and_no_file_but_its_path_reaches_the_service(
    machine: Machine,
) -> None:
    code = "import os, time; print(os.environ['PATH'], os.environ['HOME'], flush=True); time.sleep(600)"
    path = f"/opt/cuda/bin{os.pathsep}{os.environ['PATH']}"

    machine.agent(sys.executable, "-c", code, HF_TOKEN=SECRET, PATH=path)

    log = machine.workspace / ".provision" / "services" / "ui.log"
    harness.until(lambda: log.read_text().endswith("\n"), log.read_text, within_s=60.0)
    assert log.read_text().split() == [path, os.path.expanduser("~")]
    written = [file for place in (machine.workspace, machine.booted.own) for file in place.rglob("*")]
    assert not any(SECRET in file.read_text(errors="replace") for file in written if file.is_file())
    assert SECRET not in machine.systemctl("show", "provision-*")


@pytest.fixture
def own_machine(lasting_path: Path, booted: harness.Systemd) -> Machine:
    """As a user who is not root, and whose systemd runs without a login."""
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("no python here that every user may run")
    machine = Machine(booted, lasting_path / "workspace", USER)
    account = pwd.getpwnam(USER)
    copy = lasting_path / "code"  # the checkout may lie where another user cannot look
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(systemd.__file__).parents[1], copy / "provision_agent", ignore=without)
    shutil.copytree(Path(harness.__file__).parent, copy / "harness", ignore=without)
    machine.code = [copy]
    for path in (lasting_path, *lasting_path.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid)
    unit = MANAGER.format(user=USER, uid=account.pw_uid, home=lasting_path, program=harness.PROGRAM)
    (booted.own / "manager.service").write_text(unit)
    runtime = f"/run/user/{account.pw_uid}"
    booted.run(["install", "-d", "-m", "700", "-o", USER, runtime])
    booted.run(["systemctl", "daemon-reload"])
    booted.run(["systemctl", "start", "manager"])
    return machine


def test_a_user_whose_systemd_lingers_has_the_service_below_it_any_other_does_without(
    own_machine: Machine,
) -> None:
    own_machine.agent("sleep", "600")
    detached = own_machine.status()
    assert own_machine.main_pids() == []
    own_machine.agent("stop")

    own_machine.booted.run(["touch", f"/var/lib/systemd/linger/{USER}"])
    own_machine.agent("sleep", "600")

    assert not own_machine.lives(detached["child"])
    assert own_machine.main_pids() == [own_machine.status()["supervisor"]["pid"]]


def test_a_machine_whose_first_process_is_another_has_no_systemd() -> None:
    if Path("/proc/1/comm").read_text().strip() == "systemd":
        pytest.skip("this machine has one")

    assert systemd.find() is None
