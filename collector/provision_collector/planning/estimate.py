"""What a run would do, in bytes, disk, time and money; from a plan and what its sources said. Pure.

What is not known is None and counted, never guessed; a sum of which a part is not known is said to be the least. Time is
that of the line: what is fetched by how fast it comes, files and packages alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from provision_agent.contract.plan import Download, Plan
from provision_agent.contract.source_kinds import host_of

from ..files import Listing
from .answers import Source, Survey
from .packages import Packages, packages_of
from .secrets_wanted import Secret, Token, default_tokens, secrets_missing
from .sources import rows_of, worst
from .steps import Conditional, at_once, conditional_items, then

if TYPE_CHECKING:
    from provision_agent.contract.findings import ClashTold

MARGIN_SHARE = 0.01
MARGIN_BYTES = 64 << 20
"""What a run's preflight wants free besides the files themselves."""


@dataclass(frozen=True)
class File:
    """One download. `state`: fetch | there | partial | depends | skipped | unavailable; `missing_bytes` None: not known.

    `depends`: the instance decides whether it is wanted, and none was asked.
    """

    path: str
    item: str
    """As people call it: the path, or the folder and the source while no server has told a name."""
    key: str
    level: str
    host: str
    state: str
    size_bytes: int | None
    missing_bytes: int | None
    message: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Sent:
    """One upload: what it is made of on this machine. `message`: why it cannot be sent."""

    item: str
    level: str
    files: int
    bytes: int
    message: str = ""


@dataclass(frozen=True)
class Disk:
    """A file system by its folder, and what the run needs there, as far as that is known.

    `needed_bytes` None: of nothing that is to land there the size is known; `free_bytes` None: no instance was asked.
    """

    path: str
    needed_bytes: int | None
    free_bytes: int | None
    is_least: bool = False
    """Something of unknown size comes on top."""

    @property
    def is_too_small(self) -> bool:
        return self.free_bytes is not None and (self.needed_bytes or 0) > self.free_bytes


@dataclass(frozen=True)
class FailingRepo:
    """A repository that no source has, with what its URL said."""

    path: str
    level: str
    class_: str
    message: str


@dataclass(frozen=True)
class Estimate:
    """Everything that `provision plan` says."""

    name: str
    workspace: str
    plan_hash: str
    at_once: tuple[str, ...]
    """What overlaps; each entry is a chain of its own."""
    then: tuple[str, ...]
    """What comes after, in order."""
    files: tuple[File, ...]
    total_bytes: int | None
    fetch_bytes: int | None
    """Of files; None: the size of none that is to come is known."""
    there_bytes: int
    unknown_sizes: int
    depends_bytes: int
    """What some instances fetch besides `fetch_bytes`, at most."""
    critical_bytes: int | None
    """Of `fetch_bytes`: what must land before the instance is usable."""
    packages: Packages
    disks: tuple[Disk, ...]
    rate_bytes_per_s: float | None
    rate_is: str
    """given | measured | unknown"""
    usable_s: float | None
    complete_s: float | None
    is_least: bool
    """Something of unknown size comes on top of the bytes and of the time."""
    deadline_s: float
    """What the run may take as a whole."""
    price_per_hour: float | None
    cost: float | None
    secrets_missing: tuple[Secret, ...]
    default_secrets: tuple[Token, ...]
    """Those that are set."""
    uploads: tuple[Sent, ...]
    repos_failing: tuple[FailingRepo, ...]
    conditional: tuple[Conditional, ...]
    was_asked: bool
    exit_code: int
    """1: the disk is too small, or something critical cannot be had; 5: something required cannot be had; else 0."""

    @property
    def fits(self) -> bool | None:
        """Is there room on every disk? None where no instance was asked."""
        known = [disk for disk in self.disks if disk.free_bytes is not None]
        return not any(disk.is_too_small for disk in known) if known else None

    def to_json(self) -> dict[str, object]:
        failing = [
            {"path": repo.path, "level": repo.level, "class": repo.class_, "message": repo.message}
            for repo in self.repos_failing
        ]
        return {**asdict(self), "repos_failing": failing, "fits": self.fits}


