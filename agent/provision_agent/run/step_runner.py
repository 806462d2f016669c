"""Single items of a plan: each is tried once, reported, and counted; its failure stops nothing else."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any, Callable, List, Mapping, Optional, Set, Tuple

from ..contract.failures import Failure
from ..contract.plan import Check, Command, Download, File, Plan, Python, Repo, Service
from ..downloads import existing
from ..services import manager
from ..services.wait_ready import wait_ready
from ..steps import apt, checks, commands, nodes, orphans, repos
from ..steps.python import packages, venv
from .context import Context
from .tally import Tally

LOOK_AGAIN_S = 0.2

Checkouts = List[Tuple[Repo, "Future[bool]"]]
"""Repositories, the critical ones first, and what became of each."""


class Items:
    """Does the items of one run. Environment and checkouts may run in threads of their own."""

    def __init__(self, plan: Plan, context: Context, tally: Tally, is_over: Callable[[], bool]) -> None:
        self._plan = plan
        self._context = context
        self._tally = tally
        self._is_over = is_over
        self._venv: Optional[venv.Venv] = None
        self._installs = threading.Lock()
        self._system_is_settled = threading.Event()
        self._prepared: Set[str] = set()
        self._unchecked: List[Repo] = []

    def environment(self, found: Mapping[str, Any], checkouts: Checkouts) -> None:
        """System packages, then the virtual environment and its layers.

        Args:
            found: The instance's facts.
            checkouts: What goes on meanwhile; a layer of requirements waits for the repository that holds them.
        """
        orphans.end(self._context)
        wanted = self._plan.apt if "apt" in self._plan.steps else ()
        if wanted:
            self._attempt("apt", "apt", "critical", "step", lambda: apt.install(wanted, self._context))
            self._tally.finish("apt")
        self._system_is_settled.set()
        python = self._plan.python
        if python is None or "python" not in self._plan.steps:
            return

        def build() -> None:
            assert python is not None
            self._venv = venv.prepare(python, self._context, dict(found))
            self._await_requirements(python, checkouts)
            with self._installs:
                packages.install(python, self._venv, self._context, dict(found))

        self._attempt("python", "python", "critical", "step", build)
        self._tally.finish("python")

    def _await_requirements(self, python: Python, checkouts: Checkouts) -> None:
        wanted = [layer.requirements for layer in python.layers if layer.requirements is not None]
        for repo, checkout in checkouts:
            if any(path.startswith(repo.path.rstrip("/") + "/") for path in wanted):
                while not self._is_over() and not wait([checkout], timeout=LOOK_AGAIN_S).done:
                    pass

    def checkout(self, repo: Repo, found: Mapping[str, Any]) -> bool:
        """True when the repository is there at its ref; git itself may have to be installed first."""
        orphans.end(self._context)
        if not found.get("git") and "git" in self._plan.apt and "apt" in self._plan.steps:
            while not self._is_over() and not self._system_is_settled.wait(LOOK_AGAIN_S):
                pass
        work = lambda: repos.checkout(repo, self._context)  # noqa: E731
        return self._attempt("repos", repo.path, repo.level, "repo", work)

    def install_requirements(self, repo: Repo) -> None:
        """What the repository says that it needs, into the environment; a node must import after that."""
        if "python" not in self._plan.steps:
            return
        if repo.install is None or self._install(repo, repo.install):
            self._unchecked.append(repo)
        self._prepared.add(self._folder(repo))
        self._check_nodes()

    def _install(self, repo: Repo, requirements: str) -> bool:
        python, made = self._plan.python, self._venv
        item = f"{repo.path}/{requirements}"

        def install() -> None:
            if python is None or made is None:
                raise Failure(
                    "missing", "there is no environment to install into", hint="add `python:` to the profile"
                )
            path = os.path.join(self._context.workspace, item)
            with self._installs:
                packages.install_requirements(path, made, self._context, python, item, repo.level)

        return self._attempt("repos", item, repo.level, "package", install)

    def _check_nodes(self) -> None:
        """Import the nodes whose ComfyUI has got what it needs, or is not a repository of this plan."""
        made = self._venv
        if made is None:
            return
        awaited = {self._folder(repo) for repo in self._plan.repos} - self._prepared
        waiting = []
        for repo in self._unchecked:
            if nodes.application_of(repo, self._context) in awaited:
                waiting.append(repo)
            elif nodes.is_node(repo, self._context):
                self._check_node(repo, made)
        self._unchecked = waiting

    def _check_node(self, repo: Repo, made: venv.Venv) -> None:
        item = f"{repo.path}/__init__.py"
        work = lambda: nodes.check(repo, made, self._context, item)  # noqa: E731
        self._attempt("repos", item, repo.level, "package", work)

    def _folder(self, repo: Repo) -> str:
        return os.path.normpath(os.path.join(self._context.workspace, repo.path))

    def file(self, file: File) -> None:
        """Write a small text file."""
        work = lambda: commands.write_file(file, self._context)  # noqa: E731
        self._attempt("files", file.path, file.level, "file", work)

    def command(self, command: Command) -> None:
        """Run a program to its end."""
        python = None if self._venv is None else self._venv.python
        work = lambda: commands.run_command(command, self._context, python)  # noqa: E731
        self._attempt("commands", command.name, command.level, "command", work)

    def check(self, check: Check) -> None:
        """Look whether something is there."""
        self._tally.start("checks")
        try:
            checks.run_check(check, self._context, self._venv)
        except Failure as failure:
            self._tally.fail("checks", check.name, check.level, failure, is_reported=True)
        else:
            self._tally.succeed("checks", check.name)

    def check_again(self, check: Check) -> None:
        """What was there at `usable` must still be there; only news is reported."""
        try:
            checks.run_check(check, replace(self._context, report=lambda event, **fields: None), self._venv)
        except Failure:
            self.check(check)

    def service(self, service: Service, found: Mapping[str, Any]) -> None:
        """Start a service and wait until it is ready; *found* are the instance's facts."""

        models = [self._path_of(item) for item in self._plan.downloads if item.level == "critical"]

        def start() -> None:
            manager.start(service, self._context, self._venv)
            wait_ready(service, self._context, models, has_gpu=bool(found.get("gpus")))

        self._attempt("services", service.name, service.level, "service", start)

    def _path_of(self, item: Download) -> str:
        """The path of a file; of one that took its server's name, as it was recorded."""
        record = existing.record_of(self._context, item) if item.path.endswith("/") else {}
        return os.path.relpath(record["path"], self._context.workspace) if record else item.path

    def _attempt(self, step: str, item: str, level: str, kind: str, work: Callable[[], Any]) -> bool:
        if self._is_over():
            return False
        self._tally.start(step)
        try:
            work()
        except Failure as failure:
            if self._is_over():
                return False  # it was interrupted, it did not fail
            self._tally.fail(step, item, level, failure, kind=kind, is_reported=failure.is_reported)
            return False
        self._tally.succeed(step, item)
        return True
