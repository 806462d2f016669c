"""The requirements of several nodes as one install: resolved together, put in place at once, looked at once.

That is done only where nothing but wheels is needed, and of the nodes that go with each other: then no code of theirs
runs, and who brought what is of no interest. Whatever else there is, is left to be installed one by one, which finds
out whose lines are wrong.
"""

from __future__ import annotations

import time
from typing import Callable, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...contract.failures import Failure
from ...contract.findings import Facts
from ...contract.plan import Python
from ...run.context import Context
from ..progress import Progress
from . import compiled_install, fitting, flavours, one_step, packages, resolver
from .guard import Guard
from .installer import Installer
from .layer_record import LayerRecord
from .locked_install import LockedInstalls
from .misfits import misfits
from .one_step import Step
from .venv import Venv


class File(NamedTuple):
    """A requirements file of a node."""

    item: str
    """What it is called in events."""
    path: str
    level: str


class Outcome(NamedTuple):
    """What became of some files."""

    done: FrozenSet[str] = frozenset()
    """The items that are installed."""
    begun: FrozenSet[str] = frozenset()
    """Those of which was reported that they have started, and no more."""
    failure: Optional[Failure] = None
    """Why none of those can be installed; None: they are to be installed one by one."""


class _Member(NamedTuple):
    file: File
    step: Step
    record: LayerRecord
    lines: Tuple[str, ...]


def install(
    files: Sequence[File],
    venv: Venv,
    context: Context,
    python: Python,
    *,
    by_lock: Optional[LockedInstalls],
    on_placed: Callable[[], object] = lambda: None,
) -> Outcome:
    """Install those of *files* that can be installed as one, under the same protection as each by itself.

    Args:
        files: In the order in which they count, where they contradict each other.
        by_lock: Resolves, and has wheels fetched; None: nothing is done.
        on_placed: Called when all is in place, before it is looked at.

    Raises:
        Failure: nothing was begun, since the environment cannot be looked at.
    """
    nothing = Outcome()
    if by_lock is None or context.is_offline or python.locked is not None:
        return nothing
    with packages.one_at_a_time(context):
        tools = Installer(python, venv, context, by_lock=by_lock)
        guard = Guard(python, tools, context)
        if guard.missing() or not tools.surroundings({}).uv:
            return nothing
        packages.stand_beside(tools, guard, by_lock)
        here = compiled_install.Surroundings(tools, context, Facts(), by_lock.store)
        members = [member for member in (_member(file, here) for file in files) if member is not None]
        if len(members) < 2:
            return nothing
        return _Together(members, tools, guard, context, by_lock).install(on_placed)


def _member(file: File, here: compiled_install.Surroundings) -> Optional[_Member]:
    """*file*, where it is to be installed and asks for nothing but packages of indexes."""
    step = packages.requirements_step(file.item, file.path, here, of_node=True)
    order = resolver.order_of(["--requirement", file.path])
    if order is None or not order.lines or not order.is_all or order.options or not step.digest:
        return None
    if any(line.startswith("-") for line in order.lines):
        return None  # another index: it is for this file only
    record = one_step.record_of(step, here.tools, here.context)
    if one_step.is_done(step, record, here.tools):
        return None
    if compiled_install.left_out(file.path, here) or compiled_install.wheels_only(step.checked, here):
        return None
    return _Member(file, step, record, order.lines)


class _Together:
    """Some files of nodes, on their way into one environment."""

    def __init__(
        self,
        members: Sequence[_Member],
        tools: Installer,
        guard: Guard,
        context: Context,
        by_lock: LockedInstalls,
    ) -> None:
        self._members = list(members)
        self._tools = tools
        self._guard = guard
        self._context = context
        self._by_lock = by_lock
        self._began_at = time.monotonic()

    def install(self, on_placed: Callable[[], object]) -> Outcome:
        first = self._members[0].file
        held = fitting.with_standing(self._guard.constraints(), self._tools)
        before = dict(self._tools.installed())
        for member in self._members:
            self._context.report("package_started", item=member.file.item, level=member.file.level)
        begun = frozenset(member.file.item for member in self._members)
        records: List[LayerRecord] = []
        with Progress(self._context, first.item, first.level, watched=self._tools.landing) as progress:
            try:
                if self._place(held, progress):
                    on_placed()
                    records = self._records(before, progress)
            except Failure as failure:
                progress.say(f"not installed together: {failure.message}")
            try:
                self._guard.check(held, self._names(), progress, level=first.level)
            except Failure as failure:
                return Outcome(begun=begun, failure=failure)
        for member, record in zip(self._members, records):
            self._remember(member, record)
        done = frozenset(member.file.item for member in self._members) if records else frozenset()
        return Outcome(done, begun - done)

    def _place(self, held: Mapping[str, str], progress: Progress) -> bool:
        """Put all wheels in place that the members need, of those that go together; True when that was all."""
        try:
            return self._put(held, progress)
        except Failure as failure:
            if failure.class_ not in fitting.CLASSES:
                raise
            refused = failure

        def problem(some: Sequence[_Member]) -> Optional[Failure]:
            lines = [line for member in some for line in member.lines]
            return self._tools.trial(lines, progress, constraints=held)

        others = [member for member, _ in misfits(self._members, problem, together=refused)]
        self._members = [member for member in self._members if member not in others]
        if len(self._members) < 2:
            return False
        named = ", ".join(member.file.item for member in others)
        progress.say(f"by itself, since it does not go with the others: {named}")
        return self._put(held, progress)

    def _put(self, held: Mapping[str, str], progress: Progress) -> bool:
        progress.say(f"the requirements of {len(self._members)} nodes are installed together")
        lines = tuple(line for member in self._members for line in member.lines)
        return self._by_lock.install(
            resolver.Order(lines),
            self._tools.surroundings({**self._tools.locked, **held}),
            progress,
            self._tools.runner(progress),
            level=self._members[0].file.level,
        )

    def _records(self, before: Mapping[str, str], progress: Progress) -> List[LayerRecord]:
        """What is to be remembered of the members, in their order; nothing where something of it is damaged."""
        first = self._members[0].file
        flavours.settle(before, self._tools, self._context, progress, item=first.item, level=first.level)
        installed = self._tools.installed()
        found: List[LayerRecord] = []
        for member in self._members:
            named = {name for other in self._members for name in other.step.checked}
            of_others = named.difference(member.step.checked).intersection(installed)
            without = {**before, **{name: installed[name] for name in of_others}}
            record = one_step.made(member.step, member.record, without, self._tools)
            if one_step.found_harmed(record, before, self._tools, self._context):
                return []
            found.append(record)
        return found

    def _remember(self, member: _Member, record: LayerRecord) -> None:
        item = member.file.item
        self._context.state.forget(fitting.KIND, item)
        one_step.keep(member.step, record, self._tools, self._context)
        self._by_lock.standing += fitting.kept_lines(member.file.path, item, self._context)
        took_s = round(time.monotonic() - self._began_at, 3)
        self._context.report("package_finished", item=item, level=member.file.level, duration_s=took_s)

    def _names(self) -> str:
        names = [member.file.item for member in self._members]
        return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]
