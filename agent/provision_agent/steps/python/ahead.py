"""All that a plan asks of indexes, resolved together before most of it is installed: layers, then nodes.

So versions suit everybody, where they can, and the wheels of later layers and of nodes come while earlier ones are put
in place. It is a look ahead: what cannot be resolved so is left to its own install, which says what is wrong.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Callable, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional, Sequence

from ...contract.failures import Failure
from ...contract.plan import Plan, Repo
from ...contract.pylock import Lock
from ...host.probe import normalised
from ...run.context import Context
from . import families, requirements, resolver, wanted
from .resolver import Order, Resolver

if TYPE_CHECKING:
    from .locked_install import LockedInstalls, Surroundings

CLONES_WITHIN_S = 20.0
"""How long the checkouts of nodes are waited for: those that take longer are resolved by themselves."""
SETTLED_WITHIN_S = 60.0
LOOK_AGAIN_S = 0.1


class Whole(NamedTuple):
    """Requirements that were resolved together, all plain, and what they bring."""

    lines: FrozenSet[str]
    lock: Lock

    def answers(self, lines: Iterable[str], constraints: Iterable[str], installed: Mapping[str, str]) -> bool:
        """Would the resolver say the same of *lines* now: with these constraints, and what is installed preferred?"""
        if frozenset(lines) != self.lines:
            return False
        versions = {normalised(name): version for name, version in self.lock.versions.items()}
        implied = requirements.as_constraints(self.lines)
        for line in constraints:
            name, is_pin, version = line.partition("==")
            if line not in implied and not (is_pin and _is_same(versions.get(normalised(name)), version)):
                return False
        return all(_is_same(versions.get(name), version) for name, version in installed.items())


def _is_same(chosen: Optional[str], wanted: str) -> bool:
    return chosen is None or resolver.is_version(chosen, wanted)


class Ahead:
    """Looks ahead once in a run.

    Args:
        plan: What is wanted.
        context: Of the run.
        is_there: Is the repository checked out? None: nobody will check it out.
    """

    def __init__(self, plan: Plan, context: Context, is_there: Callable[[Repo], Optional[bool]]) -> None:
        self._plan = plan
        self._context = context
        self._is_there = is_there
        self._thread: Optional[threading.Thread] = None
        layers = plan.python.layers if plan.python is not None else ()
        extras = [
            each for layer in layers if layer.torch is not None for each in ("torch", *layer.torch.extras)
        ]
        self._torch = set(requirements.names_of(extras))

    def layer_lines(self) -> List[str]:
        """The plain requirements of the layers that can be read now: what stands for every node."""
        return [line for part in self._parts(()) if part.is_layer for line in _plain(part)]

    def may_begin_early(self) -> bool:
        """Can all layers be resolved before there is an environment? None brings torch, none waits for a checkout."""
        layers = self._plan.python.layers if self._plan.python is not None else ()
        return bool(layers) and not self._torch and all(layer.requirements is None for layer in layers)

    def begin_early(self, by_lock: LockedInstalls, around: Callable[[], Surroundings]) -> None:
        """The environment is still being made: look ahead meanwhile. Asked for in a thread: *around*."""
        if self._thread is None and self.may_begin_early():
            self._begin(by_lock, around, {})

    def before(self, by_lock: LockedInstalls, order: Order, around: Surroundings) -> None:
        """*order* is about to be resolved: look ahead first, where torch is known or nothing is to bring it."""
        if self._is_torchs(order):
            return
        if self._thread is None and (not self._torch or "torch" in around.installed):
            self._begin(by_lock, lambda: around, {})
        thread = self._thread
        until = time.monotonic() + self._context.bounded(SETTLED_WITHIN_S)
        while thread is not None and thread.is_alive() and time.monotonic() < until:
            thread.join(LOOK_AGAIN_S)
            if self._context.is_over():
                return

    def after(self, by_lock: LockedInstalls, order: Order, around: Surroundings, lock: Lock) -> None:
        """*order* was resolved: with torch, everything else can be."""
        if self._thread is None and self._is_torchs(order):
            self._begin(by_lock, lambda: around, {normalised(name): v for name, v in lock.versions.items()})

    def _is_torchs(self, order: Order) -> bool:
        return bool(self._torch.intersection(requirements.names_of(order.lines)))

    def _begin(
        self, by_lock: LockedInstalls, around: Callable[[], Surroundings], assumed: Mapping[str, str]
    ) -> None:
        self._thread = threading.Thread(
            target=self._look, args=(by_lock, around, assumed), name="look-ahead", daemon=True
        )
        self._thread.start()

    def _look(
        self, by_lock: LockedInstalls, around: Callable[[], Surroundings], assumed: Mapping[str, str]
    ) -> None:
        try:
            surroundings = around()
            if surroundings.uv:
                self._resolve(by_lock, surroundings, assumed)
        except Failure as failure:
            self._context.output(self._context.redact(f"not resolved ahead: {failure.message}"))

    def _resolve(self, by_lock: LockedInstalls, around: Surroundings, assumed: Mapping[str, str]) -> None:
        of = Resolver(around.uv, around.python, self._context, name="ahead")
        there = {**around.installed, **assumed}
        held = [f"{name}=={there[name]}" for name in sorted(self._torch) if name in there]
        told = set(requirements.names_of(around.constraints)) - self._torch
        held += [line for line in around.constraints if told.intersection(requirements.names_of([line]))]

        def resolve(lines: Sequence[str]) -> Lock:
            return of.resolve(
                Order(tuple(lines)),
                constraints=held,
                installed=there,
                preferred={},
                environment=around.environment,
            )

        def begin(lock: Lock, level: str) -> None:
            versions = {normalised(name): version for name, version in lock.versions.items()}
            by_lock.ahead = {**by_lock.ahead, **versions}
            new = [each for each in resolver.needed(lock, there, is_forced=False) if not of.is_offer(each)]
            left = {*self._torch, *families.displaced({normalised(each.name) for each in new}, there)}
            by_lock.begin([each for each in new if normalised(each.name) not in left], around, level=level)

        def whole(lines: Sequence[str], lock: Lock) -> Lock:
            by_lock.whole = Whole(frozenset(lines), lock)
            return lock

        lines = self.layer_lines()
        layers = whole(lines, resolve(lines)) if lines else None
        nodes = [part for part in self._parts(self._await_checkouts()) if not part.is_layer and _plain(part)]
        if not nodes:
            if layers is not None:
                begin(layers, "critical")
            return
        try:
            wanted_lines = [*lines, *(line for part in nodes for line in _plain(part))]
            lock: Optional[Lock] = whole(wanted_lines, resolve(wanted_lines))
        except Failure:
            lock = self._one_by_one(resolve, lines, nodes) or layers
        if lock is not None:
            named = set(layers.versions) if layers is not None else set()
            begin(replace(lock, packages=tuple(p for p in lock.packages if p.name in named)), "critical")
            begin(lock, "required")

    def _one_by_one(
        self, resolve: Callable[[Sequence[str]], Lock], lines: List[str], nodes: Sequence[wanted.Part]
    ) -> Optional[Lock]:
        """The last of the locks that grow node by node, in the plan's order; one that does not fit is passed over."""
        lock, kept = None, list(lines)
        for part in nodes:
            try:
                lock = resolve([*kept, *_plain(part)])
            except Failure as failure:
                if failure.class_ not in ("conflict", "not_found"):
                    raise
                continue
            kept += _plain(part)
        return lock

    def _parts(self, ready: Sequence[Repo]) -> List[wanted.Part]:
        """The parts of the plan whose files are here."""
        found: List[wanted.Part] = []
        python = self._plan.python
        for layer in python.layers if python is not None else ():
            assert python is not None
            alone = replace(self._plan, repos=(), python=replace(python, layers=(layer,)))
            try:
                found += wanted.parts_of(alone, self._context, is_here=True)
            except Failure:
                continue  # its own install says so
        if python is None or not ready:
            return found
        nodes = replace(self._plan, repos=tuple(ready), python=replace(python, layers=()))
        return found + wanted.parts_of(nodes, self._context, is_here=True)

    def _await_checkouts(self) -> List[Repo]:
        until = time.monotonic() + self._context.bounded(CLONES_WITHIN_S)
        repos = (
            [repo for repo in self._plan.repos if repo.install is not None]
            if "repos" in self._plan.steps
            else []
        )
        while any(self._is_there(repo) is False for repo in repos) and time.monotonic() < until:
            if self._context.wait(LOOK_AGAIN_S):
                break
        return [repo for repo in repos if self._is_there(repo)]


def _plain(part: wanted.Part) -> List[str]:
    """The plain lines of *part*; none where an option changes what they mean."""
    return [] if part.options else [line.text for line in part.lines if resolver.is_plain(line.text)]
