"""What is known of a fleet, in one file: its instances, and the hooks that are owed. Replaced as a whole at every change.

One process writes it at a time; a killed one leaves the last change whole.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from provision_agent.contract.version import FORMAT, SUPPORTED_FORMATS
from pydantic import TypeAdapter, ValidationError

from ...errors import UsageError
from ...run import registry
from ...storage import FileLock, LockBusyError, write_atomically_async
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


@dataclass(frozen=True)
class _Known:
    """The file."""

    plan_hash: str
    members: list[Member]
    deliveries: dict[str, str | None] = field(default_factory=dict)
    fleet: str = ""
    format: int = FORMAT


_KNOWN = TypeAdapter(_Known)


class FleetState:
    """The file of the fleet *name*; it keeps what its hooks are owed, too.

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
        self.writes = 0
        """How often the file was written."""
        self._changes = 0
        self._saving: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Keep every other process off this fleet, and take up what the last one knew.

        Raises:
            UsageError: another process works on it.
        """
        lock = FileLock(self._path.with_suffix(".lock"), wait_s=0)
        try:
            await lock.acquire_async()
        except LockBusyError:
            raise UsageError(
                f"another `provision fleet up` works on `{self._name}`",
                hint="`provision fleet status` shows it; `--name` makes another fleet",
            ) from None
        try:
            await asyncio.to_thread(self._load)
            await self.save()
            yield
        finally:
            if self._saving is not None:
                await asyncio.gather(self._saving, return_exceptions=True)
            lock.release()

    def _load(self) -> None:
        known = _read(self._path)
        if known is None:
            return
        if known.plan_hash == self._plan_hash:
            members = {member.key: member for member in known.members}
            self.members = {key: members.get(key, member) for key, member in self.members.items()}
        runs = {member.run for member in self.members.values()}
        for key, body in known.deliveries.items():
            if body is not None or key.split(":")[0] in runs:
                self._deliveries[key] = body

    async def save(self) -> None:
        """Write what is known; it is on the disk when this returns. Changes that come together are written at once."""
        self._changes += 1
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save())
        await asyncio.shield(self._saving)

    async def _save(self) -> None:
        written = 0
        while written < self._changes:
            written = self._changes
            self.writes += 1
            known = _Known(self._plan_hash, list(self.members.values()), self._deliveries, self._name)
            await write_atomically_async(self._path, json.dumps(asdict(known)))

    # -- the hooks that are owed

    async def owe(self, key: str, body: str) -> bool:
        """Record a delivery before its first attempt; False when its key is known."""
        if key in self._deliveries:
            return False
        self._deliveries[key] = body
        await self.save()
        return True

    async def settle(self, key: str, *, attempts: int) -> None:
        """The delivery arrived, or was given up; that it was made stays known as long as its run does."""
        self._deliveries[key] = None
        await self.save()

    async def owed(self) -> list[tuple[str, str]]:
        """``(key, body)`` of every delivery that is not settled."""
        return [(key, body) for key, body in self._deliveries.items() if body is not None]


def read_members(name: str) -> list[Member]:
    """The instances of the fleet *name*. Raises UsageError when there is no such fleet."""
    known = _read(_path(name)) if re.fullmatch(NAME_PATTERN, name) else None
    if known is None:
        raise UsageError(f"there is no fleet `{name}` here", hint="`provision fleet status` shows the newest")
    return known.members


def fleet_names() -> list[str]:
    """The fleets that this machine knows, the one that changed last first."""
    paths = sorted(_folder().glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.stem for path in paths]


def _folder() -> Path:
    return registry.state_directory() / "fleets"


def _path(name: str) -> Path:
    return _folder() / f"{name}.json"


def _read(path: Path) -> _Known | None:
    """What stands in the file; None when there is none, or it cannot be read: then the fleet begins anew."""
    try:
        known = _KNOWN.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return known if known.format in SUPPORTED_FORMATS else None
