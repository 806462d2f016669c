"""Single items of a plan: each is tried once, reported, and counted; its failure stops nothing else.

The items of a sequential step are done by ``do(item, context, venv)`` of the module ``steps.<name>``, which raises
`Failure`; what the step's events are called, and how it is counted, follows from `STEPS`.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import replace
from importlib import import_module
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ..contract.events import EVENTS
from ..contract.failures import Failure
from ..contract.plan import Check, Plan, Python, Repo, Service
from ..contract.plan_parts import Item
from ..contract.steps import STEPS
from ..downloads import Line, existing
from ..host import answers
from ..services import judge, restarting
from ..services.changes import Changes
from ..steps import apt, nodes, orphans, repos
from ..steps.progress import Progress
from ..steps.python import compiled, for_run, later, packages, venv
from ..steps.python.head_start import HeadStart
from ..steps.python.imports import Ladder, Look
from ..steps.python.last_look import EarlyLook, LastLook
from ..steps.python.locked_install import LockedInstalls
from ..steps.python.node_installs import NodeInstalls
from ..steps.python.together import File
from ..steps.python.venv import Venv
from .context import Context
from .tally import Tally

LOOK_AGAIN_S = 0.2

Checkouts = List[Tuple[Repo, "Future[bool]"]]
"""Repositories, the critical ones first, and what became of each."""


class Items:
    """Does the items of one run. Environment and checkouts may run in threads of their own."""

    def __init__(
        self, plan: Plan, context: Context, tally: Tally, changes: Changes, is_over: Callable[[], bool]
    ) -> None:
        self._plan = plan
        self._context = context
        self._tally = tally
        self._changes = changes
        self._is_over = is_over
        self.venv: Optional[Venv] = None
        """The environment, once it is there."""
        self._by_lock: Optional[LockedInstalls] = None
        self._ladder: Optional[Ladder] = None
        self.last_look: Optional[LastLook] = None
        """What is known of the environment, once it is there."""
        self._head_start = HeadStart(plan, context)
        self._installs = threading.Lock()
        self._system_is_settled = threading.Event()
        self._prepared: Set[str] = set()
        self._unchecked: List[Repo] = []
        self._spoken: Dict[str, str] = {}
        """The nodes, by path, of which their service has said why it did not load them; empty when it did."""
        self._doubts: Dict[str, Tuple[Repo, Failure]] = {}
        self._untried: Dict[str, Repo] = {}
        """The nodes, by path, that only their service tries: why one cannot be imported is asked when that says so."""
        self.checked_out: Set[str] = set()
        """The repositories, by path, that nobody changes any more."""
        self.importable: Set[str] = set()
        """The nodes, by path, that could be imported before their service was asked."""

    def share(self, line: Line) -> None:
        """Have wheels come by *line*, as the models of the run do."""
        self._by_lock = for_run.of_run(self._plan, self._context, line, self.checked_out)

    def close(self) -> None:
        """Nothing is installed any more."""
        self._head_start.end()
        if self._by_lock is not None:
            is_done = not self._is_over() and not self._tally.is_failed("python", "python")
            self._by_lock.store.close(is_done=is_done)

    @property
    def wheel_bytes(self) -> int:
        """What came over the network for packages."""
        return 0 if self._by_lock is None else self._by_lock.store.bytes_downloaded

    def environment(self, found: Mapping[str, object], checkouts: Checkouts) -> None:
        """System packages, then the virtual environment and its layers.

        Args:
            found: The instance's facts.
            checkouts: What goes on meanwhile; a layer of requirements waits for the repository that holds them.
        """
        orphans.end_once(self._context)
        wanted = self._plan.system_packages if "apt" in self._plan.steps else ()
        if wanted:
            self.attempt("apt", "apt", "critical", "step", lambda: apt.install(wanted, self._context))
            self._tally.finish("apt")
        self._system_is_settled.set()
        python = self._plan.python
        if python is None or "python" not in self._plan.steps:
            return

        def look_ahead(coming: Venv) -> None:
            if self._by_lock is not None:
                packages.look_ahead(python, coming, self._context, self._by_lock)

        def build() -> None:
            assert python is not None
            early = EarlyLook(python, self._context, found)
            self.venv = venv.prepare(python, self._context, dict(found), before_making=look_ahead)
            self._await_requirements(python, checkouts)
            with self._installs:
                self._ladder = Ladder(python, self.venv, self._context, found)
                self.last_look = early.at(self.venv)
                if not self._plan.repair and self.last_look.skips_layers():
                    return
                packages.install(
                    python,
                    self.venv,
                    self._context,
                    dict(found),
                    reads_bytes=self._plan.repair,
                    by_lock=self._by_lock,
                )
                self.last_look.did_layers()

        self.attempt("python", "python", "critical", "step", build)
        self._tally.finish("python")

    def _await_requirements(self, python: Python, checkouts: Checkouts) -> None:
        wanted = [layer.requirements for layer in python.layers if layer.requirements is not None]
        for repo, checkout in checkouts:
            if any(path.startswith(repo.path.rstrip("/") + "/") for path in wanted):
                while not self._is_over() and not wait([checkout], timeout=LOOK_AGAIN_S).done:
                    pass

    def checkout(self, repo: Repo, found: Mapping[str, object]) -> bool:
        """True when the repository is there at its ref; git itself may have to be installed first."""
        orphans.end_once(self._context)
        if not found.get("git") and "git" in self._plan.system_packages and "apt" in self._plan.steps:
            while not self._is_over() and not self._system_is_settled.wait(LOOK_AGAIN_S):
                pass
        work = lambda: repos.checkout(repo, self._context, sets_aside=self._plan.repair)  # noqa: E731
        is_there = self.attempt("repos", repo.path, repo.level, "repo", work)
        self.checked_out.add(repo.path)
        return is_there

    def install_requirements(self, repos: Sequence[Repo]) -> None:
        """What the repositories say that they need, into the environment; a node must import after that."""
        if "python" not in self._plan.steps or not repos:
            return
        installs = NodeInstalls(
            self._plan, self.venv, self._context, by_lock=self._by_lock, known=self.last_look
        )
        files = {repo.path: self._file(repo) for repo in repos if nodes.has_requirements(repo, self._context)}
        if not self._is_over():
            with self._installs:
                installs.install_together(list(files.values()), on_placed=self._compile_ahead)
        for repo in repos:
            if repo.path not in files or self._install(files[repo.path], installs):
                self._unchecked.append(repo)
            self._prepared.add(self._folder(repo))

    def _file(self, repo: Repo) -> File:
        item = f"{repo.path}/{repo.requirements}"
        return File(item, os.path.join(self._context.workspace, item), repo.level)

    def _install(self, file: File, installs: NodeInstalls) -> bool:
        def install() -> None:
            with self._installs:
                installs.install(file)

        return self.attempt("repos", file.item, file.level, "package", install)

    def install_compiled(self, levels: Tuple[str, ...], found: Mapping[str, object]) -> None:
        """The compiled packages of *levels*, which nothing that is usable waits for."""
        if self.venv is not None and compiled.of_plan(self._plan, levels):
            about = (self._plan, levels, self.venv, self._context, found)
            later.install(*about, self.attempt, by_lock=self._by_lock, known=self.last_look)
            self._tally.finish("python")

    def environment_is_settled(self) -> None:
        """Nothing is installed for the moment: remember what was looked at in full."""
        if self.last_look is not None and not self._is_over():
            self._compile_ahead()
            self.last_look.renew()

    def _compile_ahead(self) -> None:
        """What services will import; not where nothing has changed since they imported it."""
        if self.last_look is not None and not self.last_look.is_unchanged:
            self._head_start.give(self.venv)

    def check_nodes(self) -> None:
        """Import the nodes whose ComfyUI has got what it needs, or is not a repository of this plan."""
        made = self.venv
        if made is None:
            return
        awaited = {self._folder(repo) for repo in self._plan.repos} - self._prepared
        due, waiting = [], []
        for repo in self._unchecked:
            if nodes.application_of(repo, self._context) in awaited:
                waiting.append(repo)
            elif nodes.is_node(repo, self._context) and not self._is_loaded(repo):
                service = self.judge_of(repo)
                if service is not None and not restarting.is_running(service, self._context):
                    self._untried[repo.path] = repo  # it tries them itself in a moment
                else:
                    due.append(repo)
        self._unchecked = waiting
        for arguments, repos_ in nodes.by_application(due, self.judge_of, self._context):
            self._import(repos_, made, arguments)

    def _is_loaded(self, repo: Repo) -> bool:
        """Has its service, which runs, said what became of it, and nothing has changed since? Then nobody need try it."""
        service = self.judge_of(repo)
        if service is None or not restarting.is_running(service, self._context):
            return False
        if repo.path in self._spoken:
            return True  # whatever came since makes it speak again
        if restarting.unloaded(service, self._context, self._changes):
            return False
        found = judge.failed_nodes(service, [repo], self._context)
        return repo.path in found and found[repo.path] is None

    def _try_by_itself(self, found: List[Repo]) -> None:
        """Import nodes of which a service of the plan has said that it did not load them, or nothing."""
        made, quiet = self.venv, replace(self._context, report=lambda event, **fields: None)
        if made is None or self._is_over():
            return
        for words, repos_ in nodes.by_application(found, self.judge_of, self._context):
            try:
                imports = nodes.import_all(repos_, made, self._context, words)
            except Failure:
                return  # the run was ended
            for repo in repos_:
                item = f"{repo.path}/__init__.py"
                try:
                    nodes.check(repo, imports[repo.path], made, quiet, item)
                except Failure as failure:
                    self._doubts[repo.path] = (repo, failure)
                else:
                    self._tally.succeed("repos", item)

    def _import(self, found: List[Repo], made: Venv, arguments: Tuple[str, ...]) -> None:
        item = f"{found[0].path}/__init__.py"
        try:
            with Progress(self._context, item, found[0].level):
                imports = nodes.import_all(found, made, self._context, arguments)
        except Failure:
            return  # the run was ended
        for repo in found:
            self._check_node(repo, made, imports[repo.path])

    def _check_node(self, repo: Repo, made: Venv, answer: answers.Node) -> None:
        """Where a service of the plan will load a node, that decides, and its import only warns."""
        item = f"{repo.path}/__init__.py"
        service = self.judge_of(repo)

        def work() -> None:
            try:
                nodes.check(repo, answer, made, self._context, item)
            except Failure as failure:
                if service is None:
                    raise
                self._doubts[repo.path] = (repo, failure)
                message = f"{repo.path}: {failure.message}. {failure.hint[:1].upper()}{failure.hint[1:]}"
                self._context.report(
                    "warning", message=f"{message}. `{service.name}` will say whether it loads it"
                )
            else:
                self.importable.add(repo.path)

        self.attempt("repos", item, repo.level, "package", work)

    def judge_of(self, repo: Repo) -> Optional[Service]:
        """The service that will say whether it loads the node *repo*; None when none of the plan's does."""
        wanted = self._plan.chosen("services", self._plan.services)
        return next((each for each in wanted if judge.loads(each, repo, self._context)), None)

    def judged(self, repo: Repo, failure: Optional[Failure]) -> None:
        """The service that loads the node *repo* has said why it did not, or, with None, that it did."""
        item = f"{repo.path}/__init__.py"
        said = "" if failure is None else failure.message
        if self._spoken.get(repo.path) == said:
            return
        self._spoken[repo.path] = said
        untried = self._untried.pop(repo.path, None)
        if failure is not None and untried is not None:
            self._try_by_itself([untried])
        _, doubt = self._doubts.pop(repo.path, (repo, None))
        if failure is None:
            if self._tally.is_failed("repos", item):
                self._context.report("package_finished", item=item, level=repo.level, duration_s=0.0)
            self._tally.succeed("repos", item)
            return
        if doubt is not None:
            failure.case, failure.about = doubt.case, doubt.about  # it knows which requirement is meant
        self._tally.fail("repos", item, repo.level, failure, kind="package")

    def settle_doubts(self) -> None:
        """Nodes that no service has spoken of: what their import says counts."""
        self._try_by_itself(list(self._untried.values()))
        self._untried = {}
        for repo, failure in self._doubts.values():
            self._tally.fail("repos", f"{repo.path}/__init__.py", repo.level, failure, kind="package")
        self._doubts = {}

    def _folder(self, repo: Repo) -> str:
        return os.path.normpath(os.path.join(self._context.workspace, repo.path))

    def do(self, step: str, item: Item) -> bool:
        """Do one item of the sequential *step*, by the step's own module; True when it is there."""
        about = STEPS[step]
        names = {"item": item.key, "level": item.level}

        def work() -> None:
            began = time.monotonic()
            self._tell(f"{about.kind}_started", **names)
            self._work(step, item, self._context)
            self._tell(f"{about.kind}_finished", duration_s=round(time.monotonic() - began, 3), **names)

        return self.attempt(step, item.key, item.level, about.kind, work, even_late=about.only_looks)

    def look_again(self, step: str, item: Item) -> None:
        """What was there before must still be there; only news is reported."""
        quiet = replace(self._context, report=lambda event, **fields: None)
        try:
            self._work(step, item, quiet)
        except Failure:
            self.do(step, item)

    def _work(self, step: str, item: Item, context: Context) -> None:
        """The work of one item: by the step's own module, or by the service that is to be asked."""
        if isinstance(item, Check) and item.service is not None:
            judge.run_check(item, self._plan.services, context)
            return
        do = import_module(f"provision_agent.steps.{step}").do
        if isinstance(item, Check) and item.imports and self._ladder is not None:
            self._import_modules(item, do, context)
        else:
            do(item, context, self.venv)

    def _import_modules(self, check: Check, do: Look, context: Context) -> None:
        """Import the modules of *check*, unless that was done and nothing has changed since."""
        known, ladder = self.last_look, self._ladder
        assert ladder is not None
        if known is not None and not self._plan.repair and known.has_imported(check.imports):
            context.report("check_passed", item=check.name, level=check.level, found=len(check.imports))
            return
        climbed = ladder.climbed
        try:
            ladder.look(check, do, context)
        finally:
            if known is not None and ladder.climbed > climbed:
                known.touched()
        if known is not None:
            known.renew()
            known.imported(check.imports)

    def _tell(self, event: str, **fields: object) -> None:
        """Report an event that its step has: some say all of it themselves."""
        if event in EVENTS:
            self._context.report(event, **fields)

    def critical_models(self) -> List[str]:
        """The files of the critical downloads: a ComfyUI must offer those in its own folder."""
        wanted = (item for item in self._plan.downloads if item.level == "critical")
        return [existing.final_path(self._context, item) for item in wanted]

    def attempt(
        self,
        step: str,
        item: str,
        level: str,
        kind: str,
        work: Callable[[], object],
        *,
        even_late: bool = False,
    ) -> bool:
        """Do *work* for *item* of *step*, and count it; True when it is there."""
        if self._is_over() and not even_late:
            return False
        self._tally.start(step)
        try:
            work()
        except Failure as failure:
            if self._is_over() and not even_late:
                return False  # it was interrupted, it did not fail
            self._tally.fail(step, item, level, failure, kind=kind, is_reported=failure.is_reported)
            return False
        self._tally.succeed(step, item)
        return True
