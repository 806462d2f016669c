"""One profile on many instances: bounded in number, a canary first, and no fourth failure of one kind.

What came of each instance is kept under the state directory, so the same call again takes up what is unfinished,
leaves what is complete, and tries the rest once more.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from provision_agent import protocol
from provision_agent.plan import Plan

from . import hooks, registry
from .errors import ProvisionError, UsageError
from .instance import Instance
from .order import Order, new_run_id
from .run import Run
from .scorecard import key_of

WORST_FIRST = (70, 74, 3, 2, 11, 13, 10, 15, 14, 12, 124, 1, 4, 130, 5, 0)
"""Exit codes; the fleet's is the first of these that any of its instances has."""
GOOD = (0, 5)
"""Codes of instances that can be used."""
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_MEMBER_KEYS = frozenset(("host", "port", "user", "key", "instance_id", "labels"))

Teller = Callable[["Member", Mapping[str, Any]], None]


@dataclass(frozen=True)
class Target:
    """One instance of a fleet, as it was named."""

    instance: Instance
    labels: Mapping[str, str] = field(default_factory=dict)


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
class Rules:
    """How a fleet is brought up."""

    parallel: int = 50
    canary: int = 0
    """So many instances come first, and must become usable before the others begin."""
    stop_after: int | None = None
    """So many equal failures end the rest: what waits is held, what is not yet usable is stopped."""
    replace: bool = False
    gone_check: str | None = None
    hooks: tuple[hooks.Hook, ...] = ()


