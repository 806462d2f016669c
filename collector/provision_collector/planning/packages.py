"""What a run's packages are, in numbers: as they were chosen for an instance or a target, as locked, or not known. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from provision_agent.contract.environment_told import EnvironmentTold
from provision_agent.contract.plan import Plan

from .answers import Survey

NOT_ASKED = "nobody was asked"
WHICH_MACHINE = "they depend on the machine: ask with `--host`, or name it with `--python 3.11 --platform linux-x86_64 --accelerator cu128`"


@dataclass(frozen=True)
class Packages:
    """All packages of the environment. What is None is not known; what is there already counts in `present` only."""

    basis: str
    """resolved | locked | unknown | none"""
    target: str
    """What they were chosen for, as people read it."""
    count: int | None
    present: int
    fetch_bytes: int | None
    unpacked_bytes: int | None
    unknown_sizes: int
    torch: str
    message: str
    """Why they are not known, or cannot be had."""
    left_out: tuple[str, ...]
    """Lines of repositories' requirements that a run goes without, and why."""
    levels_lacking: tuple[str, ...]
    """The levels of what cannot be had."""

    @property
    def disk_bytes(self) -> int | None:
        """While they are installed: the wheels, and what is in them."""
        if self.fetch_bytes is None or self.unpacked_bytes is None:
            return None
        return self.fetch_bytes + self.unpacked_bytes

    @property
    def is_least(self) -> bool:
        """There are packages of unknown size."""
        return self.basis == "unknown" or bool(self.unknown_sizes)


NONE = Packages("none", "", 0, 0, 0, 0, 0, "", "", (), ())


def packages_of(plan: Plan, surveyed: Survey | None) -> Packages:
    """What *plan* brings, as far as anybody said."""
    python = plan.python
    if python is None or "python" not in plan.steps:
        return NONE
    told = surveyed.environment if surveyed is not None else None
    lacking = _lacking(surveyed)
    if told is not None and told.basis != "unknown":
        return _known(told, _compiled_lacking(surveyed))
    if told is None and python.locked is not None:
        wheels, locked = python.locked.wheels, python.locked
        sizes = [wheel.size_bytes for wheel in wheels if wheel.size_bytes is not None]
        rooms = [wheel.unpacked_bytes for wheel in wheels if wheel.unpacked_bytes is not None]
        told = EnvironmentTold(
            "locked",
            locked.python,
            locked.platform,
            locked.accelerator,
            count=len(wheels),
            fetch_bytes=sum(sizes),
            unpacked_bytes=sum(rooms),
            unknown_sizes=len(wheels) - min(len(sizes), len(rooms)),
        )
        return _known(told, lacking)
    lacking += _compiled_lacking(surveyed)
    message = NOT_ASKED if surveyed is None else WHICH_MACHINE
    if told is not None:
        message = told.message or message
        lacking = (*lacking, told.level) if told.class_ else lacking
    target = _target(told) if told is not None else ""
    return Packages("unknown", target, None, 0, None, None, 0, "", message, (), lacking)


def _known(told: EnvironmentTold, lacking: tuple[str, ...]) -> Packages:
    return Packages(
        basis=told.basis,
        target=_target(told),
        count=told.count,
        present=told.present,
        fetch_bytes=told.fetch_bytes,
        unpacked_bytes=told.unpacked_bytes,
        unknown_sizes=told.unknown_sizes,
        torch=told.torch,
        message="",
        left_out=tuple(
            f"{each.file}:{each.line}: {each.text}: {each.message}"
            if each.line
            else f"{each.file}: {each.message}"
            for each in told.left_out
        ),
        levels_lacking=lacking,
    )


def _target(told: EnvironmentTold) -> str:
    parts = [f"Python {told.python}" if told.python else "", told.platform, told.accelerator]
    return ", ".join(part for part in parts if part and part != "none")


def _lacking(surveyed: Survey | None) -> tuple[str, ...]:
    """The levels of what the indexes lack for certain, where they were asked one by one."""
    rows = surveyed.standing.packages if surveyed is not None and surveyed.standing is not None else ()
    return tuple(row.level for row in rows if not row.chosen and row.is_certain and not row.present)


def _compiled_lacking(surveyed: Survey | None) -> tuple[str, ...]:
    """The levels of the compiled packages that have no wheel for certain."""
    rows = surveyed.standing.compiled if surveyed is not None and surveyed.standing is not None else ()
    return tuple(row.level for row in rows if not row.chosen and row.is_certain)
