"""One run on one page: how far it is, its steps, files, checks and services, what is wrong, and what to do now. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from provision_agent.contract.status import RunState
from provision_agent.contract.status_parts import ItemState, StepState
from provision_agent.contract.steps import GROUPS
from provision_agent.contract.verdicts import VERDICTS, next_action

from . import units
from .frame import ACTIVE
from .lines import Tone
from .progress import Progress, is_there, step_took, steps_in_order, time_left_s
from .summary import Words, told_errors, told_next, told_warnings
from .text import harmless
from .values import Object

SHOWN = 30
"""So many items of a kind that are there already, or wait for their turn, are told by name."""
_LABEL = 14
_STEP_MARKS: dict[str, tuple[str, Tone]] = {
    "done": ("✓", "good"),
    "failed": ("✗", "bad"),
    "running": ("▸", "plain"),
    "queued": ("·", "plain"),
}
_TITLES = {
    "packages": "packages",
    "repos": "repositories",
    "downloads": "files",
    "files": "text files",
    "commands": "commands",
    "checks": "checks",
    "services": "services",
    "jobs": "jobs",
}


class Place(NamedTuple):
    """Where the run is, and what is known of it beside its state."""

    host: str
    profile: str = ""
    workspace: str = ""
    started: str = ""
    log: str = ""
    outputs: str = ""
    """What came home."""
    ends: str = ""
    """When its instance is ended by itself."""
    age: str = ""
    """How old what is shown is; empty where its instance was asked just now, or it has ended."""


def run_page(state: RunState, place: Place) -> Iterator[Words]:
    """The lines of the page, from top to bottom; wrap each with `summary.fitted`."""
    yield from _head(state, place)
    for at, (name, step) in enumerate(steps_in_order(state)):
        yield _step("steps" if not at else "", name, step, state)
    progress = Progress(place.host)
    progress.follow(state)
    for group in GROUPS.values():
        if state.items.get(group):
            yield from _group(
                group, list(state.items[group].values()), progress, is_over=state.verdict is not None
            )
    errors: list[Object] = [error.to_json() for error in state.errors.values()]
    yield from told_errors(errors)
    yield from told_warnings(list(state.warnings))
    yield from _next(state)


def _head(state: RunState, place: Place) -> Iterator[Words]:
    known = VERDICTS.get(state.state)
    meaning = f": {known.meaning}" if known is not None else ""
    took = f" in {units.duration(state.duration_s)}" if state.duration_s is not None else ""
    yield Words(f"{harmless(state.run)}  {harmless(state.state)}{took}{meaning}")
    on = f"{place.host}  {place.workspace}".rstrip()
    facts = {"on": on, "profile": place.profile or state.name, "started": place.started}
    if state.usable_after_s is not None:
        facts["usable"] = f"after {units.duration(state.usable_after_s)}"
    facts |= {
        "outputs": place.outputs,
        "ends": place.ends,
        "log": place.log,
        "as it was": f"{place.age} ago" if place.age else "",
    }
    for label, text in facts.items():
        if text:
            yield _labelled(label, harmless(text))


def _step(label: str, name: str, step: StepState, state: RunState) -> Words:
    mark, tone = _STEP_MARKS.get(step.state, ("·", "plain"))
    if step.counts.get("failed"):
        mark, tone = _STEP_MARKS["failed"]
    counts = ", ".join(f"{count} {what}" for what, count in step.counts.items() if count)
    took = step_took(state, name, step.duration_s) if step.duration_s is not None else ""
    return _labelled(label, f"{mark} {' '.join(filter(None, (harmless(name), counts, took)))}", tone)


def _group(group: str, items: Sequence[ItemState], progress: Progress, *, is_over: bool) -> Iterator[Words]:
    """A line that counts, and one for each item: what goes on, or was left when the run ended, and what failed first."""
    there = [item for item in items if is_there(item)]
    failed = [item for item in items if item.state == "failed"]
    active = [item for item in items if item.state in ACTIVE]
    rest = [item for item in items if item not in there and item not in failed and item not in active]
    yield _labelled(_TITLES.get(group, group), _count(group, len(there), len(items), len(failed), progress))
    for item in (*active, *failed):
        yield _item(item, is_over=is_over)
    for some in (there, rest):
        yield from (_item(item, is_over=is_over) for item in some[:SHOWN])
        if len(some) > SHOWN:
            yield Words(f"… and {len(some) - SHOWN} more", indent=_LABEL)


def _count(group: str, there: int, total: int, failed: int, progress: Progress) -> str:
    parts = [f"{there} of {total}"]
    parts += [f"{failed} failed"] if failed else []
    if group == "downloads":
        sums = progress.totals()
        whole = sums.is_whole and sums.total_bytes > sums.bytes
        parts.append(units.size_of(sums.bytes, sums.total_bytes) if whole else units.size(sums.bytes))
        parts += [units.speed(sums.bytes_per_s)] if sums.bytes_per_s else []
        parts += (
            [f"all there in about {units.coarse(sums.left_s)}"] if sums.left_s and sums.bytes_per_s else []
        )
    return ", ".join(parts)


def _item(item: ItemState, *, is_over: bool) -> Words:
    if is_over and item.state in (*ACTIVE, "queued"):
        return Words(f"· {harmless(item.item)}  not at its end when the run ended", indent=_LABEL)
    mark, tone = _mark(item)
    return Words(f"{mark} {harmless(item.item)}  {_words(item)}".rstrip(), tone, indent=_LABEL)


def _mark(item: ItemState) -> tuple[str, Tone]:
    if is_there(item):
        return "✓", "good"
    if item.state == "failed":
        return "✗", "bad"
    return ("▸", "plain") if item.state in ACTIVE else ("·", "plain")


def _words(item: ItemState) -> str:
    """What is known of an item, in few words."""
    done, total, speed = (item.number(name) for name in ("bytes", "total_bytes", "bytes_per_s"))
    status = item.count("exit_status")
    if status is not None:
        return f"exit status {status} after {units.duration(item.number('duration_s'))}"
    if item.state == "failed":
        return harmless(item.text("class") or "failed")
    if item.state == "skipped":
        return harmless(item.text("reason"))
    if item.state in ACTIVE:
        parts = [item.state] if item.state != "running" else []
        parts += [units.size_of(done, total) if total else units.size(done)] if done or total else []
        parts += [units.speed(speed)] if speed else []
        left_s = time_left_s(done, total, speed)
        parts += [f"there in about {units.coarse(left_s)}"] if left_s else []
        return ", ".join(parts)
    if item.state == "queued":
        return "waits for its turn"
    return harmless(item.text("url")) if item.state == "ready" else units.size(done) if done else ""


def _next(state: RunState) -> Iterator[Words]:
    if state.verdict is not None:
        kinds = [(error.class_, error.case) for error in state.errors.values()]
        yield from told_next({"verdict": state.verdict, "next": next_action(state.verdict, kinds)})
        return
    run = harmless(state.run)
    yield Words("")
    yield Words(
        f"`provision attach {run}` follows it, `provision stop {run}` ends it", first="next:", indent=6
    )


def _labelled(label: str, text: str, tone: Tone = "plain") -> Words:
    return Words(text, tone, label, _LABEL)
