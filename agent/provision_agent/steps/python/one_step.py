"""One install of an environment: skipped when it is there already, looked at before and after, and remembered."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Callable, Dict, List, Mapping, NamedTuple

from ...contract.failures import Failure
from ...contract.steps import VERIFIED
from ...host.answers import Harm
from ...run.context import Context
from ..progress import Progress
from . import flavours, layer_record, repair
from . import venv as environments
from .guard import Guard
from .installer import Installer
from .layer_record import LayerRecord


class Step(NamedTuple):
    """One install. `names`: distributions whose version it chooses; `digest`: changes when the order does."""

    item: str
    names: List[str]
    digest: str
    checked: List[str]
    install: Callable[[Progress, Dict[str, str], str], None]
    is_there: Callable[[], bool]


def run(
    step: Step,
    tools: Installer,
    guard: Guard,
    context: Context,
    *,
    level: str,
    reports_failure: bool,
    reads_bytes: bool,
    is_started: bool = False,
) -> None:
    """Do *step*, unless it is done.

    Args:
        reports_failure: Its failure is reported here.
        reads_bytes: See by the bytes of what is installed, and not by sizes, whether it is as it was.
        is_started: That it has started was reported already.

    Raises:
        Failure: of the step.
    """
    fields = {"item": step.item, "level": level}
    if not is_started:
        context.report("package_started", **fields)
    started = time.monotonic()
    try:
        record = record_of(step, tools, context)
        is_recorded = is_done(step, record, tools)
        harm = _harm(record, tools, reads_bytes=reads_bytes) if is_recorded else {}
        if is_recorded and not harm and step.is_there():
            guard.chose(step.names)
            context.report("package_skipped", reason=VERIFIED, **fields)
            return
        with Progress(context, step.item, level, watched=tools.landing) as progress:
            held, before = guard.constraints(step.names), dict(tools.installed())
            if harm:
                repair.restore(harm, tools, context, progress, item=step.item, level=level)
            if not is_recorded or record.lost(tools.installed(), tools.unwanted) or not step.is_there():
                step.install(progress, held, level)
            flavours.settle(before, tools, context, progress, item=step.item, level=level)
            new = made(step, record, before, tools)
            found = found_harmed(new, before, tools, context)
            if found:
                repair.restore(found, tools, context, progress, item=step.item, level=level)
                new = made(step, record, before, tools)
            guard.check(held, step.item, progress, level=level)
    except Failure as failure:
        if reports_failure and not context.cancelled.is_set():
            context.report("package_failed", **fields, **failure.as_fields())
            failure.is_reported = True
        raise
    guard.chose(step.names)
    keep(step, new, tools, context)
    context.report("package_finished", duration_s=round(time.monotonic() - started, 3), **fields)


def record_of(step: Step, tools: Installer, context: Context) -> LayerRecord:
    """What is remembered of *step*."""
    return layer_record.read(context, layer_record.key_of(tools.venv.path, step.item))


def keep(step: Step, record: LayerRecord, tools: Installer, context: Context) -> None:
    """Remember *record* of *step*."""
    layer_record.keep(context, layer_record.key_of(tools.venv.path, step.item), record)


def is_done(step: Step, record: LayerRecord, tools: Installer) -> bool:
    """Is *record* that of the same order, and is all that it brought there?"""
    return record.digest == step.digest and not record.lost(tools.installed(), tools.unwanted)


def made(step: Step, record: LayerRecord, before: Mapping[str, str], tools: Installer) -> LayerRecord:
    """The record of *step*, which has just been done.

    Args:
        record: What was remembered of it.
        before: Version by name of what was installed before it.
    """
    return layer_record.made(
        before,
        tools.installed(),
        tools.harmed(),
        digest=step.digest,
        checked=step.checked,
        earlier=record if record.digest == step.digest else None,
    )


def found_harmed(
    new: LayerRecord, before: Mapping[str, str], tools: Installer, context: Context
) -> Dict[str, Harm]:
    """What a step needs and found damaged: an installer calls it satisfied. An image's own environment stays as it is."""
    if not environments.is_ours(tools.venv.path, context):
        return {}
    installed, harmed = tools.installed(), tools.harmed()
    return {name: harmed[name] for name in new.harmed if before.get(name) == installed.get(name)}


def digest_of(value: object) -> str:
    """Of an order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _harm(record: LayerRecord, tools: Installer, *, reads_bytes: bool) -> Dict[str, Harm]:
    """What of a step's packages is not as it was installed. Bytes are read of what the step itself brought only."""
    sizes = tools.harmed()
    found = {name: sizes[name] for name in record.names if name in sizes}
    if reads_bytes:
        contents = tools.harmed(reads_bytes=True)
        found.update((name, contents[name]) for name in record.brought if name in contents)
    return found
