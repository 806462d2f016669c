"""How the packages of a plan's environment differ from what its layers brought, by the records of the packages themselves."""

from __future__ import annotations

from typing import Dict, Iterator, List, Mapping, Tuple

from ..contract.failures import Failure
from ..contract.messages import AuditItem
from ..contract.plan import Plan
from ..host import answers, probe
from ..host.answers import Harm
from ..host.probe import normalised
from ..run.context import Context
from ..steps import nodes
from ..steps.python import layer_record, packages, venv

SIZES_S = 120.0
BYTES_S = 1200.0
_NAMED = 5

Harms = Mapping[str, Harm]


def packages_of(plan: Plan, context: Context, *, is_quick: bool) -> Iterator[AuditItem]:
    """Every layer of the environment, and the requirements of every repository, with its ``state``.

    Args:
        is_quick: Believe sizes; else the bytes of what a run installed are read, too.
    """
    python = plan.python
    if python is None or "python" not in plan.steps:
        return
    wanted = [(packages.title(layer), packages.LEVEL) for layer in python.layers]
    wanted += [
        (f"{repo.path}/{repo.requirements}", repo.level)
        for repo in plan.repos
        if nodes.has_requirements(repo, context)
    ]
    made = venv.find(python, context)
    if made is None:
        yield from (_item(name, level, "missing", "there is no environment") for name, level in wanted)
        return
    try:
        installed = probe.ask(made.python, answers.Installed, timeout_s=context.bounded(SIZES_S)).versions
        sizes = probe.ask(made.python, answers.Damage, timeout_s=context.bounded(SIZES_S)).harmed
        contents: Harms = {}
        if not is_quick:
            contents = probe.ask(
                made.python, answers.Damage, "--bytes", timeout_s=context.bounded(BYTES_S)
            ).harmed
    except Failure as failure:
        yield from (_item(name, level, "missing", failure.message) for name, level in wanted)
        return
    unwanted = frozenset(normalised(name) for name in python.remove)
    for name, level in wanted:
        record = layer_record.read(context, layer_record.key_of(made.path, name))
        state, message = _judged(record, record.lost(installed, unwanted), sizes, contents)
        yield _item(name, level, state, message, made.path)


def _judged(
    record: layer_record.LayerRecord, lost: List[str], sizes: Harms, contents: Harms
) -> Tuple[str, str]:
    """The state of one step, and why."""
    if not record.digest:
        return "missing", "no run has installed it"
    by_size = {name: sizes[name] for name in record.names if name in sizes}
    by_bytes = {name: contents[name] for name in record.brought if name in contents and name not in by_size}
    harmed: Dict[str, Harm] = {**by_size, **by_bytes}
    if not lost and not harmed:
        return "ok", ""
    told = [f"{name} is not there as it was installed" for name in lost]
    told += [layer_record.told(name, harm) for name, harm in harmed.items() if name not in lost]
    state = "wrong_size" if by_size else "wrong_hash"
    if lost or any(harm.missing for harm in harmed.values()):
        state = "missing"
    return state, "; ".join(told[:_NAMED]) + ("; …" if len(told) > _NAMED else "")


def _item(name: str, level: str, state: str, message: str, path: str = "") -> AuditItem:
    return AuditItem(name, "package", level, state, message, path or None)
