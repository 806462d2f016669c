"""The jobs of one run: begun in their order when all else is there, waited for, and counted by their exit status.

From the first one on the run's deadline does not count; each job has a timeout of its own, which its supervisor keeps.
An agent that is started again meanwhile goes on here, and does nothing else again.
"""

from __future__ import annotations

from typing import Callable, Optional

from ..contract.failures import Failure
from ..contract.plan import Plan
from ..contract.plan_jobs import Job
from ..jobs.job import RunningJob
from ..services.files import Status
from ..steps.python.venv import Venv
from .context import Context
from .journal import Journal
from .tally import Tally

LOOK_EVERY_S = 0.25
ENDS = ("done", "failed")
"""The states of a job whose end was told."""
_NAMED = 3


class Jobs:
    """Does the jobs of *plan*.

    Args:
        plan: What of it is wanted here.
        journal: What the run has told so far: an end is told once.
        begins: Called before a job begins: the run's time does not count from then on.
        is_over: Asked meanwhile; when it is true, what goes on is ended.
    """

    def __init__(
        self,
        plan: Plan,
        context: Context,
        tally: Tally,
        journal: Journal,
        *,
        begins: Callable[[], None],
        is_over: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._context = context
        self._tally = tally
        self._journal = journal
        self._begins = begins
        self._is_over = is_over

    def work(self, venv: Optional[Venv]) -> None:
        """Do one after the other; what is critical or required and fails keeps the later ones from being begun.

        Args:
            venv: The environment, if the plan has one.
        """
        for job in self._plan.chosen("jobs", self._plan.jobs):
            if self._is_over():
                return
            self._tally.start("jobs")
            missing = self._tally.needed()
            if missing:
                more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
                named = ", ".join(f"`{item}`" for item in missing[:_NAMED]) + more
                message = f"`{job.name}` was not begun: {named} failed before it"
                self._fail(job, Failure("missing", message, case="job_not_begun"))
            else:
                self._do(job, venv)
        self._tally.finish("jobs")

    def _do(self, job: Job, venv: Optional[Venv]) -> None:
        running = RunningJob(job, self._context)
        self._begins()
        try:
            running.begin(venv)
        except Failure as failure:
            self._fail(job, failure)
            return
        status = running.status
        if not self._is_told(job):
            about = {"item": job.name, "level": job.level, "adopted": running.is_adopted}
            self._context.report("job_started", pid=status.pid, **about)
        while status.is_running:
            if self._is_over():
                running.end()
                return
            self._context.wait(LOOK_EVERY_S)
            status = running.status
        status = running.status  # its supervisor writes its last word before it ends
        why = running.failure(status)
        if why is not None:
            running.end()  # of one whose supervisor was ended from outside something may be left
            self._fail(job, why, status)
            return
        self._tally.succeed("jobs", job.name)
        if not self._is_told(job):
            ended = {"item": job.name, "level": job.level, "exit_status": status.exit_status}
            self._context.report("job_finished", duration_s=_lived_s(status), **ended)

    def _is_told(self, job: Job) -> bool:
        known = self._journal.look(lambda state: state.items["jobs"].get(job.name))
        return known is not None and known.state in ENDS

    def _fail(self, job: Job, failure: Failure, status: Optional[Status] = None) -> None:
        facts = {} if status is None else {"duration_s": _lived_s(status)}
        if status is not None and status.has_ended and status.exit_status is not None:
            facts["exit_status"] = status.exit_status
        if not self._is_told(job):
            told = {**failure.as_fields(), **facts}
            self._context.report("job_failed", item=job.name, level=job.level, **told)
        self._tally.fail("jobs", job.name, job.level, failure, is_reported=True)


def _lived_s(status: Status) -> float:
    return round(status.lived_s or 0.0, 3)
