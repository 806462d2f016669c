"""What a run found as an earlier one left it, and what it looked at to know: for people. Pure."""

from __future__ import annotations

from typing import Dict, List, NamedTuple

from ..contract.status import RunState
from ..contract.steps import VERIFIED


class Counted(NamedTuple):
    """How many items were found as they were."""

    repositories: int
    files: int
    services: int


def counted(state: RunState, services: int) -> Counted:
    """What the events of a run say so far, and *services* that ran before and went on."""

    def verified(group: str) -> int:
        return sum(item.text("reason") == VERIFIED for item in state.items[group].values())

    return Counted(verified("repos"), verified("downloads"), services)


def told(found: Counted, *, packages: int, package_files: int) -> Dict[str, object]:
    """The fields of the event ``unchanged``."""
    names = {
        "package": packages,
        "repository": found.repositories,
        "file": found.files,
        "service": found.services,
    }
    what = [_text(name, number) for name, number in names.items() if number]
    how: List[str] = []
    if package_files:
        how.append(f"size and time of all {package_files} files of the packages")
    if found.repositories:
        how.append("HEAD and every tracked file of the repositories")
    if found.files:
        how.append("size and time of the files")
    if found.services:
        how.append("the process of the service and its answer")
    return {
        "message": f"{', '.join(what)} unchanged: looked at {', '.join(how)}",
        "packages": packages,
        "package_files": package_files,
        "repositories": found.repositories,
        "files": found.files,
        "services": found.services,
    }


def _text(name: str, number: int) -> str:
    plural = f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"
    return f"{number} {name if number == 1 else plural}"
