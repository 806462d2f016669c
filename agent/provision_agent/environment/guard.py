"""Keeps protected packages at their version while everything else is installed around them.

Two lines of defence: the versions are constraints of every later install, and after each one they are looked at
again, because an install script obeys no constraint; what was replaced is restored and the culprit named.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, Sequence, Set

from ..context import Context
from ..failures import Failure
from ..plan import Python
from . import torch
from .installer import Installer
from .probe import normalised
from .progress import Progress


class Guard:
    """What is protected in one environment. A layer that names a package first may still choose its version."""

    def __init__(self, python: Python, tools: Installer, context: Context) -> None:
        self._tools = tools
        self._context = context
        self._protected = {normalised(name) for name in python.protect}
        for layer in python.layers:
            if layer.torch is not None:
                self._protected.update(torch.names(layer.torch))
        self._chosen: Set[str] = set()

    def constraints(self, named: Iterable[str] = ()) -> Dict[str, str]:
        """Versions that an install may not change, when it names *named* itself."""
        free = set(named) - self._chosen
        installed = self._tools.installed()
        return {name: installed[name] for name in self._protected - free if name in installed}

    def chose(self, named: Iterable[str]) -> None:
        """A layer that names *named* is done: from now on these are held."""
        self._chosen.update(named)

    def check(self, held: Mapping[str, str], culprit: str, progress: Progress, *, level: str) -> None:
        """See that *held* is still true after *culprit* was installed, and restore what is not.

        Raises:
            Failure: `conflict` when it cannot be restored.
        """
        replaced = self._replaced(held)
        if not replaced:
            return
        names = ", ".join(f"{name} {held[name]} by {found}" for name, found in replaced.items())
        self._context.report("warning", message=f"{culprit} replaced {names}: restoring")
        requirements = [f"{name}=={held[name]}" for name in replaced]
        try:
            for options, group in self._groups(requirements):
                self._tools.install(
                    ["--force-reinstall", "--no-deps", *options, *group],
                    progress,
                    item=culprit,
                    level=level,
                    constraints={},
                )
        except Failure as failure:
            raise Failure(
                "conflict", f"{culprit} replaced {names}, and it cannot be restored: {failure.message}"
            ) from None
        still = self._replaced(held)
        if still:
            raise Failure("conflict", f"{culprit} replaced {names}, and restoring did not help")

    def _replaced(self, held: Mapping[str, str]) -> Dict[str, str]:
        installed = self._tools.installed()
        return {
            name: installed.get(name, "nothing")
            for name, version in held.items()
            if installed.get(name) != version
        }

    def _groups(self, requirements: Sequence[str]) -> List["tuple[List[str], List[str]]"]:
        """The torch family comes from its own index again, everything else from the usual one."""
        options, names = torch.recorded_index(self._context, self._tools.venv.path)
        from_torch = [requirement for requirement in requirements if requirement.split("==")[0] in names]
        others = [requirement for requirement in requirements if requirement not in from_torch]
        return [(o, group) for o, group in ((options, from_torch), ([], others)) if group]
