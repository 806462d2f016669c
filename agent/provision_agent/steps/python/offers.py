"""What is installed, offered to a resolver as it is: a folder of wheels that hold nothing but their metadata.

An image's own torch is on no index; a resolver that reads indexes only would call everything that needs it impossible,
or replace it. Nothing is ever installed from here.
"""

from __future__ import annotations

import glob
import os
import re
import threading
import zipfile
from typing import Dict, List, Mapping, Optional
from urllib.parse import unquote, urlsplit

from ...contract.pylock import LockedFile
from ...host import answers, probe
from ...host.probe import normalised
from ...run.context import Context

LOOK_S = 30.0
METADATA_BYTES = 4 << 20
_VERSION = re.compile(r"[0-9][0-9A-Za-z.!]*(\+[0-9A-Za-z.]+)?")
_HEADERS = ("name:", "version:", "requires-dist:", "requires-python:", "provides-extra:", "metadata-version:")


class Offers:
    """The folder of one environment, brought up to date when it is asked for. Safe to use from several threads.

    Args:
        python: Of the environment.
        context: Of the run.
        name: Of the folder, in that of the run.
    """

    def __init__(self, python: str, context: Context, *, name: str) -> None:
        self._python = python
        self._context = context
        self._folder = os.path.join(context.run_directory, name)
        self._lock = threading.Lock()
        self._made: Dict[str, str] = {}
        self._sites: Optional[List[str]] = None

    def folder(self, installed: Mapping[str, str]) -> Optional[str]:
        """Where there is a wheel for each of *installed* (version by name); None: of none.

        What is not there yet, and only will be, is offered as if it needed nothing.
        """
        if not installed:
            return None
        with self._lock:
            os.makedirs(self._folder, exist_ok=True)
            for name in [name for name in self._made if self._made[name] != installed.get(name)]:
                self._remove(name, self._made.pop(name))
            metadata = self._metadata() if set(installed) - set(self._made) else {}
            for name, version in installed.items():
                if name not in self._made and _VERSION.fullmatch(version):
                    bare = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
                    self._make(name, version, metadata.get((name, version), bare))
                    self._made[name] = version
        return self._folder

    def is_one(self, wheel: LockedFile) -> bool:
        """Is *wheel* one of these?"""
        path = wheel.path or unquote(urlsplit(wheel.url or "").path)
        return os.path.dirname(os.path.realpath(path)) == os.path.realpath(self._folder)

    def _make(self, name: str, version: str, metadata: str) -> None:
        stem = f"{name.replace('-', '_')}-{version}"
        with zipfile.ZipFile(os.path.join(self._folder, f"{stem}-py3-none-any.whl"), "w") as archive:
            archive.writestr(f"{stem}.dist-info/METADATA", metadata)
            wheel = "Wheel-Version: 1.0\nGenerator: provision\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            archive.writestr(f"{stem}.dist-info/WHEEL", wheel)
            archive.writestr(f"{stem}.dist-info/RECORD", "")

    def _remove(self, name: str, version: str) -> None:
        try:
            os.unlink(os.path.join(self._folder, f"{name.replace('-', '_')}-{version}-py3-none-any.whl"))
        except OSError:
            pass

    def _metadata(self) -> "Dict[tuple[str, str], str]":
        """What each distribution says of itself, by name and version, without its description."""
        if self._sites is None:
            limit = self._context.bounded(LOOK_S)
            told = probe.ask(
                self._python, answers.Interpreter, timeout_s=limit, cancelled=self._context.cancelled
            )
            self._sites = list(told.site_packages)
        found: Dict[tuple[str, str], str] = {}
        for site in self._sites:
            for path in sorted(glob.glob(os.path.join(glob.escape(site), "*.dist-info", "METADATA"))):
                text = _read(path)
                fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
                name, version = fields.get("Name", ""), fields.get("Version", "")
                found.setdefault((normalised(name), version), text)
        return found


def _read(path: str) -> str:
    """The lines of the metadata at *path* that say what it is and needs."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            head = file.read(METADATA_BYTES).split("\n\n", 1)[0]
    except OSError:
        return ""
    kept = [line for line in head.splitlines() if line.lower().startswith(_HEADERS)]
    return "\n".join(kept) + "\n"
