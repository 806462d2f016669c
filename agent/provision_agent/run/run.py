"""One run: the steps as a graph in which everything that can overlap does; usable first, then complete.

``run_started`` is written before anything can block. Whatever happens, the run ends with one ``run_finished``;
SIGKILL is the only exception, and the next start goes on from what the disk holds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ..contract.failures import Failure
from ..contract.messages import read_message
from ..contract.plan import STEPS, Download, Plan
from ..contract.redaction import public_url
from ..contract.steps import LEVELS
from ..downloads import Downloads, Sources
from ..downloads.sources import repositories
from ..host import facts
from ..steps import apt, nodes
from ..steps.python import disk_estimate
from . import log_lines
from .conditions import unmet
from .context import Context
from .deadline import RunClock
from .journal import Journal
from .keeper import Orphanage, close_run
from .record import Handed, read_plan, read_record
from .state import StateFile
from .step_runner import LOOK_AGAIN_S, Checkouts, Items
from .tally import Tally
from .ticker import Pulse
from .workspace import Workspace, WorkspaceLock

CLONES_AT_ONCE = 4


def run_main(argv: List[str]) -> int:
    """``run <workspace> <run> <restarts> <lock descriptor>``: secrets as one JSON line on stdin."""
    workspace, run_id, restarts = Workspace(argv[0]), argv[1], int(argv[2])
    secrets = read_message(Handed, sys.stdin.buffer.readline()).secrets
    record = read_record(workspace, run_id)
    journal = Journal(workspace, run_id, secrets=secrets)
    unbound = read_plan(workspace, run_id)
    journal.event(
        "run_started",
        plan_hash=unbound.hash,
        name=unbound.name,
        deadline_s=unbound.limits.run_s,
        resumed=journal.look(lambda state: state.started) is not None,
        restarts=restarts,
        labels=record.labels,
        workspace=workspace.root,
        pid=os.getpid(),
    )
    plan = unbound.bind(workspace=workspace.root, home=os.path.expanduser("~"), run_id=run_id)
    run = Run(plan, workspace, run_id, journal, record.clock, secrets, kill_holders=record.kill_holders)
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
        *,
        kill_holders: bool = False,
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._clock = clock
        self._early_verdict: Optional[str] = None
        self._ending = threading.RLock()
        """Held by whoever ends the run early; a signal may come while this very thread does that."""
        self._facts: Dict[str, Any] = {}
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
            kill_holders=kill_holders,
        )
        self._tally = Tally(journal.event)
        self._items = Items(plan, self._context, self._tally, self._is_over)
        self._clones = ThreadPoolExecutor(CLONES_AT_ONCE, thread_name_prefix="clone")
        self._installs = ThreadPoolExecutor(1, thread_name_prefix="install")
        self._downloads: Optional[Downloads] = None

    def end_early(self, verdict: str) -> None:
        """Let everything stop soon; the first reason counts."""
        with self._ending:
            if self._early_verdict is None:
                self._early_verdict = verdict
        self._context.cancelled.set()

    def execute(self) -> str:
        """Do the work and write the verdict; returns it."""
        pulse = Pulse(self._journal, self._clock, self._is_over)
        try:
            self._report_state()
            if self._preflight():
                self._work()
        except Exception as error:
            self._journal.output(traceback.format_exc())
            self._tally.fail("run", "run", "critical", Failure("bug", f"{type(error).__name__}: {error}"))
        finally:
            pulse.stop()
            if self._downloads is not None:
                self._downloads.stop()
                self._settle_downloads()
            self._tally.finish(*STEPS)
        self._is_over()
        verdict = self._early_verdict or self._tally.verdict(self._has_critical())
        if verdict == "complete" and not self._journal.look(lambda state: state.usable_after_s):
            self._say_usable()
        self._journal.event(
            "run_finished",
            verdict=verdict,
            duration_s=round(self._clock.elapsed_s(), 3),
            bytes_downloaded=self._bytes_downloaded(),
            errors_log=os.path.join(self._context.workspace, "provision_errors.log"),
        )
        return verdict

    def _is_over(self) -> bool:
        """Whether the run is to end now: its time is up, it was stopped, or a strict one lacks something critical."""
        if self._clock.remaining_s() <= 0:
            self.end_early("timeout")
        if self._plan.strict:
            self._settle_downloads()
            if self._tally.has_failed("critical"):
                self.end_early("failed")
        return self._context.cancelled.is_set()

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
        """Ask every source and look at the disk; False when nothing large may be begun."""
        wanted = [item for item in self._selected("downloads") if self._is_wanted(item)]
        sources = Sources(rules=self._plan.secrets, secrets=self._context.secrets)
        files, unlisted = repositories.expand(wanted, sources, self._context)
        self._downloads = Downloads(files, limits=self._plan.limits, context=self._context, sources=sources)
        found = self._downloads.preflight(also_bytes=self._environment_bytes())
        for item, failure in unlisted:
            about = {"item": item.label, "key": item.key, "level": item.level, "url": public_url(item.url)}
            self._journal.event("download_failed", **about, **failure.as_fields())
            self._tally.fail("downloads", item.key, item.level, failure, is_reported=True)
        refused = {**found.failures, **{item.key: failure for item, failure in unlisted}}
        critical = {item.key: item.label for item in (*wanted, *files) if item.level == "critical"}
        hopeless = {key: failure for key, failure in refused.items() if key in critical}
        if found.too_big is not None:
            hopeless["disk"] = found.too_big
        hopeless.update(self._apt_preflight())
        for key, failure in hopeless.items():
            names = {"item": critical[key], "key": key} if key in critical else {"item": key}
            self._journal.event("preflight_failed", **names, level="critical", **failure.as_fields())
        if not hopeless:
            self._journal.event("preflight_passed", bytes_to_fetch=found.bytes_to_fetch, disks=found.disks)
        if found.too_big is None and not (hopeless and self._plan.strict):
            return not self._is_over()
        for key, failure in hopeless.items():
            step = "apt" if key == "apt" else "downloads"
            self._tally.fail(step, key, "critical", failure, is_reported=True)
        return False

    def _environment_bytes(self) -> int:
        python = self._plan.python if "python" in self._plan.steps else None
        return 0 if python is None else disk_estimate.bytes_needed(python, self._context, self._facts)

    def _apt_preflight(self) -> Dict[str, Failure]:
        try:
            apt.preflight(self._selected_apt(), self._context)
        except Failure as failure:
            return {"apt": failure}
        return {}

    def _selected_apt(self) -> Tuple[str, ...]:
        return self._plan.apt if "apt" in self._plan.steps else ()

    def _is_wanted(self, item: Download) -> bool:
        reason = None if item.when is None else unmet(item.when, self._facts, self._context)
        if reason is not None:
            names = {"item": item.label, "key": item.key, "level": item.level}
            self._journal.event("download_skipped", **names, reason=reason)
            self._tally.skip("downloads", item.key)
        return reason is None

    # -- the graph

    def _work(self) -> None:
        assert self._downloads is not None
        if self._selected("downloads"):
            self._tally.start("downloads")
            self._downloads.start()
        wanted = sorted(self._selected("repos"), key=lambda repo: LEVELS.index(repo.level))
        checkouts = [(repo, self._clones.submit(self._items.checkout, repo, self._facts)) for repo in wanted]
        environment = self._installs.submit(self._items.environment, self._facts, checkouts)
        if not any(repo.install or nodes.FOLDER in repo.path.split("/") for repo in wanted):
            self._clones.submit(self._finish_repos, checkouts)
        if self._stage(("critical",), environment, checkouts):
            self._judge_critical()
            self._make_usable()
        if not self._is_over() and self._stage(("required", "optional"), environment, checkouts):
            self._complete()

    def _stage(self, levels: Tuple[str, ...], environment: "Future[None]", checkouts: Checkouts) -> bool:
        """Everything of *levels* up to its checks; False when the run is over."""
        assert self._downloads is not None
        is_last = "optional" in levels
        self._await(environment)
        for repo, checkout in checkouts:
            if repo.level in levels and self._await(checkout):
                self._items.install_requirements(repo)
        if is_last:
            self._tally.finish("repos")
        for level in levels:
            self._downloads.wait(level)
        self._settle_downloads()
        if is_last:
            self._tally.finish("downloads")
        for file in self._selected("files", levels):
            self._items.file(file)
        for command in self._selected("commands", levels):
            self._items.command(command)
        if is_last:
            self._tally.finish("files", "commands")
        for check in self._selected("checks", levels):
            self._items.check(check)
        return not self._is_over()

    def _judge_critical(self) -> None:
        if self._selected("checks", ("critical",)):
            self._journal.say(log_lines.validation_lines(self._tally.missing_checks("critical")))

    def _make_usable(self) -> None:
        """Start what belongs to `usable`, and say so when everything critical holds."""
        for service in self._selected("services"):
            if service.start == "usable":
                self._items.service(service, self._facts)
        if self._has_critical() and not self._tally.has_failed("critical") and not self._is_over():
            self._say_usable()

    def _complete(self) -> None:
        for service in self._selected("services"):
            if service.start == "complete":
                self._items.service(service, self._facts)
        for check in self._selected("checks", ("critical",)):
            if self._tally.is_failed("checks", check.name):
                self._items.check(check)  # what it looks for may have come with the rest
            else:
                self._items.check_again(check)

    def _say_usable(self) -> None:
        self._journal.event("run_usable", after_s=round(self._clock.elapsed_s(), 3))

    def _finish_repos(self, checkouts: Checkouts) -> None:
        wait([checkout for _, checkout in checkouts])
        self._tally.finish("repos")

    def _await(self, future: "Future[Any]") -> Any:
        """The result of *future*; None when the run is over first."""
        while not self._is_over():
            if wait([future], timeout=LOOK_AGAIN_S).done:
                return future.result()
        return None

    def _settle_downloads(self) -> None:
        for key, result in self._downloads.results().items() if self._downloads is not None else ():
            if result.state == "failed" and result.failure is not None:
                self._tally.fail("downloads", key, result.level, result.failure, is_reported=True)
            elif result.state in ("ok", "skipped"):
                self._tally.succeed("downloads", key)

    # -- facts about the plan

    def _selected(self, step: str, levels: Tuple[str, ...] = LEVELS) -> List[Any]:
        """The items of *step* that this run does, of *levels*."""
        items = getattr(self._plan, step) if step in self._plan.steps else ()
        return [item for item in items if item.level in levels]

    def _has_critical(self) -> bool:
        plan = self._plan
        has_system = bool(self._selected_apt())
        has_python = bool(plan.python is not None and "python" in plan.steps)
        return has_system or has_python or any(self._selected(step, ("critical",)) for step in STEPS[2:])

    def _bytes_downloaded(self) -> int:
        results = self._downloads.results() if self._downloads is not None else {}
        return sum(result.bytes_downloaded for result in results.values())
