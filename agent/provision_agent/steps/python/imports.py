"""A check that imports modules, and the ladder that is climbed when it cannot: what a layer should have brought is mended.

First what the packages' own records say is damaged is installed again, by its bytes; then the layers that should have
brought the missing module are installed as if no run had done it. Each rung is climbed once in a run.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from ...contract.failures import Failure
from ...contract.plan import Check, Python
from ...host.answers import Harm
from ...run.context import Context
from ..progress import Progress
from . import layer_record, packages, repair, requirements, torch
from . import venv as environments
from .installer import Installer
from .venv import Venv

_MISSING = re.compile(r"No module named '([^']+)'")

Look = Callable[[Check, Context, Optional[Venv]], None]


class Ladder:
    """What one run may still do about imports that fail."""

    def __init__(self, python: Python, venv: Venv, context: Context, found: Mapping[str, object]) -> None:
        self._python = python
        self._venv = venv
        self._context = context
        self._found = found
        self._rungs: List[Callable[[Check, Failure], bool]] = [self._restore, self._install_anew]
        self.climbed = 0
        """How many rungs were climbed, whether that helped or not."""

    def look(self, check: Check, look: Look, context: Context) -> None:
        """Have *look* do *check*, again after each rung that changed something; only the last answer is reported.

        Raises:
            Failure: of the check.
        """
        told: List[Tuple[str, Dict[str, object]]] = []
        heard = replace(context, report=lambda event, **fields: told.append((event, fields)))
        failure: Optional[Failure] = None
        while True:
            told.clear()
            try:
                look(check, heard, self._venv)
                failure = None
            except Failure as error:
                failure = error
            if failure is None or not self._climb(check, failure):
                break
        for event, fields in told:
            context.report(event, **fields)
        if failure is not None:
            raise failure

    def _climb(self, check: Check, failure: Failure) -> bool:
        """Go up until a rung has changed something; False when none is left."""
        while self._rungs and not self._context.is_over():
            rung = self._rungs.pop(0)
            self.climbed += 1
            try:
                if rung(check, failure):
                    return True
            except Failure as error:
                self._context.report("warning", message=f"{check.name}: {failure.message}; {error.message}")
        return False

    def _restore(self, check: Check, failure: Failure) -> bool:
        """Install again what is not as its install left it. An image's own packages are as they are."""
        with packages.one_at_a_time(self._context):
            tools = Installer(self._python, self._venv, self._context)
            harmed = self._ours(tools.harmed(reads_bytes=True))
            if harmed:
                with Progress(self._context, repair.ITEM, packages.LEVEL) as progress:
                    repair.restore(
                        harmed, tools, self._context, progress, item=repair.ITEM, level=packages.LEVEL
                    )
        return bool(harmed)

    def _ours(self, harmed: Mapping[str, Harm]) -> Dict[str, Harm]:
        records = layer_record.all_of(self._context)
        accepted = {name for record in records for name in record.harmed}
        brought = {name for record in records for name in record.brought}
        is_ours = environments.is_ours(self._venv.path, self._context)
        return {
            name: harm
            for name, harm in harmed.items()
            if name not in accepted and (is_ours or name in brought)
        }

    def _install_anew(self, check: Check, failure: Failure) -> bool:
        """Install the layers as if no run had, where one of them should have brought the module that is not there."""
        missing = [name.split(".")[0] for name in _MISSING.findall(failure.message)]
        own = {module.split(".")[0] for module in check.imports}
        if not any(name not in own or self._is_of_a_layer(name) for name in missing):
            return False
        for layer in self._python.layers:
            key = layer_record.key_of(self._venv.path, packages.title(layer))
            self._context.state.forget("layer", key)
        packages.install(self._python, self._venv, self._context, self._found)
        return True

    def _is_of_a_layer(self, module: str) -> bool:
        wanted = requirements.distributions_of(module)
        return bool(wanted.intersection(self._named(self._python)))

    def _named(self, python: Python) -> Iterable[str]:
        names: Set[str] = set()
        for layer in python.layers:
            names.update(requirements.names_of(layer.packages))
            names.update(torch.names(layer.torch) if layer.torch is not None else ())
            if layer.requirements is not None:
                names.update(requirements.names_in(self._context.workspace, layer.requirements))
        return names
