"""The services of one run: started, judged by what they say themselves, and started anew when what they loaded changed.

A service that answers is asked what it offers; a ComfyUI's log says which nodes it loaded. What that says counts, at
the level of the node, and not what an import said before. Models never make a service start anew.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from functools import partial
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from ..contract.failures import Failure
from ..contract.plan import Check, Command, Plan, Repo, Service
from ..services import judge, manager, restarting
from ..services.changes import Change, Changes
from ..services.log import Said
from ..services.wait_ready import wait_ready
from ..steps import commands
from .context import Context
from .step_runner import Items
from .tally import Tally

LOOK_EVERY_S = 1.0
SAY_EVERY_S = 30.0
QUEUE_S = 60.0
"""So long a run that has done everything else waits for an empty queue; then for the end of what is running."""
PROMPT_S = 900.0
"""So long it waits for the end of one prompt."""
RESERVE_S = 120.0
"""Kept of the run's time for the start itself."""


@dataclass
class _Served:
    """One service that was started."""

    service: Service
    is_new: bool = True
    is_said: bool = False
    """That it waits for its start was reported."""
    is_given_up: bool = False
    """Nothing more can be done about it in this run."""
    quiet_since: float = 0.0
    asked: Optional[Said] = None
    waits_since: float = 0.0
    said: float = 0.0
    running: Optional[Tuple[str, ...]] = None