class Fleet:
    """A fleet on its way up. One process works on a fleet at a time."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        targets: Sequence[Target],
        *,
        secrets: Mapping[str, str],
        logs_dir: Path,
        rules: Rules,
        tell: Teller,
    ) -> None:
        if len({key_of(target.instance) for target in targets}) != len(targets):
            raise UsageError(
                "an instance is named twice", hint="give each one once, or its own `instance_id`"
            )
        self.name = name
        self.held_because: str | None = None
        self._plan = plan
        self._secrets = dict(secrets)
        self._logs_dir = logs_dir
        self._rules = rules
        self._tell = tell
        self._book = _Book(name, plan.hash, targets)
        self._targets = {key_of(target.instance): target for target in targets}
        self._failures: Counter[str] = Counter()
        self._runs: dict[str, Run] = {}
        self._stops: set[asyncio.Task[None]] = set()
        self._deliveries: list[asyncio.Task[Any]] = []

    @property
    def members(self) -> list[Member]:
        """Every instance, in the order in which they were named."""
        return [self._book.members[key] for key in self._targets]

    async def up(self) -> int:
        """Bring every instance up that is not complete yet; returns the exit code of the worst.

        Raises:
            UsageError: another process works on this fleet.
        """
        with self._book.locked():
            waiting = [member for member in self.members if member.exit_code != 0]
            waiting.sort(key=lambda member: member.state != "going")  # what goes already is taken up first
            try:
                await self._up(waiting[: self._rules.canary])
                bad = [member for member in waiting[: self._rules.canary] if member.exit_code not in GOOD]
                if bad and self.held_because is None:
                    self.held_because = f"the canary {bad[0].host} ended as {bad[0].state}"
                await self._up(waiting[self._rules.canary :])
                await asyncio.gather(*self._deliveries, *self._stops, return_exceptions=True)
            finally:
                for task in (*self._deliveries, *self._stops):
                    task.cancel()
        return worst(member.exit_code for member in self.members)

    async def _up(self, members: Sequence[Member]) -> None:
        turns = asyncio.Semaphore(self._rules.parallel)

        async def one(member: Member) -> None:
            async with turns:
                if self.held_because is not None:
                    self._note(member, state="held", message=self.held_because)
                else:
                    await self._bring_up(member)

        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(one(member))

    async def _bring_up(self, member: Member) -> None:
        target = self._targets[member.key]
        is_resumed = member.state in ("going", "usable") and member.run is not None
        run_id = member.run if is_resumed else new_run_id()
        self._note(member, run=run_id, state="going", exit_code=None, fingerprint=None, message="")
        order = Order(
            plan=self._plan,
            run_id=run_id,
            secrets=self._secrets,
            labels={"fleet": self.name, **target.labels},
            replace=self._rules.replace,
            logs_dir=self._logs_dir,
            profile=self._plan.name,
            resume=is_resumed,
        )
        contact = {"is_lost": True}
        async with Run(target.instance, order) as run:
            self._runs[member.key] = run
            gone = self._gone_check(run, target, contact)
            try:
                async for event in run.events():
                    self._take(member, run, event, contact)
            finally:
                self._runs.pop(member.key, None)
                if gone is not None:
                    gone.cancel()
        outcome = await run.outcome()
        self._settle(member, target, outcome)

    def _gone_check(self, run: Run, target: Target, contact: Mapping[str, bool]) -> asyncio.Task[None] | None:
        if self._rules.gone_check is None:
            return None
        facts = hooks.facts_for_command(
            run.id, str(target.instance), target.instance.instance_id, target.labels
        )
        return asyncio.create_task(
            hooks.leave_when_gone(
                run,
                self._rules.gone_check,
                facts,
                is_out_of_contact=lambda: contact["is_lost"],
                every_s=hooks.GONE_CHECK_EVERY_S,
            )
        )

    def _take(self, member: Member, run: Run, event: Mapping[str, Any], contact: dict[str, bool]) -> None:
        name = event["event"]
        if name in ("connected", "connecting", "connection_lost"):
            contact["is_lost"] = name != "connected"
        elif name == "run_started" and run.id != member.run:
            self._note(member, run=run.id)  # its plan was going there already, under another id
        elif name == "run_usable":
            self._note(member, state="usable", usable_after_s=event["after_s"])
            self._hook("usable", member, {"usable_after_s": event["after_s"]})
        self._tell(member, event)

    def _settle(self, member: Member, target: Target, outcome: Mapping[str, Any]) -> None:
        self._note(
            member,
            state=outcome["verdict"],
            exit_code=outcome["exit_code"],
            next=outcome["next"],
            fingerprint=None if outcome["exit_code"] in GOOD else fingerprint(outcome),
            message=str(outcome["errors"][0]["message"]) if outcome["errors"] else "",
            usable_after_s=outcome["usable_after_s"],
            duration_s=outcome["duration_s"],
        )
        facts = {"outcome": dict(outcome), "verdict": outcome["verdict"], "next": outcome["next"]}
        self._hook("finished", member, facts)
        if member.fingerprint is not None and outcome["verdict"] != "cancelled":
            self._failures[member.fingerprint] += 1
            limit = self._rules.stop_after
            if (
                limit is not None
                and self._failures[member.fingerprint] >= limit
                and self.held_because is None
            ):
                self.held_because = f"{limit} instances failed alike: {member.fingerprint}"
                self._stop_the_rest()

    def _stop_the_rest(self) -> None:
        for key, run in self._runs.items():
            if self._book.members[key].state != "usable":
                task = asyncio.create_task(_stop(run))
                self._stops.add(task)
                task.add_done_callback(self._stops.discard)

    def _hook(self, kind: hooks.Kind, member: Member, facts: Mapping[str, Any]) -> None:
        target = self._targets[member.key]
        for number, hook in enumerate(self._rules.hooks):
            if hook.kind == kind and member.run is not None:
                about = {
                    "host": member.host,
                    "instance_id": target.instance.instance_id,
                    "labels": dict(target.labels),
                }
                body = hooks.payload_of(kind, member.run, {**about, "fleet": self.name, **facts})
                delivery = hooks.deliver(hook, f"{member.run}:{kind}:{number}", body)
                self._deliveries.append(asyncio.create_task(delivery))

    def _note(self, member: Member, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(member, name, value)
        self._book.save()


async def _stop(run: Run) -> None:
    with suppress(ProvisionError, TimeoutError):  # its own watcher says what becomes of it
        await run.stop()


def worst(codes: Iterator[int | None] | Sequence[int | None]) -> int:
    """The exit code of a fleet. Instances that were held have none of their own."""
    known = [code for code in codes if code is not None]
    return min(known, key=lambda code: WORST_FIRST.index(code) if code in WORST_FIRST else 0, default=0)


def fingerprint(outcome: Mapping[str, Any]) -> str:
    """What went wrong, without what differs from machine to machine."""
    errors = outcome["errors"]
    first = next(
        (error for error in errors if error.get("level") == "critical"), errors[0] if errors else None
    )
    return (
        str(outcome["verdict"])
        if first is None
        else f"{outcome['verdict']}: {first['class']} {first['item']}"
    )


def read_targets(path: Path, login: Mapping[str, Any]) -> list[Target]:
    """The instances in a file: one address per line, or a YAML list of addresses and mappings.

    A mapping has `host` and may have `port user key instance_id labels`; *login* holds for what it leaves out.

    Raises:
        UsageError: the file cannot be read, or what stands at a place is no instance.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read `{path}`: {error}") from None
    first = next(
        (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), ""
    )
    if not first.lstrip().startswith(("- ", "[")) or re.match(r"\s*\[[0-9A-Fa-f:.%]+\](:\d+)?\s*$", first):
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        items: list[Any] = [line for line in lines if line]
    else:
        try:
            items = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"`{path}` is no YAML: {error}") from None
    if not items:
        raise UsageError(f"there is no instance in `{path}`", hint="write one `[USER@]HOST[:PORT]` per line")
    return [_target(item, f"{path}: item {number}", login) for number, item in enumerate(items, 1)]


