"""A plan's JSON: where two differ, and its variables filled in. Pure."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Callable, List, Mapping

from .plan_parts import PlanFormatError

BUILT_IN_VARIABLES = ("workspace", "home", "run_id")
"""Known on the instance only; they stay ``${…}`` in a plan until `Plan.bind`."""


def differences(old: object, new: object, path: str = "") -> List[str]:
    """Where two plans' JSON differ, one line each, as ``downloads[2].sha256: "a…" -> "b…"``.

    Args:
        path: The name of the place of *old* and *new*, if they are inside a plan.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(old, list) and isinstance(new, list):
        longest = max(len(old), len(new))
        padded = [(values + [None] * longest)[:longest] for values in (old, new)]
        return [
            line for i in range(longest) for line in differences(padded[0][i], padded[1][i], f"{path}[{i}]")
        ]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def without_defaults(value: object) -> object:
    """As `parsing.to_json`, without the fields that stand at their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.metadata.get("alias", field.name): without_defaults(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != _default_of(field)
        }
    if isinstance(value, Mapping):
        return {key: without_defaults(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_defaults(item) for item in value]
    return value


def _default_of(field: "dataclasses.Field[object]") -> object:
    """What *field* holds where nobody says anything; a value that equals no other if it must be said."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


def expand(text: str, values: Mapping[str, str]) -> str:
    """*text* with each ``${name}`` replaced by the value of that name, and ``$${`` by ``${``.

    Raises:
        PlanFormatError: a name has no value.
    """
    out, rest = [], text
    while "${" in rest:
        before, _, after = rest.partition("${")
        if before.endswith("$"):
            out.append(before[:-1] + "${")
            rest = after
            continue
        name, closed, tail = after.partition("}")
        if not closed or name not in values:
            raise PlanFormatError(f"`${{{name}}}` is not one of {', '.join(values)}")
        out.append(before + values[name])
        rest = tail
    return "".join(out) + rest


def map_strings(value: object, change: Callable[[str], str]) -> Any:
    """*value*, any JSON, with *change* made to each of its texts; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: map_strings(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_strings(item, change) for item in value]
    return value