class Services:
    """Starts the services of one plan, and judges them."""

    def __init__(
        self,
        plan: Plan,
        context: Context,
        tally: Tally,
        items: Items,
        changes: Changes,
        is_over: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._context = context
        self._tally = tally
        self._items = items
        self._changes = changes
        self._is_over = is_over
        self._has_gpu = False
        self._served: Dict[str, _Served] = {}
        self._looked_at = 0.0

    def start(self, when: str, facts: Mapping[str, object]) -> None:
        """Start what belongs to `usable` or to `complete`, one after the other, and check what is critical of it."""
        self._has_gpu = bool(facts.get("gpus"))
        for service in self._plan.chosen("services", self._plan.services):
            if service.start == when:
                self._start(service)
                self._check(service, ("critical",))

    def restart_when_idle(self) -> None:
        """Start anew what has not loaded what changed, if it has nothing to do just now; looks once a second."""
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        for served in self._served.values():
            found = self._unloaded(served)
            if found and self._tells(served) and not self._is_over():
                reason = restarting.reason_of(found)
                self._counted(served, partial(self._restart_if_idle, served, reason))

    def finish(self) -> None:
        """At the end of a run: nothing more changes. Start anew what needs it, and check the rest."""
        for served in list(self._served.values()):
            found = self._unloaded(served)
            if found and not self._is_over():
                self._restart_at_last(served, restarting.reason_of(found))
            if not self._is_over():
                self._judge(served, is_last=True)
        for service in self._plan.chosen("services", self._plan.services):
            self._check(service, ("required", "optional"))
        self._items.settle_doubts()

    @property
    def went_on(self) -> int:
        """How many ran before this run, answer, and were not started anew."""
        return sum(not served.is_new for served in self._served.values())

    # -- one service

    def _start(self, service: Service) -> None:
        served = _Served(service)

        def work() -> None:
            self._bring_up(served)

        if self._items.attempt("services", service.name, service.level, "service", work):
            self._served[service.name] = served
            self._judge(served)

    def _bring_up(self, served: _Served) -> None:
        service = served.service
        hook = service.on_start_failure
        try:
            started = manager.start(service, self._context, self._items.venv, holds=hook is not None)
            served.is_new = started.is_new
            self._await_ready(served)
        except Failure as failure:
            if (
                hook is None
                or self._is_over()
                or failure.class_ not in ("crashed", "not_ready", "service_log")
            ):
                raise
            self._say(
                service, f"its first start failed: {failure.message}; now its `on_start_failure` is run"
            )
            command = Command(
                name=service.name,
                run=hook.run,
                directory=service.directory,
                environment=service.environment,
                secrets=hook.secrets,
                timeout_s=hook.timeout_s,
            )
            commands.do(command, self._context, self._items.venv)
            manager.stop(service.name, self._context)
            manager.start(service, self._context, self._items.venv)
            served.is_new = True
            self._await_ready(served)
        manager.release(service.name, self._context)
        if not served.is_new:
            self._renew(served)

    def _await_ready(self, served: _Served) -> None:
        models = self._items.critical_models()
        wait_ready(served.service, self._context, models, has_gpu=self._has_gpu, is_new=served.is_new)
        kept, taken = restarting.send_again(served.service, self._context)
        if taken < kept:
            message = f"`{served.service.name}` did not take {kept - taken} of its {kept} prompts again"
            self._context.report("warning", message=message)
        judge.require_clean_log(served.service, self._context)

    def _renew(self, served: _Served) -> None:
        """A service that ran before this run has not loaded what came since: start it anew if it has nothing to do."""
        reason = self._reason_to_renew(served)
        if reason is None or not self._tells(served):
            return
        for _ in range(3):
            if self._restart_if_idle(served, reason) or self._context.wait(LOOK_EVERY_S):
                return

    def _reason_to_renew(self, served: _Served) -> Optional[str]:
        found = self._unloaded(served)
        if found:
            return restarting.reason_of(found)
        service = served.service
        failed = judge.failed_nodes(service, self._nodes(service), self._context)
        made = self._items.venv
        if made is None or commands.with_python(service.run, made.python)[0] != made.python:
            return None  # another python imports there than the one that was tried
        mended = [path for path, why in failed.items() if why is not None and path in self._items.importable]
        if not mended:
            return None
        return f"it could not load {', '.join(mended[:3])} when it started, which can be imported now"

    def _tells(self, served: _Served) -> bool:
        """Does it say what it has to do? Without that it is never started anew: its work might be lost."""
        return restarting.is_comfyui(served.service, self._context)

    def _unloaded(self, served: _Served) -> List[Change]:
        if served.is_given_up:
            return []
        return restarting.unloaded(served.service, self._context, self._changes)

    def _counted(self, served: _Served, work: Callable[[], bool]) -> bool:
        """Do *work*, which may start the service anew, and judge it when that was done; False when it waits."""
        service, done = served.service, [False]

        def count() -> None:
            done[0] = work()

        if not self._items.attempt("services", service.name, service.level, "service", count):
            served.is_given_up = True
            return True
        if done[0] and not served.is_given_up:
            self._judge(served)
            self._check(service, ("critical",))
        return done[0]

    # -- a new start

    def _restart_if_idle(self, served: _Served, reason: str) -> bool:
        """Start it anew if nobody asks anything of it; True when that was done, or cannot be done at all."""
        service = served.service
        load = restarting.load_of(service, self._context, served.asked)
        now = time.monotonic()
        is_quiet = served.asked is not None and load.asked.times == served.asked.times
        served.asked = load.asked
        if not load.is_idle or not is_quiet:
            served.quiet_since = now
            if not load.is_idle:
                self._say_pending(served, reason, load.prompts)
            return False
        if now - served.quiet_since < restarting.QUIET_S:
            return False
        if restarting.is_foreign(service, self._context):
            return self._restart_foreign(served, reason)
        if not restarting.take_down(service, self._context, asked=load.asked):
            served.asked = None
            return False
        self._again(served, reason)
        return True

    def _restart_at_last(self, served: _Served, reason: str) -> None:
        """At the end of a run, wait a bounded time for an empty queue; then start it anew all the same."""
        service = served.service
        if not self._tells(served):
            self._tell_of_old(service, reason)
            return
        while not self._is_over():
            if self._counted(served, lambda: self._restart_if_idle(served, reason)):
                return
            if not self._waits(served, reason):
                break
        if not self._is_over():
            self._counted(served, lambda: self._restart_busy(served, reason))

    def _tell_of_old(self, service: Service, reason: str) -> None:
        """Warn once of each thing that a service may not have loaded; what it was warned of is only mentioned."""
        how = f"`provision services restart {shlex.quote(service.name)} --run {self._context.run_id}`"
        if not restarting.is_news(service, self._context, self._changes):
            self._say(service, f"not started anew, {reason}; {how} does that")
            return
        message = (
            f"`{service.name}` was not started anew, {reason}. If it reads that only when it starts: {how}"
        )
        self._context.report("warning", message=message)

    def _waits(self, served: _Served, reason: str) -> bool:
        """Wait a moment for the queue to get empty; False when it was waited for long enough.

        After `QUEUE_S` that is when a prompt has ended, so that no more than the beginning of one is done twice.
        """
        now = time.monotonic()
        load = restarting.load_of(served.service, self._context, served.asked)
        served.waits_since = served.waits_since or now
        waited_s = now - served.waits_since
        if waited_s > QUEUE_S:
            ids = tuple(map(_id_of, load.running))
            served.running = ids if served.running is None else served.running
            if ids != served.running or waited_s > PROMPT_S:
                return False
        if now - served.said > SAY_EVERY_S:
            served.said = now
            waits = "for an answer" if load.prompts is None else f"until {load.prompts} prompts are done"
            self._say(served.service, f"it is to be started anew, and waits {waits}: {reason}")
        self._context.wait(LOOK_EVERY_S)
        return self._context.remaining_s() > RESERVE_S

    def _restart_busy(self, served: _Served, reason: str) -> bool:
        service = served.service
        if restarting.is_foreign(service, self._context):
            restarting.keep(service, self._context, restarting.queued(service, self._context))
            return self._restart_foreign(served, reason)
        restarting.take_down_busy(service, self._context)
        self._again(served, reason)
        return True

    def _restart_foreign(self, served: _Served, reason: str) -> bool:
        service = served.service
        if restarting.restart_by_its_own(service, self._context, self._items.venv, reason):
            self._await_ready(served)
            return True
        message = f"`{service.name}` was started by something else and has not loaded what {reason}: restart it there"
        self._context.report("warning", message=message)
        served.is_given_up = True
        return True

    def _again(self, served: _Served, reason: str) -> None:
        """Start the service, which was taken down."""
        restarting.start_again(served.service, self._context, self._items.venv, reason)
        served.is_new, served.is_said = True, False
        self._await_ready(served)

    # -- what it says

    def _judge(self, served: _Served, *, is_last: bool = False) -> None:
        """Count every node of the service by what its log says of it.

        What another start may mend is not counted yet, unless that is the last word; but what is critical is, since it
        decides whether all is usable now.
        """
        service = served.service
        waits = bool(self._unloaded(served)) and not is_last
        repos = {repo.path: repo for repo in self._nodes(service)}
        found = judge.failed_nodes(service, repos.values(), self._context)
        for path, failure in found.items():
            is_early = waits or not (is_last or path in self._items.checked_out)
            if failure is None or repos[path].level == "critical" or not is_early:
                self._items.judged(repos[path], failure)

    def _nodes(self, service: Service) -> List[Repo]:
        wanted = self._plan.chosen("repos", self._plan.repos)
        return [repo for repo in wanted if judge.loads(service, repo, self._context)]

    def _check(self, service: Service, levels: Tuple[str, ...]) -> None:
        for check in self._plan.chosen("checks", self._plan.checks, levels):
            if isinstance(check, Check) and check.service == service.name:
                self._items.do("checks", check)

    def _say(self, service: Service, message: str) -> None:
        self._context.report("service_progress", item=service.name, level=service.level, message=message)

    def _say_pending(self, served: _Served, reason: str, prompts: Optional[int]) -> None:
        if not served.is_said:
            served.is_said = True
            about = {"item": served.service.name, "level": served.service.level}
            fields = {} if prompts is None else {"prompts": prompts}
            self._context.report("restart_pending", reason=reason, **about, **fields)


def _id_of(prompt: object) -> str:
    return str(prompt[1]) if isinstance(prompt, (list, tuple)) and len(prompt) > 1 else str(prompt)