def _target(item: Any, where: str, login: Mapping[str, Any]) -> Target:
    if isinstance(item, str):
        return Target(Instance.parse(item, **login))
    if not isinstance(item, dict) or not isinstance(item.get("host"), str) or set(item) - _MEMBER_KEYS:
        raise UsageError(
            f"{where} is no instance", hint=f"an address, or a mapping with {', '.join(sorted(_MEMBER_KEYS))}"
        )
    labels = {str(name): str(value) for name, value in (item.get("labels") or {}).items()}
    own = {name: item[name] for name in ("port", "user", "key") if name in item}
    if "instance_id" in item:
        own["instance_id"] = str(item["instance_id"])
    return Target(Instance.parse(item["host"], **{**login, **own}), labels)


def read_fleet(name: str) -> tuple[dict[str, Any], list[Member]]:
    """What is known of the fleet *name*: its facts and its instances. Raises UsageError when there is none."""
    data = _read(_path(name))
    if data is None:
        raise UsageError(f"there is no fleet `{name}` here", hint="`provision fleet status` lists them")
    return data, [Member(**member) for member in data["members"]]


def fleet_names() -> list[str]:
    """The fleets that this machine knows, the one that changed last first."""
    paths = sorted(_folder().glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.stem for path in paths]


class _Book:
    """The file of one fleet, replaced as a whole at every change."""

    def __init__(self, name: str, plan_hash: str, targets: Sequence[Target]) -> None:
        if not re.fullmatch(NAME_PATTERN, name):
            raise UsageError(f"`{name}` is no name of a fleet: letters, digits, `.`, `_`, `-`; 64 at most")
        self._path = _path(name)
        self._head = {"format": protocol.FORMAT, "fleet": name, "plan_hash": plan_hash}
        data = _read(self._path)
        is_same = data is not None and data.get("plan_hash") == plan_hash
        known = {member["key"]: Member(**member) for member in data["members"]} if data and is_same else {}
        keys = {key_of(target.instance): str(target.instance) for target in targets}
        self.members = {key: known.get(key) or Member(key, host) for key, host in keys.items()}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process off this fleet."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.save()
            yield
        except BlockingIOError:
            raise UsageError(
                f"another `provision fleet up` works on `{self._path.stem}`",
                hint="`provision fleet status` shows it; `--name` makes another fleet",
            ) from None
        finally:
            os.close(descriptor)

    def save(self) -> None:
        """Write what is known."""
        data = {**self._head, "members": [asdict(member) for member in self.members.values()]}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(data))
        temporary.chmod(0o600)
        temporary.replace(self._path)


def _folder() -> Path:
    return registry.state_directory() / "fleets"


def _path(name: str) -> Path:
    return _folder() / f"{name}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = dict(json.loads(path.read_text()))
        return (
            data
            if data["format"] in protocol.SUPPORTED_FORMATS and isinstance(data["members"], list)
            else None
        )
    except (OSError, ValueError, KeyError):
        return None
