"""The agent's small detached parent: holds the lock and the secrets, keeps the deadline, restarts a dead agent.

It survives the SSH session and the collector. It writes to the run's journal only when the agent is gone, so
that each file has one writer at any moment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Dict, List, Mapping, Optional, Tuple, Union

from ..contract.failures import Failure
from ..contract.loading import CHANGED, CHANGED_STATUS
from ..contract.messages import read_message
from ..contract.plan import Plan
from ..host import early_code, fork, process
from ..host.detach import Identity, agent_argv, own_place
from . import secret_search
from .hooks import FAILED, facts_of, run_hook
from .journal import Journal, read_state
from .record import Handed, plan_of, read_plan, read_record
from .workspace import RENEW_EVERY_S, LockRecord, Workspace, WorkspaceLock

MAX_RESTARTS = 3
"""In a row, of an agent that lived for less than `SHORT_LIFE_S`: a run with a job may go on for days."""
SHORT_LIFE_S = 600.0
DEADLINE_GRACE_S = 20.0
"""The agent ends itself at the deadline; when it has not after this, it hangs and is killed."""
STOP_GRACE_S = 15.0
POLL_S = 0.2

Agent = Union["subprocess.Popen[bytes]", fork.Child]


def keep_main(argv: List[str]) -> int:
    """``keep <workspace> <run> <lock descriptor>``: secrets on stdin; runs until the run has its verdict."""
    workspace, run_id = Workspace(argv[0]), argv[1]
    handed = read_message(Handed, sys.stdin.buffer.read())
    lock = WorkspaceLock(workspace, int(argv[2]))
    os.set_inheritable(lock.descriptor, False)
    lock.renew(run=run_id, keeper=Identity.of(os.getpid()))
    keeper = Keeper(workspace, run_id, handed, lock)
    signal.signal(signal.SIGTERM, lambda *_: keeper.stop())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    keeper.keep()
    return 0


class Keeper:
    """One run's keeper."""

    def __init__(self, workspace: Workspace, run_id: str, handed: Handed, lock: WorkspaceLock) -> None:
        self._workspace = workspace
        self._run = run_id
        self._handed = handed
        self._secrets = dict(handed.secrets)
        self._lock = lock
        self._clock = read_record(workspace, run_id).clock
        self._is_stopping = False

    def stop(self) -> None:
        """End the run as cancelled; called by the signal handler."""
        self._is_stopping = True

    def keep(self) -> None:
        """Start the agent, again when it dies, until the run has a verdict; then clean up after it."""
        restarts = short_lives = 0
        while short_lives <= MAX_RESTARTS:
            if self._is_stopping and self._verdict() is None:
                self._close("cancelled")
                break
            began = time.monotonic()
            status = self._run_agent(restarts)
            restarts += 1
            short_lives = short_lives + 1 if time.monotonic() - began < SHORT_LIFE_S else 1
            if self._lock.is_deleted:
                return  # with the folder, the run is gone: there is nowhere to say how it ended
            if self._verdict() is not None:
                break
            if status == CHANGED_STATUS:
                self._close("failed", "agent_changed", f"the agent's file `{own_place()}` {CHANGED}")
                break
            if self._is_stopping or self.is_late():
                self._close("cancelled" if self._is_stopping else "timeout")
                break
            print(f"keeper: the agent died with status {status}", flush=True)
        else:
            self._close("failed", "bug", f"the agent died {MAX_RESTARTS + 1} times (last status {status})")
        if self._verdict() == "cancelled":
            end_jobs(self._workspace, self._run)
        close_run(self._workspace, self._run, self._secrets, self._verdict())
        self._lock.release()

    def is_late(self) -> bool:
        """The deadline is over, and an agent that lived would have ended the run; its first job takes the deadline away."""
        if self._clock.remaining_s() >= -DEADLINE_GRACE_S:
            return False
        self._clock = read_record(self._workspace, self._run).clock
        return self._clock.remaining_s() < -DEADLINE_GRACE_S

    def _run_agent(self, restarts: int) -> int:
        agent, pipe = self._begin_agent(restarts)
        early_code.end()
        self._lock.renew(agent=Identity.of(agent.pid))
        try:
            with os.fdopen(os.dup(pipe), "wb") as handing:
                handing.write(self._handed.to_line())
        except BrokenPipeError:
            pass
        try:
            return self._watch(agent)
        finally:
            os.close(pipe)  # until here: its end tells the agent that the keeper is gone

    def _begin_agent(self, restarts: int) -> Tuple[Agent, int]:
        """The agent and what it reads of. The first goes on with what this process has loaded; one that died is read anew."""
        words = ("run", self._workspace.root, self._run, str(restarts), str(self._lock.descriptor))
        ours, theirs = os.pipe()
        try:
            if restarts == 0 and fork.is_safe():
                keeps = (self._lock.descriptor,)
                return fork.agent(*words, stdin=ours, output=1, keep_fds=keeps), theirs
            agent = subprocess.Popen(
                agent_argv(*words),
                stdin=ours,
                start_new_session=True,
                pass_fds=(self._lock.descriptor,),
            )
            return agent, theirs
        finally:
            os.close(ours)

    def _watch(self, agent: Agent) -> int:
        renew_at = kill_at = time.monotonic()
        is_told = False
        while True:
            try:
                return agent.wait(timeout=POLL_S)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            if now >= renew_at:
                self._lock.renew()
                renew_at = now + RENEW_EVERY_S
            if self._is_stopping and not is_told:
                agent.terminate()
                is_told, kill_at = True, now + STOP_GRACE_S
            if self._lock.is_deleted:
                os.killpg(agent.pid, signal.SIGKILL)
            if (is_told and now >= kill_at) or self.is_late():
                process.end_group(agent, kill_after_s=1.0)

    def _verdict(self) -> Optional[str]:
        state = read_state(self._workspace, self._run)
        return None if state is None else state.verdict

    def _close(self, verdict: str, class_: str = "", message: str = "") -> None:
        journal = Journal(self._workspace, self._run, secrets=self._secrets)
        if class_:
            journal.event("step_failed", step="run", **Failure(class_, message).as_fields())
        secret_search.tell(self._workspace, self._run, journal, self._secrets)
        journal.event("run_finished", verdict=verdict, duration_s=self._clock.elapsed_s())
        journal.close()


