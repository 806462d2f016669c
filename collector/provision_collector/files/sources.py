"""Which files of this machine the uploads of a profile mean. No instance has a say in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provision_agent.contract.parsing import bounded
from provision_agent.contract.plan import Plan

from ..errors import ProfileError, UsageError
from ..profile import Profile
from ..profile.tree import Node, Problem


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

    @property
    def item(self) -> str:
        """What both sides call it on the wire."""
        return str(self.position)


def sources_of(profile: Profile, plan: Plan, *, within: Path | None = None) -> tuple[UploadSource, ...]:
    """The files of this machine that a run of *plan*, made of *profile*, sends.

    Args:
        within: Only what lies below this folder, and there relative to it: the profile is somebody else's. None: a
            relative path is relative to the file that says it.

    Raises:
        ProfileError: a `from` names what is not *within*; the same words whether it exists or not.
    """
    if "uploads" not in plan.steps or not plan.uploads:
        return ()
    marks = {item.text("path"): item for item in profile.tree.section("uploads")}
    found, problems = [], []
    for position, item in enumerate(plan.uploads):
        node = next(
            (each for each in profile.tree.section("uploads") if _is_of(each, item.from_, item.path)),
            marks.get(item.path),
        )
        base = Path(node.mark_of("from").file).parent if node is not None else Path()
        try:
            source = _inside(within, item.from_) if within is not None else _absolute(base, item.from_)
        except ValueError as error:
            assert node is not None
            problems.append(str(Problem(node.mark_of("from"), str(error))))
            continue
        found.append(UploadSource(position, str(source), item.path, item.level, item.include, item.exclude))
    if problems:
        raise ProfileError(problems)
    return tuple(found)


def without_local_files(plan: Plan) -> None:
    """Raises UsageError where *plan* has uploads and nothing here says where they lie."""
    if "uploads" in plan.steps and plan.uploads:
        raise UsageError(
            f"the plan `{plan.name}` has uploads, and a plan does not say where they lie on this machine",
            hint="start it from its profile",
        )


def _is_of(node: Node, source: str, path: str) -> bool:
    told = node.text("path") or ""
    return node.text("from") == source and told.rstrip("/").split("/")[-1] == path.rstrip("/").split("/")[-1]


def _absolute(base: Path, source: str) -> Path:
    path = Path(os.path.expanduser(source))
    return Path(os.path.abspath(base / path))


def _inside(within: Path, source: str) -> Path:
    message = f"`{source}` is not below the folder of the server's `--uploads`: write it relative to that, without `..`"
    if source.startswith(("/", "~")) or ".." in source.split("/"):
        raise ValueError(message)
    root = Path(os.path.realpath(within))
    path = Path(os.path.realpath(root / source))
    if not path.is_relative_to(root) or not path.exists():
        raise ValueError(message)
    return path


def positions(sources: Sequence[UploadSource]) -> dict[str, UploadSource]:
    """By what both sides call them."""
    return {source.item: source for source in sources}
