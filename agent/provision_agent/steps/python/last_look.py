"""What an environment was when all of it had just been looked at in full, and whether it is still that.

Names, sizes, times and numbers of all files in it, its interpreter, the driver and the cards of this instance, and what
was ordered: where all of that is as it was, nothing needs to be imported, probed or installed again. Whatever differs
is looked at in full. Where the look itself takes long, as over a network, there is no record, and every look is a full
one.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ...contract.parsing import ParseError, bounded, parse
from ...contract.plan import Layer, Python
from ...contract.plan_packages import CompiledPackage
from ...contract.steps import VERIFIED
from ...host.probe import normalised
from ...run.context import Context
from . import compiled, layer_record, packages, requirements
from . import venv as environments
from .venv import Venv

LOOK_S = 8.0
"""A look that takes longer is given up."""
LEVEL = packages.LEVEL
_LAYERS = "layers"
_KIND = "look"
_OF_MACHINE = ("gpus", "driver", "cuda")


@dataclass(frozen=True)
class _Kept:
    files: str = bounded("", max_chars=64)
    """Digest of all that was looked at."""
    orders: Dict[str, str] = bounded(factory=dict)
    """What was done, and the digest of its order: the layers as one, and each requirements file."""
    imports: Tuple[str, ...] = ()
    """Modules that could be imported."""


class Print(NamedTuple):
    """What an environment is: a digest, and how much it stands for."""

    digest: str
    packages: Mapping[str, str]
    """Version by normalised name, as the folders of metadata are called."""
    files: int


class LastLook:
    """What is known of one environment from an earlier look. Not for two threads at once."""

    def __init__(self, python: Python, venv: Venv, context: Context, found: Mapping[str, object]) -> None:
        """Look at the environment.

        Args:
            python: What is ordered.
            venv: The environment.
            context: Of the run.
            found: The instance's facts.
        """
        self._python = python
        self._venv = venv
        self._context = context
        self._machine = {name: found.get(name) for name in _OF_MACHINE}
        self._kept = self._read()
        known = self._kept.files
        self.print: Optional[Print] = self._look() if known and not venv.is_created else None
        self.is_unchanged = self.print is not None and self.print.digest == known
        """It is what it was. Another look in full makes no difference to that."""
        if not self.is_unchanged:
            self._kept = _Kept()
        self._is_stale = not self.is_unchanged

    def skips_layers(self) -> bool:
        """Report the layers as verified, where they are what was ordered and looked at before; False where not."""
        unwanted = {normalised(name) for name in self._python.remove}
        is_known = not self._is_stale and self._kept.orders.get(_LAYERS) == self._order_of_layers()
        if not is_known or self.print is None or not unwanted.isdisjoint(self.print.packages):
            return False
        for layer in self._python.layers:
            for title in packages.titles(layer):
                self._report(title, LEVEL)
        return True

    def skips(self, item: str, path: str, level: str) -> bool:
        """As `skips_layers` for the requirements file at *path*, which is called *item*."""
        if not self.knows(item, path):
            return False
        self._report(item, level)
        return True

    def knows(self, item: str, path: str) -> bool:
        """Is the requirements file at *path* what was installed as *item*, and nothing has changed since?"""
        return not self._is_stale and self._kept.orders.get(item, "") == self._order_of(path)

    def skips_compiled(self, package: CompiledPackage) -> bool:
        """As `skips_layers` for one compiled package."""
        item = compiled.item_of(package)
        if self._is_stale or self._kept.orders.get(item, "") != self._order_of_package(package):
            return False
        self._report(item, package.level)
        return True

    def did_compiled(self, package: CompiledPackage) -> None:
        """The wheel of *package* has just been installed, or looked at in full."""
        self._did(compiled.item_of(package), self._order_of_package(package))

    def has_imported(self, modules: Iterable[str]) -> bool:
        """True when all of *modules* could be imported, and nothing has changed since."""
        return not self._is_stale and set(modules) <= set(self._kept.imports)

    def did_layers(self) -> None:
        """The layers have just been installed, or looked at in full."""
        self._did(_LAYERS, self._order_of_layers())

    def did(self, item: str, path: str) -> None:
        """The requirements file at *path*, called *item*, has just been installed, or looked at in full."""
        self._did(item, self._order_of(path))

    def imported(self, modules: Iterable[str]) -> None:
        """*modules* have just been imported."""
        self._kept = replace(self._kept, imports=tuple(sorted({*self._kept.imports, *modules})))
        self._write()

    def touched(self) -> None:
        """The environment was changed outside of these orders."""
        self._kept = replace(self._kept, imports=())
        self._is_stale = True

    def renew(self) -> None:
        """Remember the environment as it is now: what was ordered of it has been done, or looked at, a moment ago."""
        if not self._is_stale:
            return
        self.print = self._look()
        digest, present = ("", {}) if self.print is None else (self.print.digest, self.print.packages)
        orders = {item: order for item, order in self._kept.orders.items() if self._holds(item, present)}
        self._kept = replace(self._kept, files=digest, orders=orders)
        self._is_stale = self.print is None
        self._write()

    def _order_of_package(self, package: CompiledPackage) -> str:
        return _digest([asdict(package), self._machine])

    def _holds(self, item: str, present: Mapping[str, str]) -> bool:
        """Is what *item* brought still there, at its versions? What came after it may have changed them."""
        titles = [title for layer in self._python.layers for title in packages.titles(layer)]
        items = titles if item == _LAYERS else [item]
        plain = {name: _plain(version) for name, version in present.items()}
        for each in items:
            record = layer_record.read(self._context, layer_record.key_of(self._venv.path, each))
            versions = {name: _plain(version) for name, version in record.versions.items()}
            if replace(record, versions=versions).lost(plain, map(normalised, self._python.remove)):
                return False
        return True

    def _did(self, item: str, order: str) -> None:
        self._kept = replace(self._kept, orders={**self._kept.orders, item: order})
        self._is_stale = True

    def _report(self, item: str, level: str) -> None:
        self._context.report("package_started", item=item, level=level)
        self._context.report("package_skipped", item=item, level=level, reason=VERIFIED)

    def _read(self) -> _Kept:
        try:
            return parse(_Kept, self._context.state.get(_KIND, self._venv.path) or {}, "the record")
        except ParseError:
            return _Kept()

    def _write(self) -> None:
        self._context.state.put(_KIND, self._venv.path, asdict(self._kept), sync=False)

    def _order_of_layers(self) -> str:
        return _digest([asdict(self._python), [self._texts(layer) for layer in self._python.layers]])

    def _texts(self, layer: Layer) -> str:
        if layer.requirements is None:
            return ""
        return self._order_of(os.path.join(self._context.workspace, layer.requirements))

    def _order_of(self, path: str) -> str:
        """What the requirements file at *path* orders of this environment."""
        try:
            text = requirements.read(path).digest
        except OSError:
            return "unreadable"
        return _digest([text, asdict(replace(self._python, layers=()))])

    def _look(self) -> Optional[Print]:
        return look(self._venv.path, self._machine, within_s=self._context.bounded(LOOK_S))


class EarlyLook:
    """A `LastLook` at the environment that is there, while somebody sees whether it can be used."""

    def __init__(self, python: Python, context: Context, found: Mapping[str, object]) -> None:
        """Begin. Arguments as for `LastLook`."""
        self._arguments = (python, context, found)
        self._looks: List[LastLook] = []
        self._venv = environments.find(python, context)
        self._thread = threading.Thread(target=self._look, name="look", daemon=True)
        self._thread.start()

    def at(self, venv: Venv) -> LastLook:
        """The look at *venv*, which was prepared meanwhile."""
        self._thread.join()
        if self._looks and venv == self._venv:
            return self._looks[0]
        python, context, found = self._arguments
        return LastLook(python, venv, context, found)

    def _look(self) -> None:
        python, context, found = self._arguments
        if self._venv is not None:
            self._looks.append(LastLook(python, self._venv, context, found))


def look(path: str, machine: Mapping[str, object], *, within_s: float) -> Optional[Print]:
    """What the environment at *path* is: all of its files but compiled ones, without reading them.

    Args:
        machine: What of this instance it depends on.

    Returns:
        None where it takes longer, or something cannot be looked at.
    """
    end = time.monotonic() + within_s
    digest = hashlib.sha256(json.dumps(machine, sort_keys=True, default=str).encode())
    python = os.path.join(path, "bin", "python")
    folders = glob.glob(os.path.join(glob.escape(path), "lib", "python3*", "site-packages"))
    if not folders:
        return None
    names: Dict[str, str] = {}
    files = 0
    try:
        for each in (os.path.realpath(python), os.path.join(path, "pyvenv.cfg")):
            digest.update(_line(each, os.stat(each)) if os.path.exists(each) else b"")
        while folders:
            folder = folders.pop()
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != "__pycache__":
                        folders.append(entry.path)
                    if entry.name.endswith(".dist-info"):
                        name, _, version = entry.name[: -len(".dist-info")].partition("-")
                        names[normalised(name)] = version
                elif not entry.name.endswith(".pyc"):
                    digest.update(_line(entry.path, entry.stat(follow_symlinks=False)))
                    files += 1
            if time.monotonic() > end:
                return None
    except OSError:
        return None
    return Print(digest.hexdigest(), names, files)


def _plain(version: str) -> str:
    """*version* as folders and metadata may both write it: ``2026.01.05`` is ``2026.1.5``."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", version.lower()).replace("_", "-")


def _line(path: str, found: os.stat_result) -> bytes:
    told = f"{found.st_size} {found.st_mtime_ns} {found.st_ino} {found.st_mode}"
    return os.fsencode(path) + f"\0{told}\n".encode()


def _digest(value: List[object]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
