"""Which files of this machine the uploads of a profile mean. No instance has a say in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provision_agent.contract.parsing import bounded
from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_files import Upload

from ..errors import ProfileError, UsageError

if TYPE_CHECKING:
    from ..profile import Profile
    from .tree import Listing


@dataclass(frozen=True)
class UploadSource:
    """One upload of a plan, as this machine has it. It is kept in the record of the run, so that `attach` can go on."""

    position: int = bounded(low=0)
    """In the plan's `uploads`."""
    source: str = bounded(max_chars=8192)
    """The absolute path here."""
    path: str = bounded(max_chars=8192)
    """Where it goes, as the plan says."""
    level: str = "required"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    where: str = bounded("", max_chars=8192)
    """In the profile: file, line and column."""

    @property
    def item(self) -> str:
        """What both sides call it on the wire."""
        return str(self.position)


def sources_of(profile: Profile, plan: Plan) -> tuple[UploadSource, ...]:
    """The files of this machine that a run of *plan*, made of *profile*, sends.

    A relative `from` is relative to the file of the profile that says it.
    """
    if "uploads" not in plan.steps:
        return ()
    return tuple(
        _source(plan, position, *_place(profile, plan.uploads[position]))
        for position in range(len(plan.uploads))
    )


def sources_within(plan: Plan, folder: Path | None) -> tuple[UploadSource, ...]:
    """As `sources_of`, for a plan of somebody else: only what lies below *folder*, and relative to it.

    Raises:
        UsageError: something else is named; the same words whether it exists or not.
    """
    if "uploads" not in plan.steps or not plan.uploads:
        return ()
    if folder is None:
        raise UsageError(
            "this server sends no files of its own", hint="start it with `provision serve --uploads DIR`"
        )
    return tuple(
        _source(plan, position, _inside(folder, position, item.from_), "")
        for position, item in enumerate(plan.uploads)
    )


def refuse_missing(sources: Sequence[UploadSource]) -> tuple[Listing, ...]:
    """Look at what *sources* are made of. It blocks as long as the disk does.

    Raises:
        ProfileError: one that is not optional cannot be sent.
    """
    from .tree import list_all

    listings = tuple(list_all(sources))
    problems = [
        f"{listing.source.where}: {listing.failure.message}"
        for listing in listings
        if listing.failure is not None and listing.source.level != "optional"
    ]
    if problems:
        raise ProfileError(problems)
    return listings


def without_local_files(plan: Plan) -> None:
    """Raises UsageError where *plan* has uploads and nothing here says where they lie."""
    if "uploads" in plan.steps and plan.uploads:
        raise UsageError(
            f"the plan `{plan.name}` has uploads, and a plan does not say where they lie on this machine",
            hint="start it from its profile",
        )


def _source(plan: Plan, position: int, source: Path, where: str) -> UploadSource:
    item = plan.uploads[position]
    return UploadSource(position, str(source), item.path, item.level, item.include, item.exclude, where)


def _place(profile: Profile, item: Upload) -> tuple[Path, str]:
    """Where *item* lies here, and where the profile says so."""
    from ..profile.paths import comparable  # with it come a profile's models, which a run's record needs not

    nodes = [each for each in profile.tree.section("uploads") if each.text("from") == item.from_]
    named = [each for each in nodes if comparable(each.text("path") or "") == item.path]
    mark = (named or nodes)[0].mark_of("from")
    base = Path(mark.file).parent
    path = Path(os.path.abspath(base / os.path.expanduser(item.from_)))
    return path, f"{mark.file}:{mark.line}:{mark.column}"


def _inside(folder: Path, position: int, source: str) -> Path:
    root = Path(os.path.realpath(folder))
    path = Path(os.path.realpath(root / source))
    is_plain = not source.startswith(("/", "~")) and ".." not in source.split("/")
    if not is_plain or not path.is_relative_to(root) or not path.exists():
        raise UsageError(
            f"`uploads[{position}].from` names nothing that this server sends",
            hint="name a file or folder below the one of `provision serve --uploads DIR`, relative to it, without `..`",
        )
    return path
