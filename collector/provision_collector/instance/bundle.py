"""The agent as one file: a zip archive that python3 runs, byte-identical for identical sources."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import provision_agent

_building = threading.Lock()
_MAIN = b"import sys\nfrom provision_agent.__main__ import main\nsys.exit(main())\n"


@dataclass(frozen=True)
class Bundle:
    """The archive's bytes and their sha256, hex."""

    data: bytes
    sha256: str


def build_bundle() -> Bundle:
    """Pack the installed agent, once. Each module is compiled first, so that a broken one never leaves this machine."""
    with _building:  # many runs begin at once: one of them builds, in a thread that holds the interpreter
        return _build()


@cache
def _build() -> Bundle:
    root = Path(provision_agent.__file__).parent
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "__main__.py", _MAIN)
        for file in sorted(root.rglob("*.py")):
            name = f"provision_agent/{file.relative_to(root).as_posix()}"
            source = file.read_bytes().replace(b"\r\n", b"\n")
            compile(source, name, "exec")
            _add(archive, name, source)
    return Bundle(out.getvalue(), hashlib.sha256(out.getvalue()).hexdigest())


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    archive.writestr(entry, data)
