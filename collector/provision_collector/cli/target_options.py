"""Options that describe a machine which packages are chosen for, where no instance is asked."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import click

from ..errors import UsageError
from .options import Option, P, R

if TYPE_CHECKING:
    from provision_agent.contract.environment_told import EnvironmentTarget
    from provision_agent.contract.plan import Plan

PLATFORMS = ("linux-x86_64", "linux-aarch64")


def _python(text: str) -> str:
    """The value of ``--python``."""
    return _matching(text, r"3\.\d{1,2}", "no version of Python: write `3.11`")


def _accelerator(text: str) -> str:
    """The value of ``--accelerator``."""
    return _matching(text, r"cpu|cu[0-9]{2,3}", "no build of torch: write `cu128` or `cpu`")


def _matching(text: str, pattern: str, problem: str) -> str:
    if not re.fullmatch(pattern, text):
        raise click.BadParameter(f"`{text}` is {problem}")
    return text


class TargetWords(NamedTuple):
    """What the options say."""

    python: str | None
    platform: str | None
    accelerator: str | None

    def target(self, plan: Plan, *, host: str | None) -> EnvironmentTarget | None:
        """The machine that is meant; None: none is named, or *plan* has no packages.

        Args:
            host: The instance that is asked, if one is.

        Raises:
            UsageError: half of it is missing, or an instance is asked as well.
        """
        from provision_agent.contract.environment_told import EnvironmentTarget

        if not any(self):
            return None
        if host:
            raise UsageError(
                "`--host` asks an instance what it is; `--python`, `--platform` and `--accelerator` say it",
                hint="leave out one or the other",
            )
        python = plan.python
        if python is None:
            return None
        has_torch = any(layer.torch is not None for layer in python.layers)
        missing = [] if self.python else ["`--python 3.11`"]
        if has_torch and not self.accelerator:
            missing.append("`--accelerator cu128` (or cpu)")
        if missing:
            raise UsageError(
                f"the machine is half described: {' and '.join(missing)} is missing", hint="add it"
            )
        return EnvironmentTarget(str(self.python), self.platform or PLATFORMS[0], self.accelerator or "cpu")


_OPTIONS: tuple[Option, ...] = (
    click.option(
        "--python",
        type=_python,
        metavar="VERSION",
        help="Choose packages for this Python, such as 3.11, where no instance is asked.",
    ),
    click.option("--platform", type=click.Choice(PLATFORMS), help="With --python: linux-x86_64 if left out."),
    click.option(
        "--accelerator",
        type=_accelerator,
        metavar="BUILD",
        help="With --python: the build of torch, such as cu128, or cpu.",
    ),
)


def target_options(command: Callable[P, R]) -> Callable[P, R]:
    """Add ``--python``, ``--platform`` and ``--accelerator``; the command gets them as *words*, `TargetWords`."""

    @functools.wraps(command)
    def gathered(*args: P.args, **kwargs: P.kwargs) -> R:
        found = [kwargs.pop(name) for name in ("python", "platform", "accelerator")]
        kwargs["words"] = TargetWords(*(None if word is None else str(word) for word in found))
        return command(*args, **kwargs)

    decorated: Callable[P, R] = gathered
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