def end_jobs(workspace: Workspace, run_id: str) -> None:
    """End the jobs of a run that was stopped, where its agent could not."""
    from ..jobs import job  # what comes with it is not needed for a run without jobs

    plan = plan_of(workspace, run_id)
    if plan is not None and plan.jobs:
        job.end_all(job.RunFolders.of(workspace, run_id), [each.name for each in plan.jobs])


def jobs_going(workspace: Workspace, run_id: str) -> bool:
    """Whether a job of a run goes on, though nothing else of the run may live."""
    from ..jobs import job

    return job.any_going(job.RunFolders.of(workspace, run_id))


def close_run(workspace: Workspace, run_id: str, secrets: Mapping[str, str], verdict: Optional[str]) -> None:
    """What is owed after the verdict: the profile's `on_failure`, even if nobody listens any more.

    Args:
        secrets: Values by name; the hook gets those that it names.
        verdict: None when the run came to none.

    Raises:
        OSError, ParseError: the run's plan is not there or broken.
    """
    home = os.path.expanduser("~")
    plan = read_plan(workspace, run_id).bind(workspace=workspace.root, home=home, run_id=run_id)
    hook = plan.on_failure
    if hook is None or verdict not in FAILED or _waits_for_results(plan, workspace, run_id):
        return
    end = run_hook(hook, facts_of("on_failure", run_id, str(verdict)), secrets, workspace.root)
    print(f"keeper: on_failure: {end.said}", flush=True)


def _waits_for_results(plan: Plan, workspace: Workspace, run_id: str) -> bool:
    """Whether another process, which lives on, runs `on_failure` once the results are home."""
    if not (plan.outputs or plan.jobs):
        return False
    from ..lifetime.begin import is_measured  # what comes with it is not needed for a run without results

    return is_measured(workspace.root, run_id)


class Orphanage:
    """Notices that the keeper is gone, and then renews the workspace's lock in its place."""

    def __init__(self, workspace: Workspace, lock: WorkspaceLock, run_id: str) -> None:
        os.set_inheritable(lock.descriptor, False)
        self.is_orphan = False
        self._lock = lock
        self._run = run_id
        threading.Thread(target=self._watch, daemon=True).start()

    def release(self) -> None:
        """Give the lock back, as the keeper would have."""
        self._lock.release()

    def _watch(self) -> None:
        while sys.stdin.buffer.read(1):  # the keeper writes nothing more: this ends when it does
            pass
        self.is_orphan = True
        while True:
            self._lock.renew(run=self._run, agent=Identity.of(os.getpid()))
            time.sleep(RENEW_EVERY_S)


def holder_facts(holder: LockRecord) -> Dict[str, object]:
    """What the lock says of the run that is going, for `status`: its run and whether its processes live."""
    roles = {"keeper": holder.keeper, "agent": holder.agent}
    alive = {role: process is not None and process.is_alive() for role, process in roles.items()}
    return {"run": holder.run, **alive}
