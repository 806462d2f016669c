"""What a run would do, step by step, and what of it only some instances get. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_parts import When
from provision_agent.contract.steps import STEP_NAMES

from .answers import Survey

AT_ONCE = ("apt", "python", "repos", "uploads", "downloads")
"""Steps that do not wait for others; every other one comes after them."""


@dataclass(frozen=True)
class Conditional:
    """Something beside the downloads that only some instances get.

    `state`: depends | skipped | conflict; of a compiled package wheel (there is one) | none.
    """

    step: str
    item: str
    level: str
    state: str
    message: str


def at_once(plan: Plan, files: Sequence[str], conditional: Sequence[Conditional]) -> Iterable[str]:
    """What overlaps, with the number of its items; each is a chain of its own. *files* are the states of the downloads."""
    if "uploads" in plan.steps and plan.uploads:
        yield f"uploads ({_wanted(plan.uploads, 'uploads', conditional)})"
    if files:
        states = Counter(files)
        yield f"downloads ({_number(len(files) - states['skipped'], states['depends'])})"
    if "repos" in plan.steps and plan.repos:
        yield f"repos ({_wanted(plan.repos, 'repos', conditional)})"
    chain = []
    if "apt" in plan.steps and plan.apt:
        names = [
            name for entry in plan.apt for name in ([entry] if isinstance(entry, str) else entry.packages)
        ]
        chain.append(f"apt ({_wanted(names, 'apt', conditional)})")
    if "python" in plan.steps and plan.python is not None:
        layers = len(plan.python.layers)
        wanted = _wanted(plan.python.layers, "python", conditional)
        chain.append(f"python ({wanted} {'layer' if layers == 1 else 'layers'})")
    if chain:
        yield " → ".join(chain)


def then(plan: Plan, conditional: Sequence[Conditional]) -> Iterable[str]:
    """What comes after, in order."""
    gone = {each.item for each in conditional if each.step == "repos" and each.state == "skipped"}
    installs = sum(repo.install is not None and repo.path not in gone for repo in plan.repos)
    if {"repos", "python"} <= set(plan.steps) and installs:
        yield f"requirements of repos ({installs})"
    for step in plan.steps:
        items = items_of(plan, step)
        if step not in AT_ONCE and items:
            yield f"{step} ({_wanted(items, step, conditional)})"


def _wanted(items: Sequence[object], step: str, conditional: Iterable[Conditional]) -> str:
    states = Counter(each.state for each in conditional if each.step == step)
    return _number(len(items) - states["skipped"], states["depends"])


def _number(wanted: int, depending: int) -> str:
    return f"{wanted}, {depending} by the instance" if depending else str(wanted)


def conditional_items(plan: Plan, surveyed: Survey | None) -> Iterable[Conditional]:
    """What beside the downloads an instance gets or does not."""
    if surveyed and surveyed.standing:
        for told in surveyed.standing.skipped:
            if told.step != "downloads":
                yield Conditional(told.step, told.item, told.level, "skipped", told.reason)
        for clash in surveyed.standing.clashes:
            if clash.step != "downloads":
                yield Conditional(clash.step, clash.item, clash.level, "conflict", clash.message)
        for row in surveyed.standing.compiled:
            state = "none" if row.chosen is None else "wheel"
            yield Conditional("python", row.item, row.level, state, row.why)
        return
    given: list[tuple[str, str, str, When | None]] = []
    for entry in plan.apt:
        if not isinstance(entry, str):
            given += [("apt", f"apt:{name}", "critical", entry.when) for name in entry.packages]
    for layer in plan.python.layers if plan.python is not None else ():
        given.append(("python", layer.title, "critical", layer.when))
    for step in STEP_NAMES:
        if step != "downloads":
            given += [(step, item.key, item.level, item.when) for item in plan.items(step)]
    for step, item, level, when in given:
        if when is not None and step in plan.steps:
            yield Conditional(step, item, level, "depends", f"only when {when.text()}")
    for layer in plan.python.layers if plan.python is not None and "python" in plan.steps else ():
        for package in layer.compiled:
            message = "a wheel for the instance's Python, torch, CUDA and card, if there is one"
            yield Conditional("python", package.name, package.level, "depends", message)


def items_of(plan: Plan, step: str) -> tuple[object, ...]:
    """What *plan* lists for *step*; nothing for the environment, which is one thing."""
    items = getattr(plan, step)
    return items if isinstance(items, tuple) else ()
