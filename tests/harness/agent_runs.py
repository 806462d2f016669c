"""Whole runs of the agent on this machine: a plan in, its events out; no SSH, no collector."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import provision_agent

ROOT = str(Path(provision_agent.__file__).parent.parent)
PROGRAM = (
    f"import sys; sys.path.insert(0, {ROOT!r}); from provision_agent.__main__ import main; sys.exit(main())"
)


class AgentRuns:
    """Runs in one workspace, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.workspace = folder / "workspace"
        self._home = folder / "home"
        self._home.mkdir(exist_ok=True)
        self._count = 0

    def start(self, plan: dict[str, Any], secrets: dict[str, str] | None = None) -> Path:
        """Begin a run of *plan*; the file of its events."""
        self._count += 1
        whole = {"format": 2, "name": "x", "workspace": str(self.workspace), **plan}
        answer = self.ask("start", {"run": f"r{self._count}", "plan": whole, "secrets": secrets or {}})
        assert answer["state"] == "started", answer
        return Path(answer["files"]["events"])

    def ask(self, command: str, request: dict[str, Any]) -> dict[str, Any]:
        """One of the agent's commands; what it answers."""
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROGRAM, command],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            env={**os.environ, "HOME": str(self._home)},
            timeout=30,
            check=True,
        )
        return dict(json.loads(done.stdout.partition(b"provision-answer ")[2]))

    def run(
        self, plan: dict[str, Any], secrets: dict[str, str] | None = None, *, within_s: float = 100
    ) -> Told:
        """Do *plan* to its end."""
        return finished(self.start(plan, secrets), within_s=within_s)

    def write(self, path: str, content: str) -> Path:
        """A file of the workspace."""
        full = self.workspace / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(content)
        return full

    def status(self, service: str) -> dict[str, Any]:
        """What the supervisor of *service* last wrote; its state is empty before that."""
        path = self.workspace / ".provision/services" / f"{service}.status.json"
        return dict(json.loads(path.read_text())) if path.exists() else {"state": ""}

    def lock(self) -> dict[str, Any]:
        """Who holds the workspace."""
        return dict(json.loads((self.workspace / ".provision/lock").read_text()))

    def stop_services(self) -> None:
        """End what outlives the runs: services, jobs, and what ends an idle instance."""
        for place in ("services", "lifetime", "runs/*"):
            for path in self.workspace.glob(f".provision/{place}/*.status.json"):
                status = json.loads(path.read_text())
                for name in ("supervisor", "child"):
                    identity = provision_identity(status.get(name))
                    if identity is not None:
                        identity.end(within_s=10)


def provision_identity(data: object) -> Any:
    """The process that a status names; None when it names none."""
    from provision_agent.contract.parsing import parse
    from provision_agent.host.detach import Identity

    return parse(Identity, data) if data else None


class Told:
    """The events of one run."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.events = events

    @property
    def verdict(self) -> str:
        """How it ended."""
        return str(self.events[-1]["verdict"])

    def of(self, name: str, item: str | None = None) -> list[dict[str, Any]]:
        """Every event of that name, and of that item if one is given."""
        return [each for each in self.events if each["event"] == name and item in (None, each.get("item"))]

    def index(self, name: str, item: str | None = None) -> int:
        """Where the first of them stands."""
        return self.events.index(self.of(name, item)[0])


def told_so_far(events: Path) -> list[dict[str, Any]]:
    """The whole lines of the file *events*."""
    text = events.read_text() if events.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def finished(events: Path, *, within_s: float = 100) -> Told:
    """The events of a run, when it has ended."""
    until(
        lambda: [each for each in told_so_far(events) if each["event"] == "run_finished"], within_s=within_s
    )
    return Told(told_so_far(events))


def until(holds: Callable[[], Any], *, within_s: float = 60.0) -> Any:
    """The first true value of *holds*."""
    end = time.monotonic() + within_s
    while True:
        value = holds()
        if value:
            return value
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)
