"""A profile's lock: exactly which bytes a run may bring, whatever names move meanwhile.

A lock fits the profile that it was made from. If the two no longer agree on what is wanted, it is refused as a
whole; it never falls back to the profile for a single file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from provision_agent.contract.environment_told import LineLeftOut
from provision_agent.contract.plan import Download, Plan, Python, Repo
from provision_agent.contract.redaction import public_url
from provision_agent.contract.source_kinds import means_many_files
from pydantic import Field, ValidationError

from ..errors import ProfileError
from . import lock_wheels
from .answers import Source, Survey
from .lock_wheels import LockPart as _Part
from .lock_wheels import WheelSet

T = TypeVar("T")

INSTALLERS = frozenset(("pip", "setuptools", "wheel", "uv"))
"""They install the environment; they are no part of what it is for."""


class LockedFile(_Part):
    """One download. `item` and `asked` say which entry of the profile it pins."""

    item: str
    asked: str
    path: str
    url: str
    mirrors: tuple[str, ...] = ()
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class LockedRepo(_Part):
    """One checkout, at one commit."""

    path: str
    asked: str
    ref: str | None = None
    commit: str = Field(pattern="^[0-9a-f]{40}$")


class LeftOut(_Part):
    """An optional item that nothing pinned down: a locked run goes without it."""

    kind: Literal["download", "repo", "requirement"]
    path: str
    asked: str
    ref: str | None = None
    message: str = ""


class Lock(_Part):
    """Everything that a locked run may bring. Of format 2 since it holds wheels; 1 is read as well."""

    format: Literal[1, 2] = 1
    profile: str
    downloads: tuple[LockedFile, ...]
    repos: tuple[LockedRepo, ...]
    packages: tuple[str, ...] = ()
    """``name==version``, as they stood in an environment; without the part after ``+``, which is the card's matter."""
    environment: WheelSet | None = None
    """The wheels, and for which machine; a lock without them pins no more than versions."""
    left_out: tuple[LeftOut, ...] = ()

    def to_text(self) -> str:
        """The lock as a file that people may compare line by line."""
        empty = {name for name in ("left_out", "environment") if not getattr(self, name)}
        facts = self.model_dump(exclude=empty)
        return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"

    @property
    def warnings(self) -> list[str]:
        """What a locked run goes without, one sentence each."""
        return [f"the lock leaves `{each.path}` out: {each.message}" for each in self.left_out]


@dataclass(frozen=True)
class Unpinned:
    """Something that nothing pins down, and why. `wanted` None: it is a package."""

    item: str
    message: str
    wanted: Download | Repo | None = None

    @property
    def level(self) -> str:
        """Its level; packages are critical."""
        return "critical" if self.wanted is None else self.wanted.level

    @property
    def is_optional(self) -> bool:
        """A lock may be made without it."""
        return self.level == "optional"

    def left_out(self) -> LeftOut:
        """How a lock says that it goes without the item."""
        wanted = self.wanted
        return LeftOut(
            kind="repo" if isinstance(wanted, Repo) else "download",
            path=wanted.path if wanted is not None else self.item,
            asked=wanted.url if wanted is not None else "",
            ref=wanted.ref if isinstance(wanted, Repo) else None,
            message=self.message,
        )


def lock_path(profile: str) -> Path:
    """Where the lock of *profile* lies: beside its file; a built-in one's in this folder."""
    path = Path(profile)
    is_file = "/" in profile or profile.endswith((".yaml", ".yml"))
    return path.with_name(f"{path.stem}.lock.json") if is_file else Path(f"{profile}.lock.json")


def make_lock(plan: Plan, surveyed: Survey) -> tuple[Lock, list[Unpinned]]:
    """Pin *plan* by what its sources said, and first of all by what stands on the instance, if one was asked.

    Returns:
        The lock of all that could be pinned, and what could not: the lock is good only if that is all optional.
    """
    unpinned: list[Unpinned] = []
    files = [_file(item, number, surveyed, unpinned) for number, item in enumerate(plan.downloads)]
    met = _meeting(plan, files)
    files = [
        None if any(item is each.wanted for each in met) else file
        for item, file in zip(plan.downloads, files, strict=True)
    ]
    unpinned += met
    repos = [_repo(repo, number, surveyed, unpinned) for number, repo in enumerate(plan.repos)]
    environment, lacking = lock_wheels.wheel_set(plan, surveyed.environment)
    unpinned += [Unpinned(item, message) for item, message in lacking]
    packages = _packages(plan, surveyed) if environment is None else environment.versions
    left_out = [each.left_out() for each in unpinned if each.is_optional]
    if surveyed.environment is not None and environment is not None:
        left_out += map(_line_left_out, surveyed.environment.left_out)
    return (
        Lock(
            format=1 if environment is None else 2,
            profile=plan.name,
            downloads=tuple(file for file in files if file is not None),
            repos=tuple(repo for repo in repos if repo is not None),
            packages=packages,
            environment=environment,
            left_out=tuple(left_out),
        ),
        unpinned,
    )


