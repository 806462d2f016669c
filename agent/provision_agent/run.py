"""One run: the steps as a graph in which everything that can overlap does; usable first, then complete.

``run_started`` is written before anything can block. Whatever happens, the run ends with one ``run_finished``;
SIGKILL is the only exception, and the next start goes on from what the disk holds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from . import checks, commands, facts, lines, services
from .clock import RunClock
from .context import Context
from .downloads import Downloads, Sources
from .environment import apt, packages, repos, venv
from .failures import Failure
from .journal import Journal
from .keeper import Orphanage, close_run
from .plan import LEVELS, STEPS, Check, Download, Plan, Repo, Service
from .start import read_run_record
from .state import StateFile
from .status import transfer_totals
from .steps import Tally
from .when import unmet
from .workspace import Workspace, WorkspaceLock

CLONES_AT_ONCE = 4
TICK_S = 1.0
SUMMARY_EVERY_S = 10.0
RATE_SETTLES_AFTER_S = 15.0
"""Before this, the speed of the downloads says nothing about when they will end."""
STOP_WITHIN_S = 10.0


def run_main(argv: List[str]) -> int:
    """``run <workspace> <run> <restarts> <lock descriptor>``: secrets as one JSON line on stdin."""
    workspace, run_id, restarts = Workspace(argv[0]), argv[1], int(argv[2])
    secrets: Dict[str, str] = json.loads(sys.stdin.buffer.readline())["secrets"]
    record = read_run_record(workspace, run_id)
    journal = Journal(workspace, run_id, secrets=secrets)
    with open(workspace.run_file(run_id, "plan.json"), encoding="utf-8") as file:
        unbound = Plan.from_json(json.load(file))
    journal.event(
        "run_started",
        plan_hash=unbound.hash,
        name=unbound.name,
        deadline_s=unbound.limits.run_s,
        resumed=journal.status["started"] is not None,
        restarts=restarts,
        labels=record.get("labels") or {},
        workspace=workspace.root,
        pid=os.getpid(),
    )
    plan = unbound.bind(workspace=workspace.root, home=os.path.expanduser("~"), run_id=run_id)
    run = Run(plan, workspace, run_id, journal, RunClock.from_json(record), secrets)
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: run.end_early("cancelled"))
    orphan = Orphanage(workspace, WorkspaceLock(workspace, int(argv[3])), run_id)
    verdict = run.execute()
    journal.close()
    if orphan.is_orphan:
        close_run(workspace, run_id, secrets, verdict)
        orphan.release()
    os._exit(0)  # a thread may still hang in a system call; nothing of it is needed any more


class Run:
    """The steps of one plan. `execute` is called once."""

    def __init__(
        self,
        plan: Plan,
        workspace: Workspace,
        run_id: str,
        journal: Journal,
        clock: RunClock,
        secrets: Mapping[str, str],
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._clock = clock
        self._early_verdict: Optional[str] = None
        self._facts: Dict[str, Any] = {}
        self._venv: Optional[venv.Venv] = None
        self._context = Context(
            workspace=workspace.root,
            run_id=run_id,
            run_directory=workspace.run_directory(run_id),
            report=journal.event,
            state=StateFile(workspace.state),
            cancelled=threading.Event(),
            remaining_s=clock.remaining_s,
            output=journal.output,
            secrets=dict(secrets),
        )
        self._tally = Tally(journal.event)
        self._pool = ThreadPoolExecutor(max_workers=CLONES_AT_ONCE + 2, thread_name_prefix="step")
        self._installs = threading.Lock()
        self._services: Dict[str, services.Started] = {}
        self._downloads: Optional[Downloads] = None

    def end_early(self, verdict: str) -> None:
        """Let everything stop soon; the first reason counts."""
        if self._early_verdict is None:
            self._early_verdict = verdict
            self._context.cancelled.set()

    def _is_over(self) -> bool:
        if self._clock.remaining_s() <= 0:
            self.end_early("timeout")
        return self._context.cancelled.is_set()

    def execute(self) -> str:
        """Do the work and write the verdict; returns it."""
        threading.Thread(target=self._tick, daemon=True).start()
        try:
            self._report_state()
            if self._preflight():
                self._work()
        except Exception:
            self._journal.output(traceback.format_exc())
            self._tally.fail(
                "run", "run", "critical", Failure("bug", f"{traceback.format_exc().splitlines()[-1]}")
            )
        finally:
            if self._downloads is not None:
                self._downloads.stop()
            self._tally.finish(*STEPS)
        self._is_over()
        verdict = self._early_verdict or self._tally.verdict(self._has_critical())
        if verdict == "complete" and not self._journal.status["usable_after_s"]:
            self._journal.event("run_usable", after_s=round(self._clock.elapsed_s(), 3))
        self._journal.event(
            "run_finished",
            verdict=verdict,
            duration_s=round(self._clock.elapsed_s(), 3),
            bytes_downloaded=self._bytes_downloaded(),
            errors_log=os.path.join(self._context.workspace, "provision_errors.log"),
        )
        return verdict

    # -- before the first large byte

    def _report_state(self) -> None:
        state = self._context.state
        if state.set_aside:
            self._journal.event("warning", message=f"unreadable state was set aside as `{state.set_aside}`")
        missing = [rule.name for rule in self._plan.secrets if rule.name not in self._context.secrets]
        if missing:
            self._journal.event("secrets_needed", names=missing)
        self._facts = facts.find_facts(self._context.workspace)
        self._journal.event("facts_found", facts=self._facts)

    def _preflight(self) -> bool:
        wanted = [item for item in self._selected("downloads", self._plan.downloads) if self._is_wanted(item)]
        sources = Sources(rules=self._plan.secrets, secrets=self._context.secrets)
        self._downloads = Downloads(wanted, limits=self._plan.limits, context=self._context, sources=sources)
        found = self._downloads.preflight()
        levels = {item.path: item.level for item in wanted}
        for path, failure in found.failures.items():
            if levels[path] == "critical" or failure.class_ == "disk_full":
                self._journal.event("preflight_failed", item=path, level=levels[path], **failure.as_fields())
        if found.too_big is not None:
            self._journal.event(
                "preflight_failed", item="disk", level="critical", **found.too_big.as_fields()
            )
            self._tally.fail("downloads", "disk", "critical", found.too_big, is_reported=True)
            return False
        hopeless = [path for path in found.failures if levels[path] == "critical"]
        if hopeless and self._plan.strict:
            for path in hopeless:
                self._tally.fail("downloads", path, "critical", found.failures[path], is_reported=True)
            return False
        if not hopeless:
            self._journal.event("preflight_passed", bytes_to_fetch=found.bytes_to_fetch, disks=found.disks)
        return not self._is_over()

    def _is_wanted(self, item: Download) -> bool:
        reason = None if item.when is None else unmet(item.when, self._facts, self._context)
        if reason is not None:
            self._journal.event("download_skipped", item=item.path, level=item.level, reason=reason)
            self._tally.skip("downloads", item.path)
        return reason is None

    # -- the graph

    def _work(self) -> None:
        assert self._downloads is not None
        if self._selected("downloads", self._plan.downloads):
            self._tally.start("downloads")
            self._downloads.start()
        environment = self._pool.submit(self._environment)
        checkouts = [
            (repo, self._pool.submit(self._checkout, repo))
            for repo in self._by_level("repos", self._plan.repos)
        ]
        if self._stage(("critical",), environment, checkouts) and self._may_go_on():
            self._make_usable()
        if self._early_verdict or (self._plan.strict and self._tally.has_failed("critical")):
            return
        if self._stage(("required", "optional"), environment, checkouts):
            self._complete()

    def _stage(
        self,
        levels: Tuple[str, ...],
        environment: "Future[None]",
        checkouts: "List[Tuple[Repo, Future[bool]]]",
    ) -> bool:
        """Everything of *levels* that comes before checks; False when the run was ended meanwhile."""
        assert self._downloads is not None
        self._await(environment)
        for repo, checkout in checkouts:
            if repo.level in levels:
                self._await(checkout)
                if not checkout.cancelled() and checkout.done() and checkout.result():
                    self._install_requirements(repo)
        is_last = "optional" in levels
        self._tally.finish(*(("apt", "python", "repos") if is_last else ()))
        for level in levels:
            self._downloads.wait(level)
        self._settle_downloads()
        self._tally.finish(*(("downloads",) if is_last else ()))
        for file in self._of("files", self._plan.files, levels):
            self._attempt(
                "files", file.path, file.level, "file", partial(commands.write_file, file, self._context)
            )
        for command in self._of("commands", self._plan.commands, levels):
            work = partial(commands.run_command, command, self._context, self._python())
            self._attempt("commands", command.name, command.level, "command", work)
        self._tally.finish(*(("files", "commands") if is_last else ()))
        for check in self._of("checks", self._plan.checks, levels):
            self._check(check)
        return not self._is_over()

    def _may_go_on(self) -> bool:
        missing = self._tally.missing_checks("critical")
        if any(check.level == "critical" for check in self._selected("checks", self._plan.checks)):
            self._journal.say(lines.validation_lines(missing))
        return not (self._plan.strict and self._tally.has_failed("critical"))

    def _make_usable(self) -> None:
        """Start what belongs to `usable`, and say so when everything critical holds."""
        for service in self._selected("services", self._plan.services):
            if service.start == "usable":
                self._start_service(service)
        if self._has_critical() and not self._tally.has_failed("critical") and not self._is_over():
            self._journal.event("run_usable", after_s=round(self._clock.elapsed_s(), 3))

    def _complete(self) -> None:
        for service in self._selected("services", self._plan.services):
            if service.start == "complete":
                self._start_service(service)
        for check in self._selected("checks", self._plan.checks):
            if check.level == "critical" and not self._tally.is_failed("checks", check.name):
                self._check_again(check)

    # -- single items

    def _environment(self) -> None:
        wanted = self._selected("apt", self._plan.apt)
        if wanted:
            self._attempt("apt", "apt", "critical", "step", lambda: apt.install(wanted, self._context))
        python = self._plan.python
        if python is None or "python" not in self._plan.steps or self._is_over():
            return

        def build() -> None:
            assert python is not None
            self._venv = venv.prepare(python, self._context, self._facts)
            with self._installs:
                packages.install(python, self._venv, self._context, self._facts)

        self._attempt("python", "python", "critical", "step", build)

    def _checkout(self, repo: Repo) -> bool:
        return self._attempt(
            "repos", repo.path, repo.level, "repo", lambda: repos.checkout(repo, self._context)
        )

    def _install_requirements(self, repo: Repo) -> None:
        python, made = self._plan.python, self._venv
        if repo.install is None or "python" not in self._plan.steps:
            return
        item = f"{repo.path}/{repo.install}"

        def install() -> None:
            if python is None or made is None:
                raise Failure(
                    "missing", "there is no environment to install into", hint="add `python:` to the profile"
                )
            with self._installs:
                path = os.path.join(self._context.workspace, item)
                packages.install_requirements(path, made, self._context, python, item, repo.level)

        self._attempt("repos", item, repo.level, "package", install)

    def _check(self, check: Check) -> None:
        self._tally.start("checks")
        try:
            checks.run_check(check, self._context, self._venv)
        except Failure as failure:
            self._tally.fail("checks", check.name, check.level, failure, is_reported=True)
        else:
            self._tally.succeed("checks", check.name)

    def _check_again(self, check: Check) -> None:
        """What was there at `usable` must still be there; only news is reported."""
        try:
            checks.run_check(check, replace(self._context, report=lambda event, **fields: None), self._venv)
        except Failure:
            self._check(check)

    def _start_service(self, service: Service) -> None:
        def start() -> None:
            started = services.start(service, self._context, self._venv)
            if service.ready is not None:
                services.wait_ready(service, started, self._context)

        self._attempt("services", service.name, service.level, "service", start)

    def _attempt(self, step: str, item: str, level: str, kind: str, work: Callable[[], Any]) -> bool:
        """Do *work* for one item and keep account; its failure stops nothing else."""
        if self._is_over():
            return False
        self._tally.start(step)
        try:
            work()
        except Failure as failure:
            if self._is_over():
                return False  # it was interrupted, it did not fail
            self._tally.fail(step, item, level, failure, kind=kind)
            return False
        self._tally.succeed(step, item)
        return True

    def _await(self, future: "Future[Any]") -> None:
        while not future.done() and not self._is_over():
            try:
                future.result(timeout=0.2)
            except TimeoutError:
                continue
            except Exception as error:
                if not future.done():
                    continue  # before 3.11 the futures' TimeoutError is a class of its own
                raise error

    def _settle_downloads(self) -> None:
        assert self._downloads is not None
        for path, result in self._downloads.results().items():
            if result.state == "failed" and result.failure is not None:
                self._tally.fail("downloads", path, result.level, result.failure, is_reported=True)
            elif result.state in ("ok", "skipped"):
                self._tally.succeed("downloads", path)

    # -- facts about the plan

    def _selected(self, step: str, items: Tuple[Any, ...]) -> Tuple[Any, ...]:
        return items if step in self._plan.steps else ()

    def _of(self, step: str, items: Tuple[Any, ...], levels: Iterable[str]) -> List[Any]:
        return [item for item in self._selected(step, items) if item.level in levels]

    def _by_level(self, step: str, items: Tuple[Any, ...]) -> List[Any]:
        return sorted(self._selected(step, items), key=lambda item: LEVELS.index(item.level))

    def _python(self) -> Optional[str]:
        return None if self._venv is None else self._venv.python

    def _has_critical(self) -> bool:
        plan = self._plan
        if self._selected("apt", plan.apt) or (plan.python is not None and "python" in plan.steps):
            return True
        return any(
            item.level == "critical"
            for step in STEPS[2:]
            for item in self._selected(step, getattr(plan, step))
        )

    def _bytes_downloaded(self) -> int:
        results = self._downloads.results() if self._downloads is not None else {}
        return sum(result.bytes_downloaded for result in results.values())

    # -- the passing of time

    def _tick(self) -> None:
        """Keep the deadline, and never be silent for long."""
        said_at, is_warned = time.monotonic(), False
        while not self._context.cancelled.wait(min(TICK_S, max(self._clock.remaining_s(), 0.0))):
            if self._is_over():
                return
            speed, bytes_now, bytes_left = transfer_totals(self._journal.status)
            if time.monotonic() - said_at >= SUMMARY_EVERY_S and bytes_left:
                said_at = time.monotonic()
                text = f"⬇️ {lines.size_text(bytes_now)} landed, {lines.size_text(bytes_left)} to come, {lines.size_text(speed)}/s"
                self._journal.say(lines.Lines([text], []))
            if speed and not is_warned and self._clock.elapsed_s() > RATE_SETTLES_AFTER_S:
                needed_s, remaining_s = bytes_left / speed, self._clock.remaining_s()
                if needed_s > remaining_s:
                    is_warned = True
                    self._journal.event(
                        "deadline_at_risk",
                        remaining_s=round(remaining_s, 1),
                        needed_s=round(needed_s, 1),
                        timeout_s=round(self._clock.elapsed_s() + 1.2 * needed_s),
                    )
