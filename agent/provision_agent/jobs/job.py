"""One job of one run: begun once, found again by the next agent of the run, and known by its exit status.

Its files lie in the run's own folder. A job whose supervisor died with it, as in a reboot, has no exit status: the
next agent of the run begins it anew.
"""

from __future__ import annotations

import glob
import json
import os
import signal
import time
from typing import Dict, Iterable, List, NamedTuple, Optional, Protocol

from ..contract.failures import Failure
from ..contract.parsing import to_json
from ..contract.plan import Service
from ..contract.plan_jobs import MAX_MIRRORED_JOBS, Job, job_file
from ..host import process
from ..run.context import Context
from ..run.state import write_atomically
from ..run.workspace import Workspace
from ..services import launch
from ..services.files import NEEDS_SECRETS, STARTING, TIMED_OUT, Order, ServiceFiles, Status, read_status
from ..steps import commands
from ..steps.python.venv import Venv

MAX_LOG_BYTES = 256 << 20
"""Then its log is rotated once; the mirror has all of it."""
_TOLD_LINES = 5


class OfRun(Protocol):
    """Whatever knows its run, as a run's context does."""

    @property
    def workspace(self) -> str:
        """The folder that it works in."""

    @property
    def run_directory(self) -> str:
        """The folder of its own files."""


class RunFolders(NamedTuple):
    """The folders of one run."""

    workspace: str
    run_directory: str

    @classmethod
    def of(cls, workspace: Workspace, run_id: str) -> RunFolders:
        """Those of the run *run_id* in *workspace*."""
        return cls(workspace.root, workspace.run_directory(run_id))


class RunningJob:
    """The job *job* of the context's run. `begin` first; then `status` says what became of it."""

    def __init__(self, job: Job, context: Context) -> None:
        self.job = job
        self._context = context
        self._files = files_of(context, job.name)
        self.is_adopted = False
        """An agent before this one began it."""

    @property
    def status(self) -> Status:
        """What its supervisor wrote last."""
        return self._files.status()

    @property
    def log_path(self) -> str:
        """The file of what it says."""
        return self._files.log_path

    def begin(self, venv: Optional[Venv]) -> None:
        """Start it; or find it again, running or ended, where an agent of this run has begun it before.

        Args:
            venv: The environment, if the plan has one.

        Raises:
            Failure: `missing` without its folder, `unauthorized` without a secret, `crashed` when it cannot be started.
        """
        known = self._settled_status()
        if known.is_running or known.has_ended:
            self.is_adopted = True
            if known.state == NEEDS_SECRETS:
                launch.give(self._files, known, commands.secrets_of(self.job.secrets, self._context))
            return
        if known.state:
            message = f"job `{self.job.name}` was cut off and nobody knows how it ended: it is begun anew"
            self._context.report("warning", message=message)
        self.end()
        self._start(venv)

    def end(self) -> None:
        """End it with all that it has started. Does nothing when it does not run."""
        launch.end_supervised(self._files, lasts=False)

    def _start(self, venv: Optional[Venv]) -> None:
        job, context, files = self.job, self._context, self._files
        secrets = commands.secrets_of(job.secrets, context)
        directory = os.path.join(context.workspace, job.directory)
        if not os.path.isdir(directory):
            message = f"`{job.name}` runs in `{job.directory}`, which is not there"
            raise Failure("missing", message, case="service_folder")
        argv = commands.with_python(job.run, None if venv is None else venv.python)
        order = Order(
            service=Service(job.name, job.run, job.directory, job.environment, secrets=job.secrets),
            argv=tuple(argv),
            directory=directory,
            environment=launch.environment(job.environment, venv),
            log=files.log_path,
            status=files.status_path,
            max_log_bytes=MAX_LOG_BYTES,
            timeout_s=job.timeout_s,
        )
        write_atomically(files.status_path, json.dumps(to_json(Status(STARTING))).encode(), sync=False)
        launch.start(files, order, context, secrets, lasts=False)

    def _settled_status(self) -> Status:
        """What became of it. The agent before may have died just after it had started the supervisor."""
        end = time.monotonic() + launch.START_S
        while self.status.state == STARTING and time.monotonic() < end:
            time.sleep(0.05)
        return self.status

    def failure(self, status: Status) -> Optional[Failure]:
        """Why it failed, by the last *status*; None when its exit status is 0."""
        name = self.job.name
        said = process.said([self._context.redact(line) for line in self._files.tail()], _TOLD_LINES)
        about = {"job": name, "run": self._context.run_id}
        if status.state == TIMED_OUT:
            message = f"`{name}` was ended after its timeout of {self.job.timeout_s or 0:.0f} s: {said}"
            return Failure("timed_out", message, case="job_timeout", about=about)
        if status.state == "not_started":
            return Failure("crashed", status.message, case="service_command")
        if not status.has_ended:
            message = f"the supervisor of `{name}` was ended from outside, so its exit status is not known"
            return Failure("crashed", message, case="job_log", about=about)
        if status.exit_status == 0:
            return None
        return Failure("command", f"`{name}` {_how(status)}: {said}", case="job_log", about=about)


def _how(status: Status) -> str:
    if status.exit_status is None or status.state == "stopped":
        return "was stopped"
    if status.exit_status >= 0:
        return f"ended with exit status {status.exit_status}"
    try:
        return f"was ended by {signal.Signals(-status.exit_status).name}"
    except ValueError:
        return f"was ended by signal {-status.exit_status}"


def files_of(run: OfRun, name: str) -> ServiceFiles:
    """The files of the job *name* of *run*."""
    return ServiceFiles(name, run, folder=run.run_directory, stem=job_file(name))


def going(run: OfRun, names: Iterable[str]) -> List[str]:
    """Those of the jobs *names* of *run* that go on."""
    return [name for name in names if files_of(run, name).status().is_running]


def end_all(run: OfRun, names: Iterable[str]) -> None:
    """End what goes on of the jobs *names* of *run*, whose agent is gone."""
    for name in going(run, names):
        launch.end_supervised(files_of(run, name), lasts=False)


def log_sizes(jobs: Iterable[Job], run: OfRun) -> Dict[str, int]:
    """How long the logs of *jobs* are, as far as they are mirrored, by the name of the mirror."""
    sizes: Dict[str, int] = {}
    for job in list(jobs)[:MAX_MIRRORED_JOBS]:
        try:
            sizes[job_file(job.name)] = os.stat(files_of(run, job.name).log_path).st_size
        except OSError:
            continue  # it was never begun
    return sizes


def any_going(run: OfRun) -> bool:
    """Whether any job of *run* goes on."""
    pattern = os.path.join(glob.escape(run.run_directory), "job-*.status.json")
    return any(read_status(path).is_running for path in glob.iglob(pattern))
