"""One run: from its first event to its verdict. What is done in between, and in which order, is in `stages`.

``run_started`` is written before anything can block. Whatever happens, the run ends with one ``run_finished``;
SIGKILL is the only exception, and the next start goes on from what the disk holds.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import traceback
from dataclasses import replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ..contract.buckets import SignedSource
from ..contract.failures import Failure
from ..contract.findings import Facts
from ..contract.messages import read_message
from ..contract.parsing import parse, to_json
from ..contract.plan import Download, Plan
from ..contract.redaction import public_url
from ..contract.steps import STEP_NAMES, STEPS
from ..downloads import Downloads, Sources
from ..downloads.preflight import Preflight
from ..downloads.sources import repositories
from ..downloads.sources.signed import SIGNED
from ..host import early_code, facts
from ..host.file_lock import lockless_warning, try_lock
from ..jobs.job import log_sizes
from ..services.changes import Changes
from ..steps import apt
from ..steps.python import disk_estimate, from_lock, venv
from ..steps.python.venv import Venv
from ..steps.uploads import Uploads
from . import conditions, late_secrets, late_sources, log_lines, requirements, secret_search
from .context import Context
from .ending import Ending
from .job_runner import Jobs
from .journal import Journal
from .keeper import Orphanage, close_run
from .late_sources import LateSources
from .outages import Outages
from .record import Handed, RunRecord, read_plan, read_record, write_record
from .service_runner import Services
from .stages import Stages, has_critical, say_unchanged, settle
from .state import StateFile
from .step_runner import Items
from .tally import Tally
from .ticker import Pulse
from .workspace import Workspace, WorkspaceLock


def run_main(argv: List[str]) -> int:
    """``run <workspace> <run> <restarts> <lock descriptor>``: secrets as one JSON line on stdin."""
    early_code.end()
    workspace, run_id, restarts = Workspace(argv[0]), argv[1], int(argv[2])
    handed = read_message(Handed, sys.stdin.buffer.readline())
    secrets = handed.secrets
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
    run = Run(plan, workspace, run_id, journal, record, handed)
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: run.end_early("cancelled"))
    if not try_lock(int(argv[3])):
        run.warn_once(lockless_warning(workspace.lock))
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
        record: RunRecord,
        handed: Handed,
    ) -> None:
        self._plan = plan
        self._workspace = workspace
        self._journal = journal
        self._record = record
        self._clock = clock = record.clock
        self._early_verdict: Optional[str] = None
        self._ending = threading.RLock()
        """Held by whoever ends the run early; a signal may come while this very thread does that."""
        self._facts: Mapping[str, object] = {}
        self._secrets = dict(handed.secrets)
        """Those of the context: others may come while it goes on."""
        self._take_signed(handed.signed)
        late = LateSources(
            late_sources.pipe_of(workspace, run_id),
            journal.event,
            self._take_signed,
            lambda: self._context.is_over(),
        )
        self._changes = Changes(workspace.root, journal.event)
        self._context = Context(
            workspace=workspace.root,
            run_id=run_id,
            run_directory=workspace.run_directory(run_id),
            report=self._changes.report,
            state=StateFile(workspace.state),
            cancelled=threading.Event(),
            remaining_s=clock.remaining_s,
            output=journal.output,
            redact=journal.redact,
            secrets=self._secrets,
            rules=plan.secrets,
            offered=frozenset(handed.offered),
            outages=Outages(plan.limits.patience_s),
            kill_holders=record.kill_holders,
            is_offline=record.offline,
            ask_for=late.want,
            give_up=late.give_up,
        )
        self._tally = Tally(journal.event)
        self._uploads: Optional[Uploads] = None
        self._downloads: Optional[Downloads] = None
        self._items: Optional[Items] = None
        """What does the items, once it is known which are wanted."""

    def end_early(self, verdict: str) -> None:
        """Let everything stop soon; the first reason counts."""
        with self._ending:
            if self._early_verdict is None:
                self._early_verdict = verdict
        self._context.cancelled.set()

    def _take_signed(self, sources: Sequence[SignedSource]) -> None:
        """Use the addresses of *sources*, and show no part of them that opens a door."""
        SIGNED.take(sources)
        self._journal.hide(SIGNED.hidden)

    def warn_once(self, message: str) -> None:
        self._context.warn_once(message)

    def execute(self) -> str:
        """Do the work and write the verdict; returns it."""
        pulse = Pulse(self._journal, self._clock, self._is_over)
        ending = Ending(self._plan, self._context)
        try:
            self._report_state()
            if self._clock.stopped_after_s is not None:  # its jobs have begun: all else is done
                self._plan = conditions.select(self._plan, self._facts, self._context).plan
                python = self._plan.python
                self._do_jobs(None if python is None else venv.find(python, self._context))
            else:
                self._select()
                if self._preflight():
                    self._work()
        except Exception as error:
            self._journal.output(traceback.format_exc())
            self._tally.fail("run", "run", "critical", Failure("bug", f"{type(error).__name__}: {error}"))
        finally:
            pulse.stop()
            if self._items is not None:
                self._items.close()
            if self._downloads is not None:
                self._downloads.stop()
                self._settle_downloads()
            self._tally.finish(*STEP_NAMES)
            ending.stop()
        self._is_over()
        verdict = self._early_verdict or self._tally.verdict(has_critical(self._plan))
        if verdict == "complete" and not self._journal.look(lambda state: state.usable_after_s):
            self._say_usable()
        hidden = {**self._context.secrets, **SIGNED.hidden}
        secret_search.tell(self._workspace, self._context.run_id, self._journal, hidden)
        self._journal.event(
            "run_finished",
            verdict=verdict,
            duration_s=round(self._clock.elapsed_s(), 3),
            bytes_downloaded=self._bytes_downloaded(),
            errors_log=os.path.join(self._context.workspace, "provision_errors.log"),
            sizes=log_sizes(self._plan.jobs, self._context),
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
        missing = [
            rule.name for rule in self._plan.secrets if not (rule.name in self._secrets or rule.is_default)
        ]
        if missing:
            self._journal.event("secrets_needed", names=missing)
        self._facts = facts.find_facts(self._context.workspace)
        self._journal.event("facts_found", facts=self._facts)

    def _select(self) -> None:
        """From here on the plan is what is wanted on this instance."""
        ordered = self._plan.uploads
        chosen = conditions.select(self._plan, self._facts, self._context)
        conditions.remember_free_disk(self._plan, self._context)
        self._plan = chosen.plan
        for skipped in chosen.skipped:
            names = {"item": skipped.item, "key": skipped.key, "level": skipped.level}
            self._journal.event(f"{STEPS[skipped.step].kind}_skipped", **names, reason=skipped.reason)
            self._tally.skip(skipped.step, skipped.key)
        for clash in chosen.clashes:
            names = {"item": clash.item, "key": clash.key, "level": clash.level}
            failure = Failure("conflict", clash.message, case="two_variants")
            self._journal.event(f"{STEPS[clash.step].kind}_failed", **names, **failure.as_fields())
            self._tally.fail(clash.step, clash.key, clash.level, failure, is_reported=True)
        wanted = self._plan.chosen("uploads", self._plan.uploads)
        self._uploads = Uploads(ordered, wanted, self._context, self._tally)

    def _preflight(self) -> bool:
        """Ask every source and look at the disk; False when nothing large may be begun."""
        asked = (self._plan, self._facts, self._context, self._tally, self._secrets)
        if self._uploads is None or not (self._fits_lock() and requirements.hold(*asked)):
            return False
        self._uploads.start()
        wanted = self._plan.chosen("downloads", self._plan.downloads)
        files, unlisted, found = self._ask_sources(wanted)
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
            self._journal.event(
                "preflight_passed",
                bytes_to_fetch=found.bytes_to_fetch,
                unknown_sizes=found.unknown_sizes,
                disks=to_json(found.disks),
            )
        if found.too_big is None and not (hopeless and self._plan.strict):
            return not self._is_over()
        for key, failure in hopeless.items():
            step = "apt" if key == "apt" else "downloads"
            self._tally.fail(step, key, "critical", failure, is_reported=True)
        return False

    def _fits_lock(self) -> bool:
        """False, and said, when the packages that the plan is locked to are none for this instance."""
        python = self._plan.python
        if python is None or "python" not in self._plan.steps:
            return True
        failure = from_lock.misfit(python, self._context, parse(Facts, self._facts, "facts"))
        if failure is not None:
            names = {"item": "packages", "key": "packages"}
            self._journal.event("preflight_failed", **names, level="critical", **failure.as_fields())
            self._tally.fail("python", "packages", "critical", failure, is_reported=True)
        return failure is None

    def _ask_sources(
        self, wanted: Sequence[Download]
    ) -> "Tuple[List[Download], List[Tuple[Download, Failure]], Preflight]":
        """The files of *wanted*, what could not be listed, and the preflight; asked again with secrets that come late."""
        also_bytes = self._environment_bytes()
        for is_again in (False, True):
            sources = Sources(self._plan.secrets, self._secrets, is_offline=self._context.is_offline)
            files, unlisted = repositories.expand(wanted, sources, self._context, remembers=True)
            self._downloads = Downloads(
                files, limits=self._plan.limits, context=self._context, sources=sources
            )
            found = self._downloads.preflight(
                also_bytes=also_bytes,
                # a strict run fetches nothing before it is known that all that is critical can be had
                begin=None if self._plan.strict else lambda: self._tally.start("downloads"),
            )
            missing = [name for name in sources.refused_without if name not in self._secrets]
            if is_again or not missing or not self._take_late_secrets(missing):
                break
            self._downloads.stop()
        return files, unlisted, found

    def _take_late_secrets(self, names: List[str]) -> bool:
        """Ask for the values of *names*; True when one came."""
        ask = functools.partial(self._journal.event, "secrets_needed", names=names)
        if not self._context.offered.intersection(names):
            ask()
            return False
        given = late_secrets.awaited(
            late_secrets.pipe_of(self._workspace, self._context.run_id),
            names,
            ask=ask,
            wait_s=self._context.bounded(late_secrets.WITHIN_S),
            is_over=self._is_over,
        )
        self._journal.hide(given)
        self._secrets.update(given)
        return bool(given)

    def _environment_bytes(self) -> int:
        python = self._plan.python if "python" in self._plan.steps else None
        return 0 if python is None else disk_estimate.bytes_needed(python, self._context, self._facts)

    def _apt_preflight(self) -> Dict[str, Failure]:
        try:
            apt.preflight(self._plan.system_packages if "apt" in self._plan.steps else (), self._context)
        except Failure as failure:
            return {"apt": failure}
        return {}

    # -- the rest

    def _work(self) -> None:
        assert self._downloads is not None
        about = (self._context, self._tally)
        self._items = items = Items(self._plan, *about, self._changes, self._is_over)
        services = Services(self._plan, *about, items, self._changes, self._is_over)
        items.share(self._downloads.line)
        assert self._uploads is not None
        stages = Stages(self._plan, items, self._tally, self._downloads, self._uploads, self._is_over)
        if stages.until_usable(self._facts):
            asks = any(
                check.service for check in self._plan.chosen("checks", self._plan.checks, ("critical",))
            )
            if not asks:
                self._say_validation()
            services.start("usable", self._facts)
            if asks:
                self._say_validation()
            self._say_if_usable()
        if not self._is_over() and stages.until_complete(services.restart_when_idle):
            services.start("complete", self._facts)
            services.finish()
            stages.look_again()
            self._say_if_usable()
            say_unchanged(items.last_look, self._journal, services.went_on)
            self._do_jobs(items.venv)

    def _do_jobs(self, made: Optional[Venv]) -> None:
        def begins() -> None:
            self._clock.stop()
            write_record(self._workspace, replace(self._record, stopped_after_s=self._clock.stopped_after_s))

        about = (self._plan, self._context, self._tally, self._journal)
        Jobs(*about, begins=begins, is_over=self._is_over).work(made)

    def _say_validation(self) -> None:
        if self._plan.chosen("checks", self._plan.checks, ("critical",)):
            self._journal.say(log_lines.validation_lines(self._tally.missing_checks("critical")))

    def _say_if_usable(self) -> None:
        """Once, when all that is critical holds."""
        is_said = self._journal.look(lambda state: state.usable_after_s) is not None
        is_usable = has_critical(self._plan) and not self._tally.has_failed("critical")
        if is_usable and not is_said and not self._is_over():
            self._say_usable()

    def _say_usable(self) -> None:
        self._journal.event("run_usable", after_s=round(self._clock.elapsed_s(), 3))

    def _settle_downloads(self) -> None:
        if self._downloads is not None:
            settle(self._downloads, self._tally)

    def _bytes_downloaded(self) -> int:
        results = self._downloads.results() if self._downloads is not None else {}
        wheels = 0 if self._items is None else self._items.wheel_bytes
        return sum(result.bytes_downloaded for result in results.values()) + wheels
