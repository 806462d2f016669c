"""What the steps of the agent are handed in tests: a context that remembers its events, and environments at low cost."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from provision_agent.run.context import Context
from provision_agent.run.outages import Outages
from provision_agent.run.state import StateFile


class Surroundings:
    """A workspace with a context; `events` holds what was reported, in order."""

    def __init__(self, workspace: str, *, within_s: float = 60.0, patience_s: float = 0.5) -> None:
        run_directory = os.path.join(workspace, ".provision", "runs", "r1")
        os.makedirs(run_directory, exist_ok=True)
        self.workspace = workspace
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.output: list[str] = []
        end = time.monotonic() + within_s
        self.context = Context(
            workspace=workspace,
            run_id="r1",
            run_directory=run_directory,
            report=self._report,
            state=StateFile(os.path.join(workspace, ".provision", "state.json")),
            cancelled=threading.Event(),
            remaining_s=lambda: end - time.monotonic(),
            output=self.output.append,
            outages=Outages(patience_s),
        )

    def _report(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The fields of every *event*."""
        return [fields for name, fields in self.events if name == event]

    def names(self) -> list[str]:
        """The names of the events without progress."""
        return [name for name, _ in self.events if not name.endswith("_progress")]

    def write(self, path: str, content: str = "x") -> str:
        """Write a file below the workspace; its full path."""
        full = os.path.join(self.workspace, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(content)
        return full


def copy_of_environment(path: str) -> None:
    """A virtual environment with pip at *path*; making the first takes seconds, each further one is links to it."""
    shutil.copytree(_template(), path, symlinks=True, copy_function=os.link)


@functools.lru_cache(maxsize=1)
def _template() -> str:
    folder = tempfile.mkdtemp(prefix="provision-venv-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, "venv")
    subprocess.run([sys.executable, "-m", "venv", path], check=True, timeout=60, stdout=subprocess.DEVNULL)
    return path
