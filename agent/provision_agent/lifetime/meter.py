"""Measures the time of an instance and ends it: `lifetime`, and `on_failure` where results hold it back.

It needs nobody. What it has measured is on the disk every few seconds, so that the next one goes on with it. A hook
is run until it has succeeded, under one key: whoever is asked twice to destroy an instance knows it by that.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import List, Optional

from ..contract.lifetime_told import MAX
from ..contract.plan_jobs import Hook
from ..files.home import not_home
from ..host.file_lock import FileIsBusyError, try_lock
from ..jobs.job import RunFolders, any_going
from ..run.hooks import FAILED, facts_of, key_of, run_hook
from ..run.journal import read_state
from ..run.workspace import Workspace
from . import deciding, logins
from .activity import going_on
from .begin import start_again
from .records import LifetimeFiles, LifetimeOrder, LifetimeState
from .uptime import Moment, up_since_s

TICK_S = 5.0
DUE_TICK_S = 1.0
"""While something is due, or may be at once."""
SHORTEST_TICK_S = 0.25
MOST_LOOKING, LONGEST_TICK_S = 10, 20.0
"""Results are looked for during a tenth of the time at most, if there are so many that it takes long."""
SYNC_EVERY_S = 60.0
GRACE_S = 6.0
"""So long after its end is due whoever follows its logs may still read the last lines."""
TAKE_WITHIN_S = 30.0
START_AGAIN_EVERY_S = 60.0
MAX_BUSY_CHARS = 1000


def lifetime_main(argv: List[str]) -> int:
    """``lifetime <workspace>``: measure until the instance is ended, or nothing is left to do."""
    files = LifetimeFiles(argv[0])
    descriptor = os.open(files.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _take(descriptor):
        print("lifetime: another process measures already", flush=True)
        return 1
    order = files.order()
    if order is None:
        print("lifetime: there is no order that can be read", flush=True)
        return 0
    Meter(files, order).run()
    return 0


def _take(descriptor: int) -> bool:
    end = time.monotonic() + TAKE_WITHIN_S
    while time.monotonic() < end:
        try:
            try_lock(descriptor)
            return True
        except FileIsBusyError:
            time.sleep(0.1)
    return False


class Meter:
    """One instance's. `run` returns when nothing is left to do."""

    def __init__(self, files: LifetimeFiles, order: LifetimeOrder) -> None:
        self._files = files
        self._order = order
        self._workspace = Workspace(files.workspace)
        self._secrets = {
            name: os.environ[name] for hook in order.hooks for name in hook.secrets if name in os.environ
        }
        self._state = replace(files.state(), run=order.run)
        self._verdict: Optional[str] = None
        self._synced_s = float("-inf")
        self._asked_again_s = float("-inf")
        self._looked_for_s = 0.0

    def run(self) -> None:
        """Look again and again."""
        while True:
            before = self._state
            self._measure()
            self._say_when_soon()
            self._act()
            self._save(before)
            if self._has_done_all():
                return
            if self._is_alone():
                start_again(self._files, self._secrets)  # which ends this process, too
            time.sleep(self._tick_s())

    def _is_alone(self) -> bool:
        """Whether the supervisor, which would start this process again, was killed itself."""
        watcher = self._files.supervised.status().supervisor
        is_due = time.monotonic() - self._asked_again_s > START_AGAIN_EVERY_S
        if watcher is None or watcher.is_alive() or not is_due:
            return False
        self._asked_again_s = time.monotonic()
        return True

    def _measure(self) -> None:
        now = Moment.now()
        lifetime = self._order.lifetime
        wants_idle = lifetime is not None and lifetime.idle_s is not None
        busy = self._going_on() if wants_idle else ""
        measured = deciding.measured(self._state, now, busy, up_since_s())
        self._state = deciding.extended(measured, self._files.extensions())

    def _going_on(self) -> str:
        try:
            return going_on(self._workspace, self._order)
        except (OSError, ValueError) as error:  # whatever cannot be asked: `max` holds all the same
            return f"what cannot be seen: {error}"[:MAX_BUSY_CHARS]

    def _tick_s(self) -> float:
        lifetime = self._order.lifetime
        bounds = (
            [TICK_S] if lifetime is None else [TICK_S, lifetime.idle_s or TICK_S, lifetime.max_s or TICK_S]
        )
        left_s = deciding.max_in_s(self._order, self._state)
        wanted_s = min(bounds) / 4 if min(bounds) < TICK_S else TICK_S
        if self._state.reason or self._order.lifetime is None:
            wanted_s = max(min(wanted_s, DUE_TICK_S), min(MOST_LOOKING * self._looked_for_s, LONGEST_TICK_S))
        if left_s is not None and left_s > 0:
            wanted_s = min(wanted_s, left_s)
        return max(SHORTEST_TICK_S, wanted_s)

    def _say_when_soon(self) -> None:
        if self._state.is_told or not deciding.is_soon(self._order, self._state):
            return
        left_s = max(0.0, deciding.max_in_s(self._order, self._state) or 0.0)
        self._state = replace(self._state, is_told=True)
        message = (
            f"provision: this instance is ended in {left_s / 60:.0f} min by its `lifetime.max`; "
            f"`provision keep {self._order.run} --for 2h` puts that off"
        )
        print(message, flush=True)
        logins.say(message, [login.terminal for login in logins.logins() if login.terminal is not None])

    # -- what is due

    def _act(self) -> None:
        lifetime = self._order.lifetime
        why = deciding.reason(self._order, self._state)
        is_tried = self._key("on_failure") in self._state.tried
        if self._is_failed() and not (
            why == MAX and is_tried
        ):  # a hook that fails again and again keeps nothing alive
            verdict = str(self._verdict)
            self._pursue("on_failure", self._order.on_failure, verdict, is_due=True)
            if self._state.reason == verdict:
                return
        self._pursue("lifetime", None if lifetime is None else lifetime.then, why, is_due=bool(why))

    def _is_failed(self) -> bool:
        """Whether the run has failed, nobody works here since, and its `on_failure` has not been run."""
        if self._order.on_failure is None or self._key("on_failure") in self._state.done:
            return False
        run = self._order.run
        if self._workspace.current_run() != run:
            return False
        if self._verdict is None:
            holder = self._workspace.lock_holder()
            if holder.is_alive and not holder.released:
                return False
            found = read_state(self._workspace, run)
            self._verdict = None if found is None else found.verdict
        return self._verdict in FAILED and not any_going(RunFolders.of(self._workspace, run))

    def _pursue(self, kind: str, hook: Optional[Hook], why: str, *, is_due: bool) -> None:
        """Run *hook* once it is due for long enough and nothing holds it back."""
        state = self._state
        if hook is None or not is_due or self._key(kind) in state.done:
            self._state = replace(state, reason="", due_s=0.0, not_home=0, attempts=0, again_s=0.0)
            return
        if state.reason != why:
            state = replace(state, reason=why, due_s=0.0, attempts=0, again_s=0.0)
        self._state = state = replace(state, not_home=self._count_away())
        is_held = deciding.held_in_s(self._order, state) > 0
        grace_s = GRACE_S if state.due_s < GRACE_S and logins.is_watched() else 0.0
        if is_held or state.due_s < max(grace_s, state.again_s):
            return
        self._fire(kind, hook, why)

    def _count_away(self) -> int:
        """So many finished results are not home."""
        began_s = time.monotonic()
        away = len(not_home(self._workspace.root, self._order.outputs)) if self._order.outputs else 0
        self._looked_for_s = time.monotonic() - began_s
        return away

    def _fire(self, kind: str, hook: Hook, why: str) -> None:
        attempts, key = self._state.attempts + 1, self._key(kind)
        tried = self._state.tried if key in self._state.tried else (*self._state.tried, key)
        self._state = replace(self._state, attempts=attempts, tried=tried, said="it is being run")
        self._files.save(self._state, sync=True)
        facts = facts_of(kind, self._order.run, why)
        end = run_hook(hook, facts, self._secrets, self._workspace.root)
        print(f"lifetime: {kind} ({why}), attempt {attempts}: {end.said}", flush=True)
        state = self._state
        if end.is_done:
            self._state = replace(state, done=(*state.done, self._key(kind)), said=end.said)
        else:
            again_s = state.due_s + deciding.pause_s(attempts)
            self._state = replace(state, again_s=again_s, said=end.said)

    def _key(self, kind: str) -> str:
        return key_of(kind, self._order.run)

    def _has_done_all(self) -> bool:
        if not os.path.isdir(self._files.folder):
            return True  # somebody has deleted all that this tool had here
        if self._order.lifetime is not None:
            return self._key("lifetime") in self._state.done
        if self._key("on_failure") in self._state.done:
            return True
        current = self._workspace.current_run()
        return (self._verdict is not None and self._verdict not in FAILED) or current != self._order.run

    def _save(self, before: LifetimeState) -> None:
        now_s, state = time.monotonic(), self._state
        is_news = (before.reason, before.done, before.extensions, before.attempts) != (
            state.reason,
            state.done,
            state.extensions,
            state.attempts,
        )
        sync = is_news or now_s - self._synced_s > SYNC_EVERY_S
        if sync:
            self._synced_s = now_s
        self._files.save(state, sync=sync)
