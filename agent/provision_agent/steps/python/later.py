"""What of an environment nothing that is usable waits for: compiled packages that are not critical, each by itself."""

from __future__ import annotations

import functools
from typing import Callable, Mapping, Optional, Protocol, Sequence

from ...contract.plan import Plan
from ...contract.plan_packages import CompiledPackage
from ...run.context import Context
from . import compiled, packages
from .last_look import LastLook
from .locked_install import LockedInstalls
from .venv import Venv


class Attempt(Protocol):
    """Do the work of an item of a step and count it; True when it is there."""

    def __call__(
        self, step: str, item: str, level: str, kind: str, work: Callable[[], object], /
    ) -> bool: ...


def install(
    plan: Plan,
    levels: Sequence[str],
    venv: Venv,
    context: Context,
    found: Mapping[str, object],
    attempt: Attempt,
    *,
    by_lock: Optional[LockedInstalls] = None,
    known: Optional[LastLook] = None,
) -> None:
    """Install the compiled packages of *levels*, which their layers have left for later.

    Args:
        found: The instance's facts.
        attempt: Does each, and counts it.
        by_lock: As for `packages.install`.
        known: What is known of the environment from an earlier look.
    """
    python = plan.python

    def work(package: CompiledPackage) -> None:
        assert python is not None
        if known is not None and not plan.repair and known.skips_compiled(package):
            return
        packages.install_compiled(package, venv, context, python, found, by_lock=by_lock)
        if known is not None:
            known.did_compiled(package)

    for each in compiled.of_plan(plan, levels):
        attempt("python", compiled.item_of(each), each.level, "package", functools.partial(work, each))
