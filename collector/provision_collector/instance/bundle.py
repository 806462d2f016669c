"""The agent as one file: a zip archive that python3 runs, byte-identical for identical sources."""

from __future__ import annotations

import hashlib
import io
import py_compile
import struct
import threading
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import MAGIC_NUMBER, cache_from_source
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
    """Pack the installed agent, once. Each module has been compiled, so that a broken one never leaves this machine."""
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
            if not _has_been_compiled(file):
                _compile(file, source, name)
            _add(archive, name, source)
    return Bundle(out.getvalue(), hashlib.sha256(out.getvalue()).hexdigest())


def _has_been_compiled(file: Path) -> bool:
    """Does python's own cache hold *file* as it is now?"""
    try:
        head, found = Path(cache_from_source(str(file))).read_bytes()[:16], file.stat()
    except (OSError, NotImplementedError):
        return False
    told = struct.pack("<III", 0, int(found.st_mtime) & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF)
    return head == MAGIC_NUMBER + told


def _compile(file: Path, source: bytes, name: str) -> None:
    """Compile *source*, and have python's cache remember it where that can be written. Raises SyntaxError."""
    compile(source, name, "exec")
    with suppress(OSError, py_compile.PyCompileError, NotImplementedError):
        py_compile.compile(str(file), doraise=True, quiet=2)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    archive.writestr(entry, data)
