"""What a run would do, in bytes, disk, time and money; from a plan and what its sources said. Pure.

What is not known is None and counted, never guessed. Time is that of the downloads, which outlast the rest of
nearly every run; nothing here pretends to know how long packages take to install.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

from provision_agent.contract.findings import ClashTold
from provision_agent.contract.plan import Download, Plan
from provision_agent.contract.plan_parts import SecretRule
from provision_agent.contract.source_kinds import host_of

from ..files import Listing
from .answers import Source, Survey
from .steps import Conditional, at_once, conditional_items, then

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
    """A file system by its folder, and what the run needs there; `free_bytes` None: no instance was asked."""

    path: str
    needed_bytes: int
    free_bytes: int | None

    @property
    def is_too_small(self) -> bool:
        return self.free_bytes is not None and self.needed_bytes > self.free_bytes


@dataclass(frozen=True)
class FailingRepo:
    """A repository that no source has, with what its URL said."""

    path: str
    level: str
    class_: str
    message: str


@dataclass(frozen=True)
class Secret:
    """A secret that is wanted and not set, and whom it would be sent to."""

    name: str
    aliases: tuple[str, ...]
    hosts: tuple[str, ...]
    files: tuple[str, ...]
    """Those that were refused for want of it, as far as anybody asked."""


@dataclass(frozen=True)
class Token:
    """A default secret that is set, and whom it may be sent to."""

    name: str
    hosts: tuple[str, ...]
    taken_from: str
    """The variable or the file that holds it."""
    is_wanted: bool | None
    """Something was refused without it; None: nobody was asked."""


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
    total_bytes: int
    fetch_bytes: int
    there_bytes: int
    unknown_sizes: int
    depends_bytes: int
    """What some instances fetch besides `fetch_bytes`, at most."""
    critical_bytes: int
    """Of `fetch_bytes`: what must land before the instance is usable."""
    disks: tuple[Disk, ...]
    rate_bytes_per_s: float | None
    rate_is: str
    """given | measured | unknown"""
    usable_s: float | None
    complete_s: float | None
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
        surveyed: What the sources said; None: nobody was asked.
        secrets: The names of those that are set.
        taken_from: What the values of default ones are taken from, by name.
        rate_bytes_per_s: The line's speed; None: as measured, if it was.
        price_per_hour: What the instance costs, in any currency. uploads: What this machine has of the plan's.
    """
    wanted, known = "downloads" in plan.steps, frozenset(secrets)
    files = tuple(_file(plan, number, surveyed) for number in range(len(plan.downloads))) if wanted else ()
    conditional = tuple(conditional_items(plan, surveyed))
    coming = [file for file in files if file.state in ("fetch", "partial")]
    fetch_bytes = sum(file.missing_bytes or 0 for file in coming)
    critical_bytes = sum(file.missing_bytes or 0 for file in coming if file.level == "critical")
    measured = surveyed.rate_bytes_per_s if surveyed else None
    rate = rate_bytes_per_s or measured
    if rate and plan.limits.rate_bytes_per_s:
        rate = min(rate, float(plan.limits.rate_bytes_per_s))
    complete_s = fetch_bytes / rate if rate else None
    return Estimate(
        name=plan.name,
        workspace=surveyed.standing.workspace if surveyed and surveyed.standing else plan.workspace,
        plan_hash=plan.hash,
        at_once=tuple(at_once(plan, [file.state for file in files], conditional)),
        then=tuple(then(plan, conditional)),
        files=files,
        total_bytes=sum(file.size_bytes or 0 for file in files if file.state not in ("skipped", "depends")),
        fetch_bytes=fetch_bytes,
        there_bytes=sum(_there(file) for file in files),
        unknown_sizes=sum(file.size_bytes is None and file.state in ("fetch", "partial") for file in files),
        depends_bytes=_depends_bytes(files),
        critical_bytes=critical_bytes,
        disks=_disks(surveyed, plan, fetch_bytes),
        rate_bytes_per_s=rate,
        rate_is="given" if rate_bytes_per_s else "measured" if measured else "unknown",
        usable_s=critical_bytes / rate if rate else None,
        complete_s=complete_s,
        deadline_s=plan.limits.run_s,
        price_per_hour=price_per_hour,
        cost=price_per_hour * complete_s / 3600
        if price_per_hour is not None and complete_s is not None
        else None,
        secrets_missing=tuple(_missing(plan.secrets, known, plan, surveyed)),
        default_secrets=tuple(_tokens(plan.secrets, known, taken_from, surveyed)),
        uploads=tuple(_sent(plan, listing) for listing in uploads),
        repos_failing=tuple(_failing_repos(plan, surveyed)) if "repos" in plan.steps else (),
        conditional=conditional,
        was_asked=surveyed is not None,
    )


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


def _disks(surveyed: Survey | None, plan: Plan, fetch_bytes: int) -> tuple[Disk, ...]:
    if surveyed and surveyed.standing:
        return tuple(Disk(disk.path, disk.needed_bytes, disk.free_bytes) for disk in surveyed.standing.disks)
    needed = int(fetch_bytes * (1 + MARGIN_SHARE)) + MARGIN_BYTES if fetch_bytes else 0
    return (Disk(plan.workspace, needed, None),)


# -- what stands in the way


def _tokens(
    rules: Iterable[SecretRule],
    known: frozenset[str],
    taken_from: Mapping[str, str],
    surveyed: Survey | None,
) -> Iterable[Token]:
    for rule in rules:
        if rule.is_default and rule.name in known:
            is_wanted = rule.name in surveyed.secrets_wanted if surveyed else None
            yield Token(rule.name, rule.hosts, taken_from.get(rule.name, ""), is_wanted)


def _missing(
    rules: Iterable[SecretRule], known: frozenset[str], plan: Plan, surveyed: Survey | None
) -> Iterable[Secret]:
    for rule in rules:
        if rule.name in known or (
            rule.is_default and (not surveyed or rule.name not in surveyed.secrets_wanted)
        ):
            continue
        refused = [
            item.label
            for item, sources in zip(plan.downloads, surveyed.downloads if surveyed else (), strict=False)
            if any(_wants_secret(source) and host_of(source.url) in rule.hosts for source in sources)
            and not any(source.is_ok for source in sources)
        ]
        yield Secret(rule.name, rule.aliases, rule.hosts, tuple(refused))


def _wants_secret(source: Source) -> bool:
    return source.failure is not None and source.failure.next == "fix_credentials"


def _failing_repos(plan: Plan, surveyed: Survey | None) -> Iterable[FailingRepo]:
    for repo, sources in zip(plan.repos, surveyed.repos if surveyed else (), strict=False):
        if not any(source.is_ok for source in sources):
            yield FailingRepo(repo.path, repo.level, sources[0].class_, sources[0].message)
