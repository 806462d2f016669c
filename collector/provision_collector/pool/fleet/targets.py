"""The instances of a fleet as a file names them: one address per line, or a YAML list of addresses and mappings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ...errors import UsageError
from ...instance import Instance

_KEYS = frozenset(("host", "port", "user", "key", "instance_id", "labels"))
_LONE_IPV6 = re.compile(r"\s*\[[0-9A-Fa-f:.%]+\](:\d+)?\s*$")


@dataclass(frozen=True)
class Target:
    """One instance of a fleet, as it was named."""

    instance: Instance
    labels: Mapping[str, str] = field(default_factory=dict)


def read_targets(path: Path, login: Mapping[str, object]) -> list[Target]:
    """The instances in a file. A mapping has `host` and may have `port user key instance_id labels`.

    *login* holds for what an instance leaves out.

    Raises:
        UsageError: the file cannot be read, or what stands at a place is no instance.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read `{path}`: {error}") from None
    lines = [line for line in (line.partition("#")[0].strip() for line in text.splitlines()) if line]
    if not lines:
        raise UsageError(f"there is no instance in `{path}`", hint="write one `[USER@]HOST[:PORT]` per line")
    is_yaml = lines[0].startswith(("- ", "[")) and not _LONE_IPV6.match(lines[0])
    items = _yaml_items(path, text) if is_yaml else lines
    return [_target(item, f"{path}: item {number}", login) for number, item in enumerate(items, 1)]


def _yaml_items(path: Path, text: str) -> list[object]:
    try:
        items = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"`{path}` is no YAML: {error}") from None
    if not isinstance(items, list):
        raise UsageError(f"`{path}` is no list of instances")
    return items


def _target(item: object, where: str, login: Mapping[str, object]) -> Target:
    if isinstance(item, str):
        return Target(Instance.parse(item, **login))
    if not isinstance(item, dict) or not isinstance(item.get("host"), str) or set(item) - _KEYS:
        raise UsageError(
            f"{where} is no instance", hint=f"an address, or a mapping with {', '.join(sorted(_KEYS))}"
        )
    labels = item.get("labels") or {}
    if not isinstance(labels, dict):
        raise UsageError(f"{where}: `labels` is no mapping", hint="such as `labels: {zone: a}`")
    own = {name: item[name] for name in ("port", "user", "key") if name in item}
    if "instance_id" in item:
        own["instance_id"] = str(item["instance_id"])
    instance = Instance.parse(item["host"], **{**login, **own})
    return Target(instance, {str(name): str(value) for name, value in labels.items()})
