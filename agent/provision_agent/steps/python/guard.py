"""Keeps protected packages at their version while everything else is installed around them.

Two lines of defence: the versions are constraints of every later install, and after each one versions and files are
looked at again, because an install script obeys no constraint; what was harmed is restored and the culprit named.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, Set

from ...contract.failures import Failure
from ...contract.plan import Python
from ...host import answers, probe
from ...host.probe import normalised
from ...run.context import Context
from ..progress import Progress
from . import torch
from .installer import Installer

LOOK_S = 60.0


class Guard:
    """What is protected in one environment. A layer that names a package first may still choose its version."""

    def __init__(self, python: Python, tools: Installer, context: Context) -> None:
        self._tools = tools
        self._context = context
        self._protected = {normalised(name) for name in python.protect}
        self._from_torch = {
            name for layer in python.layers if layer.torch is not None for name in torch.names(layer.torch)
        }
        self._protected.update(self._from_torch)
        self._chosen: Set[str] = set()
        self._damage_before: Dict[str, List[str]] = {}

    def constraints(self, named: Iterable[str] = ()) -> Dict[str, str]:
        """Versions that an install may not change, when it names *named* itself. Call it right before the install."""
        free = set(named) - self._chosen
        installed = self._tools.installed()
        held = {name: installed[name] for name in self._protected - free if name in installed}
        self._damage_before = self._damage(held)
        return held

    def missing(self) -> Set[str]:
        """What the torch layer of the plan was to bring and has not: it failed, and nothing else may bring it."""
        return self._from_torch.difference(self._tools.installed())

    def chose(self, named: Iterable[str]) -> None:
        """A layer that names *named* is done: from now on these are held."""
        self._chosen.update(named)

    def check(self, held: Mapping[str, str], culprit: str, progress: Progress, *, level: str) -> None:
        """See that *held* is still true after *culprit* was installed, and restore what is not.

        Raises:
            Failure: `conflict` when it cannot be restored.
        """
        harmed = self._harmed(held)
        if not harmed:
            return
        what = f"{culprit} {', '.join(harmed.values())}"
        self._context.report("warning", message=f"{what}: restoring")
        requirements = [f"{name}=={held[name]}" for name in harmed]
        try:
            for options, group in torch.groups(requirements, self._context, self._tools.venv.path):
                self._tools.install(
                    ["--force-reinstall", "--no-deps", *options, *group],
                    progress,
                    item=culprit,
                    level=level,
                    constraints={},
                )
        except Failure as failure:
            raise Failure("conflict", f"{what}, and it cannot be restored: {failure.message}") from None
        if self._harmed(held):
            raise Failure("conflict", f"{what}, and restoring did not help")

    def _harmed(self, held: Mapping[str, str]) -> Dict[str, str]:
        """What happened to each of *held* that is not as it was."""
        installed = self._tools.installed()
        harmed = {
            name: f"replaced {name} {version} by {installed.get(name, 'nothing')}"
            for name, version in held.items()
            if installed.get(name) != version
        }
        for name, files in self._damage([name for name in held if name not in harmed]).items():
            new = [file for file in files if file not in self._damage_before.get(name, [])]
            if new:
                harmed[name] = f"changed {name} {held[name]} ({new[0]})"
        return harmed

    def _damage(self, names: Iterable[str]) -> Dict[str, List[str]]:
        """Files of *names* that are not as their install left them."""
        wanted = sorted(names)
        if not wanted:
            return {}
        damage = probe.ask(
            self._tools.venv.python,
            answers.Damage,
            *wanted,
            timeout_s=self._context.bounded(LOOK_S),
            cancelled=self._context.cancelled,
        )
        return {name: [*harm.missing, *harm.changed] for name, harm in damage.harmed.items()}