def estimate_of(
    plan: Plan,
    surveyed: Survey | None,
    *,
    secrets: Iterable[str] = (),
    taken_from: Mapping[str, str] = MappingProxyType({}),
    rate_bytes_per_s: float | None = None,
    price_per_hour: float | None = None,
    uploads: Sequence[Listing] = (),
) -> Estimate:
    """Add it all up.

    Args:
        surveyed: What the sources said; None: nobody was asked. uploads: What this machine has of the plan's.
        secrets: The names of those that are set. taken_from: What the values of default ones are taken from, by name.
        rate_bytes_per_s: The line's speed; None: as measured, if it was. price_per_hour: In any currency.
    """
    wanted, known = "downloads" in plan.steps, frozenset(secrets)
    files = tuple(_file(plan, number, surveyed) for number in range(len(plan.downloads))) if wanted else ()
    conditional = tuple(conditional_items(plan, surveyed))
    coming = [file for file in files if file.state in ("fetch", "partial")]
    packages = packages_of(plan, surveyed)
    fetch_bytes, critical_bytes = _known_sum(coming), _known_sum(coming, "critical")
    is_least = any(file.size_bytes is None for file in coming) or packages.is_least
    disks = _disks(surveyed, plan, fetch_bytes, packages, is_least=is_least)
    measured = surveyed.rate_bytes_per_s if surveyed else None
    rate = _capped(rate_bytes_per_s or measured, plan)
    complete_s = _seconds([fetch_bytes, packages.fetch_bytes], rate)
    return Estimate(
        name=plan.name,
        workspace=surveyed.standing.workspace if surveyed and surveyed.standing else plan.workspace,
        plan_hash=plan.hash,
        at_once=tuple(at_once(plan, [file.state for file in files], conditional)),
        then=tuple(then(plan, conditional)),
        files=files,
        total_bytes=_sum([file.size_bytes for file in files if file.state not in ("skipped", "depends")]),
        fetch_bytes=fetch_bytes,
        there_bytes=sum(_there(file) for file in files),
        unknown_sizes=sum(file.size_bytes is None for file in coming),
        depends_bytes=_depends_bytes(files),
        critical_bytes=critical_bytes,
        packages=packages,
        disks=disks,
        rate_bytes_per_s=rate,
        rate_is="given" if rate_bytes_per_s else "measured" if measured else "unknown",
        usable_s=_seconds([critical_bytes, packages.fetch_bytes], rate),
        complete_s=complete_s,
        is_least=is_least,
        deadline_s=plan.limits.run_s,
        price_per_hour=price_per_hour,
        cost=_cost(price_per_hour, complete_s),
        secrets_missing=tuple(secrets_missing(plan.secrets, known, plan, surveyed)),
        default_secrets=tuple(default_tokens(plan.secrets, known, taken_from, surveyed)),
        uploads=tuple(_sent(plan, listing) for listing in uploads),
        repos_failing=tuple(_failing_repos(plan, surveyed)) if "repos" in plan.steps else (),
        conditional=conditional,
        was_asked=surveyed is not None,
        exit_code=_exit_code(plan, surveyed, files, disks, packages),
    )


def _capped(rate: float | None, plan: Plan) -> float | None:
    limit = plan.limits.rate_bytes_per_s
    return min(rate, float(limit)) if rate and limit else rate


def _sum(parts: Sequence[int | None]) -> int | None:
    """Of what is known; None where there is something, and nothing of it is."""
    known = [part for part in parts if part is not None]
    return sum(known) if known or not parts else None


def _known_sum(files: Sequence[File], *levels: str) -> int | None:
    files = [file for file in files if not levels or file.level in levels]
    return _sum([None if file.size_bytes is None else file.missing_bytes for file in files])


def _seconds(bytes_: Sequence[int | None], rate: float | None) -> float | None:
    """How long the known ones of *bytes_* take, nothing no time; None where that says nothing."""
    known = _sum(bytes_)
    if known is None or (not known and None in bytes_):
        return None
    return 0.0 if not known else None if rate is None else known / rate


def _cost(price_per_hour: float | None, seconds: float | None) -> float | None:
    return None if price_per_hour is None or seconds is None else price_per_hour * seconds / 3600


def _exit_code(
    plan: Plan,
    surveyed: Survey | None,
    files: Iterable[File],
    disks: Iterable[Disk],
    packages: Packages,
) -> int:
    if any(disk.is_too_small for disk in disks):
        return 1
    rows = rows_of(plan, surveyed) if surveyed is not None else []
    good = {(row.kind, row.key) for row in rows if row.is_ok}
    good.update(("download", file.key) for file in files if file.state in ("there", "skipped"))
    lacking = [row.level for row in rows if f"{row.kind}s" in plan.steps and (row.kind, row.key) not in good]
    return worst([*lacking, *packages.levels_lacking])


# -- files


