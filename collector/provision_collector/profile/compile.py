"""A checked profile as the plan that the agent obeys: every default spelled out, every unit resolved. Pure.

Equal profiles give equal plans, so a plan's hash says whether two runs are the same work. No field is named here
that needs no treatment of its own: `notes` says where in the plan each one goes.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from provision_agent.contract import plan
from provision_agent.contract.steps import STEP_NAMES

from ..errors import UsageError
from . import paths
from .load import Profile
from .model import Download
from .model_base import Item, Part
from .model_parts import ItemLimits, Limits
from .notes import Annotation, classes_in, fields_of
from .variables import suggestion

DEFAULT_WORKSPACE = paths.DEFAULT_WORKSPACE
_TYPES: dict[type[object], Mapping[str, Annotation]] = {}

T = TypeVar("T")
AnyPart = TypeVar("AnyPart", bound=Part)


def compile_plan(
    profile: Profile,
    *,
    workspace: str | None = None,
    timeout_s: float | None = None,
    strict: bool | None = None,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
) -> plan.Plan:
    """Make the work order of one run.

    Args:
        profile: What the instance must have.
        workspace: Replaces the profile's (``--workspace``).
        timeout_s: Replaces ``limits.run``.
        strict: Replaces ``strict``.
        skip: Steps to leave out.
        only: The steps to run, and the checks; empty means all.

    Returns:
        The plan. Another workspace may stand in only for the default one, never for one that was chosen.

    Raises:
        UsageError: an unknown step, or a workspace that is neither absolute nor ``~/…``.
    """
    document = profile.document
    folder = _workspace(workspace) if workspace is not None else document.workspace
    downloads = tuple(_with_limits(item, document.limits) for item in document.downloads)
    made = _in_plan(document.model_copy(update={"downloads": downloads}), plan.Plan)
    return dataclasses.replace(
        made,
        workspace=folder,
        strict=made.strict if strict is None else strict,
        limits=dataclasses.replace(
            made.limits,
            run_s=made.limits.run_s if timeout_s is None else timeout_s,
        ),
        workspace_fallback=workspace is None and folder == DEFAULT_WORKSPACE,
        steps=_steps(skip, only),
        secrets=profile.secret_rules,
        default_secrets=profile.has_default_secrets,
    )


def _workspace(path: str) -> str:
    try:
        return paths.workspace_path(path)
    except ValueError as error:
        raise UsageError(str(error), hint="give `--workspace` an absolute path") from None


def _steps(skip: Sequence[str], only: Sequence[str]) -> tuple[str, ...]:
    for step in (*skip, *only):
        if step not in STEP_NAMES:
            raise UsageError(
                f"unknown step `{step}`{suggestion(step, frozenset(STEP_NAMES))}",
                hint=f"the steps are {', '.join(STEP_NAMES)}",
            )
    wanted = {*only, "checks"} if only else set(STEP_NAMES)
    return tuple(step for step in STEP_NAMES if step in wanted and step not in skip)


def _with_limits(item: Download, general: Limits) -> Download:
    """*item*, with what its own limits leave out taken from *general*."""
    inherited = {name: getattr(general, name) for name in ItemLimits.model_fields}
    return item.model_copy(
        update={"limits": _laid_over(ItemLimits.model_construct(**inherited), item.limits)}
    )


def _laid_over(below: AnyPart, above: AnyPart) -> AnyPart:
    """*below*, with what *above* says itself."""
    said: dict[str, object] = {name: getattr(above, name) for name in above.model_fields_set}
    for name, value in said.items():
        if isinstance(value, Part):
            said[name] = _laid_over(getattr(below, name), value)
    return below.model_copy(update=said)


def _in_plan(part: Part, kind: type[T]) -> T:
    """*part* as the plan's *kind*; what it does not say gets the plan's own default."""
    types = _types_of(kind)
    given: dict[str, object] = {
        name: value
        for field in fields_of(type(part))
        if (name := field.plan_name or "") in types and (value := getattr(part, field.name)) is not None
    }
    for name, value in tuple(given.items()):
        if isinstance(value, tuple) and (apart := {_place_of(each, name) for each in value} - {name}):
            for place in (name, *apart):
                given[place] = tuple(each for each in value if _place_of(each, name) == place)
    return kind(**{name: _value(value, types[name]) for name, value in given.items()})


def _place_of(entry: object, name: str) -> str:
    """The list of the plan that an *entry* of the list *name* goes to."""
    return (entry.of_plan or name) if isinstance(entry, Part) else name


def _types_of(kind: type[object]) -> Mapping[str, Annotation]:
    if kind not in _TYPES:
        _TYPES[kind] = typing.get_type_hints(kind)
    return _TYPES[kind]


def _value(value: object, wanted: Annotation) -> object:
    if isinstance(value, Part):
        return _in_plan(value, next(filter(dataclasses.is_dataclass, classes_in(wanted))))
    if isinstance(value, Mapping):
        return {key: _value(each, wanted) for key, each in value.items()}
    if isinstance(value, tuple) and any(isinstance(each, Part) for each in value):
        made = (_value(each, wanted) for each in value)
        return _once(made) if isinstance(value[0], Item) else tuple(made)
    return value


def _once(items: Iterable[T]) -> tuple[T, ...]:
    """Without repetitions: the same item twice is one item."""
    return tuple({repr(item): item for item in reversed(list(items))}.values())[::-1]
