"""Gives the first start of a service a head start: what it imports is compiled by another process, while wheels are looked at.

Without it, ComfyUI compiles some 3000 files one after the other, more than half of the time until it answers.
"""

from __future__ import annotations

import os
import subprocess
from typing import List, Optional, Sequence

from ...contract.plan import Plan, Repo, Service
from ...host import process
from ...host.detach import agent_argv
from ...run.context import Context
from .. import nodes, orphans
from . import venv as environments
from .venv import Venv

_MAIN = "from provision_agent.host.compile_ahead import main; main(sys.argv[1:])"
_FORBIDDEN = "PYTHONDONTWRITEBYTECODE"


class HeadStart:
    """Of the services of one run. `give` it once their packages are there, and `end` it."""

    def __init__(self, plan: Plan, context: Context) -> None:
        self._plan = plan
        self._context = context
        self._child: "Optional[subprocess.Popen[bytes]]" = None

    def give(self, venv: Optional[Venv]) -> None:
        """Begin to compile what the services of the plan will import; nothing where that was begun, or is not wanted."""
        roots = self.roots()
        if self._child is not None or venv is None or not roots or os.environ.get(_FORBIDDEN):
            return
        if not environments.is_ours(venv.path, self._context):
            return
        try:
            self._child = subprocess.Popen(
                agent_argv(*roots, python=venv.python, main=_MAIN, flags=("-I",)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=process.child_environment(orphans.mark(self._context)),
                start_new_session=True,
            )
        except OSError:
            return  # they start without

    def end(self) -> None:
        """Who is not ready yet does the rest itself."""
        if self._child is not None:
            process.end_group(self._child)

    def roots(self) -> List[str]:
        """Where imports begin: the programs of the services, their nodes, and what else lies beside the programs."""
        programs = [
            program
            for service in self._plan.chosen("services", self._plan.services)
            for program in self._programs(service)
        ]
        if not programs:
            return []
        starts = [os.path.join(self._place(repo), "__init__.py") for repo in self._nodes()]
        folders = dict.fromkeys(map(os.path.dirname, programs))
        return [*programs, *filter(os.path.isfile, starts), *folders]

    def _programs(self, service: Service) -> List[str]:
        folder = os.path.join(self._context.workspace, service.directory)
        found = [os.path.join(folder, word) for word in service.run if word.endswith(".py")]
        return [path for path in found[:1] if os.path.isfile(path)]

    def _nodes(self) -> Sequence[Repo]:
        repos = self._plan.chosen("repos", self._plan.repos)
        return [repo for repo in repos if nodes.FOLDER in repo.path.split("/")]

    def _place(self, repo: Repo) -> str:
        return os.path.join(self._context.workspace, repo.path)