def _sent(plan: Plan, listing: Listing) -> Sent:
    item = plan.uploads[listing.source.position]
    why = "" if listing.failure is None else listing.failure.message
    return Sent(item.label, item.level, listing.count, listing.bytes, why)


def _file(plan: Plan, number: int, surveyed: Survey | None) -> File:
    item = plan.downloads[number]
    sources = surveyed.downloads[number] if surveyed else ()
    own = sources[: 1 + len(item.mirrors)]
    good = next((source for source in own if source.is_ok), None)
    if good is None and item.substitute is not None and sources and sources[-1].is_ok and not _may_work(own):
        return _substituted(item, own[0], sources[-1])
    size = item.size_bytes if item.size_bytes is not None else (good.size_bytes if good else None)
    name = (good.name or "") if good and item.path.endswith("/") else ""
    about = {
        "path": item.path + name,
        "item": item.path + name if name else item.label,
        "key": item.key,
        "level": item.level,
        "host": host_of(good.url if good else item.url),
    }
    standing = surveyed.standing if surveyed else None
    clash = next((each for each in standing.clashes if _is_of(each, number)), None) if standing else None
    if clash is not None:
        return File(**about, state="unavailable", size_bytes=size, missing_bytes=0, message=clash.message)
    if standing and standing.unmet[number]:
        return File(
            **about, state="skipped", size_bytes=size, missing_bytes=0, message=str(standing.unmet[number])
        )
    have = standing.present[number] if standing else None
    if have and have.state == "there":
        return File(**about, state="there", size_bytes=size or have.size_bytes, missing_bytes=0)
    missing = have.missing_bytes if have and size is not None else size
    if own and good is None and not _may_work(own):
        bad = own[0]
        return File(
            **about, state="unavailable", size_bytes=size, missing_bytes=0, message=bad.message, hint=bad.hint
        )
    unsure = own[0].message if own and good is None else ""
    if item.when is not None and standing is None:
        message = "; ".join(filter(None, (f"only when {item.when.text()}", unsure)))
        return File(**about, state="depends", size_bytes=size, missing_bytes=missing, message=message)
    state = "partial" if have and have.state == "partial" else "fetch"
    return File(**about, state=state, size_bytes=size, missing_bytes=missing, message=unsure)


def _is_of(clash: ClashTold, number: int) -> bool:
    return clash.step == "downloads" and number in clash.numbers


def _depends_bytes(files: Iterable[File]) -> int:
    """Of variants of one file there comes one at most."""
    most: dict[str, int] = {}
    for file in files:
        if file.state == "depends":
            most[file.key] = max(most.get(file.key, 0), file.size_bytes or 0)
    return sum(most.values())


def _substituted(item: Download, refused: Source, instead: Source) -> File:
    assert item.substitute is not None
    return File(
        path=item.substitute.path,
        item=item.substitute.path,
        key=item.key,
        level=item.level,
        host=host_of(instead.url),
        state="fetch",
        size_bytes=instead.size_bytes,
        missing_bytes=instead.size_bytes,
        message=f"the substitute of `{item.label}`, which is {refused.class_.replace('_', ' ')}",
    )


def _may_work(sources: Sequence[Source]) -> bool:
    """A source that could not be reached just now is no proof that a run would fail."""
    return any(source.failure is not None and source.failure.is_retriable for source in sources)


def _there(file: File) -> int:
    if file.state in ("skipped", "unavailable", "depends") or file.size_bytes is None:
        return 0
    return file.size_bytes - (file.missing_bytes or 0)


def _disks(
    surveyed: Survey | None, plan: Plan, fetch_bytes: int | None, packages: Packages, *, is_least: bool
) -> tuple[Disk, ...]:
    if surveyed and surveyed.standing:
        return tuple(
            Disk(
                disk.path,
                None if is_least and not disk.needed_bytes else disk.needed_bytes,
                disk.free_bytes,
                is_least,
            )
            for disk in surveyed.standing.disks
        )
    wanted = _sum([fetch_bytes, packages.disk_bytes])
    if not wanted and is_least:
        return (Disk(plan.workspace, None, None, is_least),)
    needed = int(wanted * (1 + MARGIN_SHARE)) + MARGIN_BYTES if wanted else 0
    return (Disk(plan.workspace, needed, None, is_least),)


# -- what stands in the way


def _failing_repos(plan: Plan, surveyed: Survey | None) -> Iterable[FailingRepo]:
    for repo, sources in zip(plan.repos, surveyed.repos if surveyed else (), strict=False):
        if not any(source.is_ok for source in sources):
            yield FailingRepo(repo.path, repo.level, sources[0].class_, sources[0].message)
