"""What is known of a fleet, in one file: its instances, and the hooks that are owed. Replaced as a whole at every change.

One process writes it at a time; a killed one leaves the last change whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision_agent.contract import version

from ...errors import UsageError
from ...run import registry
from ..scorecard import key_of
from .targets import Target

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


@dataclass
class Member:
    """What is known of one instance of a fleet."""

    key: str
    host: str
    run: str | None = None
    state: str = "waiting"
    """``waiting going usable held`` or a verdict."""
    exit_code: int | None = None
    next: str | None = None
    fingerprint: str | None = None
    """Equal for equal failures: the verdict, and class and item of the first error."""
    message: str = ""
    usable_after_s: float | None = None
    duration_s: float | None = None


class Book:
    """The file of the fleet *name*; the ledger of its hooks, too.

    What is known of an instance holds for the plan with *plan_hash*: with another plan everything begins anew.
    """

    def __init__(self, name: str, plan_hash: str, targets: Sequence[Target]) -> None:
        if not re.fullmatch(NAME_PATTERN, name):
            raise UsageError(f"`{name}` is no name of a fleet: letters, digits, `.`, `_`, `-`; 64 at most")
        self._path = _path(name)
        self._name = name
        self._plan_hash = plan_hash
        hosts = {key_of(target.instance): str(target.instance) for target in targets}
        self.members = {key: Member(key, host) for key, host in hosts.items()}
        self._deliveries: dict[str, str | None] = {}
        """By key; the body of those that are not settled."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process off this fleet, and take up what the last one knew.

        Raises:
            UsageError: another process works on it.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(descriptor)
            self._load()
            self.save()
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another `provision fleet up` works on `{self._name}`",
                hint="`provision fleet status` shows it; `--name` makes another fleet",
            ) from None

    def _load(self) -> None:
        data = _read(self._path) or {"members": [], "plan_hash": self._plan_hash}
        if data["plan_hash"] == self._plan_hash:
            known = {member["key"]: Member(**member) for member in data["members"]}
            self.members = {key: known.get(key, member) for key, member in self.members.items()}
        runs = {member.run for member in self.members.values()}
        for key, body in data.get("deliveries", {}).items():
            if body is not None or key.split(":")[0] in runs:
                self._deliveries[key] = body

    def save(self) -> None:
        """Write what is known."""
        data = {
            "format": version.FORMAT,
            "fleet": self._name,
            "plan_hash": self._plan_hash,
            "members": [vars(member) for member in self.members.values()],
            "deliveries": self._deliveries,
        }
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(data))
        temporary.chmod(0o600)
        temporary.replace(self._path)

    # -- the ledger of the hooks

    async def owe(self, key: str, body: str) -> bool:
        """Record a delivery before its first attempt; False when its key is known."""
        if key in self._deliveries:
            return False
        self._deliveries[key] = body
        self.save()
        return True

    async def settle(self, key: str, *, attempts: int) -> None:
        """The delivery arrived, or was given up; that it was made stays known as long as its run does."""
        self._deliveries[key] = None
        self.save()

    async def owed(self) -> list[tuple[str, str]]:
        """``(key, body)`` of every delivery that is not settled."""
        return [(key, body) for key, body in self._deliveries.items() if body is not None]


def read_members(name: str) -> list[Member]:
    """The instances of the fleet *name*. Raises UsageError when there is no such fleet."""
    data = _read(_path(name)) if re.fullmatch(NAME_PATTERN, name) else None
    if data is None:
        raise UsageError(f"there is no fleet `{name}` here", hint="`provision fleet status` shows the newest")
    return [Member(**member) for member in data["members"]]


def fleet_names() -> list[str]:
    """The fleets that this machine knows, the one that changed last first."""
    paths = sorted(_folder().glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.stem for path in paths]


def _folder() -> Path:
    return registry.state_directory() / "fleets"


def _path(name: str) -> Path:
    return _folder() / f"{name}.json"


def _read(path: Path) -> dict[str, Any] | None:
    """What stands in the file; None when there is none, or it cannot be read: then the fleet begins anew."""
    try:
        data = dict(json.loads(path.read_text()))
        is_known = data["format"] in version.SUPPORTED_FORMATS and isinstance(data["members"], list)
        return data if is_known and "plan_hash" in data else None
    except (OSError, ValueError, KeyError):
        return None