def _line_left_out(line: LineLeftOut) -> LeftOut:
    where = f"{line.file}:{line.line}" if line.line else line.file
    return LeftOut(kind="requirement", path=where, asked=line.text, message=line.message)


def read_lock(path: Path) -> Lock:
    """Read what `Lock.to_text` wrote.

    Raises:
        ProfileError: it is not there, or something else.
    """
    try:
        return Lock.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ProfileError(
            [f"{path}:1:1: cannot read the lock: {error.strerror}; `provision lock` makes one"]
        ) from None
    except ValidationError as error:
        problems = [
            f"{path}:1:1: {'.'.join(map(str, problem['loc'])) or 'the lock'}: {problem['msg'].lower()}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise ProfileError(problems) from None


def apply_lock(plan: Plan, lock: Lock, *, where: Path) -> Plan:
    """*plan* with every source, size, hash, commit and package version as *lock* has them, without substitutes and without
    the optional items that the lock leaves out.

    Raises:
        ProfileError: the two do not agree on what is wanted; every difference.
    """
    plan = _without(plan, lock)
    files = {(file.item, file.asked): file for file in lock.downloads}
    repos = {(repo.path, repo.asked, repo.ref): repo for repo in lock.repos}
    wanted_files = {(item.path, item.url) for item in plan.downloads}
    wanted_repos = {(repo.path, repo.url, repo.ref) for repo in plan.repos}
    problems = [
        *(f"`{path}` from {url} is not in the lock" for path, url in sorted(wanted_files - files.keys())),
        *(f"`{path}` is in the lock, not in the profile" for path, _ in sorted(files.keys() - wanted_files)),
        *(f"the repo `{key[0]}` at `{key[2]}` is not in the lock" for key in wanted_repos - repos.keys()),
        *(f"the repo `{key[0]}` is in the lock, not in the profile" for key in repos.keys() - wanted_repos),
        *(
            f"`{item.path}`: the profile's sha256 or size is not the lock's"
            for item in plan.downloads
            if not _agrees(item, files.get((item.path, item.url)))
        ),
        *(lock_wheels.differences(plan, lock.environment) if lock.environment is not None else ()),
    ]
    if problems:
        raise ProfileError(
            [f"{where}:1:1: {problem}; make the lock anew: `provision lock`" for problem in problems]
        )
    return replace(
        plan,
        downloads=tuple(_locked(item, files[(item.path, item.url)]) for item in plan.downloads),
        repos=tuple(replace(repo, ref=repos[(repo.path, repo.url, repo.ref)].commit) for repo in plan.repos),
        python=None if plan.python is None else _locked_python(plan.python, lock),
    )


def lock_problems(profile: str, plan: Plan) -> tuple[Path, list[str]] | None:
    """The lock of *profile*, and why `up --locked` would refuse it for *plan*; None where there is no lock."""
    path = lock_path(profile)
    if not path.exists():
        return None
    try:
        apply_lock(plan, read_lock(path), where=path)
    except ProfileError as error:
        return path, list(error.problems)
    return path, []


def _locked_python(python: Python, lock: Lock) -> Python:
    wheels = None if lock.environment is None else lock.environment.in_plan()
    return replace(python, versions=lock.packages, locked=wheels)


def _without(plan: Plan, lock: Lock) -> Plan:
    """*plan* without what the lock leaves out, as far as that is still optional."""
    out = {(each.kind, each.path, each.asked, each.ref) for each in lock.left_out}
    return replace(
        plan,
        downloads=tuple(
            item
            for item in plan.downloads
            if item.level != "optional" or ("download", item.path, item.url, None) not in out
        ),
        repos=tuple(
            repo
            for repo in plan.repos
            if repo.level != "optional" or ("repo", repo.path, repo.url, repo.ref) not in out
        ),
    )


def _agrees(item: Download, file: LockedFile | None) -> bool:
    if file is None:
        return True  # said as missing already
    return item.sha256 in (None, file.sha256) and item.size_bytes in (None, file.size)


def _locked(item: Download, file: LockedFile) -> Download:
    return replace(
        item,
        url=file.url,
        path=file.path,
        mirrors=file.mirrors,
        size_bytes=file.size,
        sha256=file.sha256,
        substitute=None,
    )


def _file(item: Download, number: int, surveyed: Survey, unpinned: list[Unpinned]) -> LockedFile | None:
    if means_many_files(item.url):
        unpinned.append(
            Unpinned(item.label, f"a lock pins single files: list those of {item.url} that you need", item)
        )
        return None
    sources = surveyed.downloads[number][: 1 + len(item.mirrors)]
    here = surveyed.standing.present[number] if surveyed.standing else None
    good = [source for source in sources if source.is_ok]
    learnt = here.sha256 if here is not None else None
    standing = learnt if here is not None and here.state == "there" else None
    sha256 = item.sha256 or standing or _first(source.sha256 for source in good) or learnt
    size = item.size_bytes
    if size is None and here is not None and here.sha256 == sha256:
        size = here.size_bytes
    fitting = [source for source in good if source.sha256 in (None, sha256)]
    if size is None:
        size = _first(source.size_bytes for source in fitting)
    is_damaged = here is not None and here.state == "other"
    problem = _problem(item, sources, sha256, size, good, fitting, is_damaged=is_damaged)
    name = _first(source.name for source in fitting) or ""
    if problem is None and item.path.endswith("/") and not name:
        problem = "no source tells its name"
    if problem is not None:
        unpinned.append(Unpinned(item.label, problem, item))
        return None
    assert sha256 is not None and size is not None
    urls = [
        source.pinned_url or url
        for url, source in zip((item.url, *item.mirrors), sources, strict=True)
        if not source.is_ok or source in fitting
    ]
    return LockedFile(
        item=item.path,
        asked=item.url,
        path=item.path + name if item.path.endswith("/") else item.path,
        url=urls[0],
        mirrors=tuple(dict.fromkeys(urls[1:])),
        size=size,
        sha256=sha256,
    )


def _meeting(plan: Plan, files: Sequence[LockedFile | None]) -> list[Unpinned]:
    """Files of one final name that are not the same: no run can bring both."""
    first: dict[str, tuple[Download, LockedFile]] = {}
    found: list[Unpinned] = []
    for item, file in zip(plan.downloads, files, strict=True):
        if file is None:
            continue
        holder, other = first.setdefault(file.path, (item, file))
        if other.sha256 != file.sha256:
            message = (
                f"{public_url(other.asked)} and {public_url(file.asked)} both lead to `{file.path}`, "
                "and are not the same file: give each a `path` of its own that ends in a file name"
            )
            found += [Unpinned(file.path, message, each) for each in (holder, item)]
    return found


def _problem(
    item: Download,
    sources: Iterable[Source],
    sha256: str | None,
    size: int | None,
    good: list[Source],
    fitting: list[Source],
    *,
    is_damaged: bool,
) -> str | None:
    if good and not fitting:
        return f"its sources have another sha256 ({(good[0].sha256 or '')[:12]}…) than the one wanted ({str(sha256)[:12]}…)"
    if sha256 is not None and size is not None:
        return None
    if not good and item.sha256 is None:
        return next(iter(sources)).message
    what = "sha256" if sha256 is None else "size"
    if is_damaged:
        return f"no source tells its {what}, and the file that is there is not what was brought: `provision audit --repair` mends it"
    return f"no source tells its {what}: write it into the profile, or lock from an instance that has the file (`--host`)"


def _packages(plan: Plan, surveyed: Survey) -> tuple[str, ...]:
    if plan.python is None or surveyed.standing is None:
        return ()
    installed = surveyed.standing.installed
    return tuple(
        f"{name}=={version.partition('+')[0]}"
        for name, version in sorted(installed.items())
        if name not in INSTALLERS
    )


def _repo(repo: Repo, number: int, surveyed: Survey, unpinned: list[Unpinned]) -> LockedRepo | None:
    sources = surveyed.repos[number]
    here = surveyed.standing.commits[number] if surveyed.standing else ""
    commit = here or _first(source.commit for source in sources if source.is_ok)
    if commit is None or len(commit) != 40:
        unpinned.append(Unpinned(repo.path, sources[0].message or f"`{repo.ref}` is no whole commit", repo))
        return None
    return LockedRepo(path=repo.path, asked=repo.url, ref=repo.ref, commit=commit)


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value not in (None, "")), None)
