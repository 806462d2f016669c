"""uv on this machine: it chooses the packages of a plan that is locked or estimated without an instance.

It is taken from PATH, else as the package `uv` of this Python, else fetched once into this user's cache by this
Python's pip. It only reads what indexes say: nothing is built or installed here.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from ..errors import ProvisionError

FETCH_S = 300.0
HINT = "install it as https://docs.astral.sh/uv says, or: python3 -m pip install uv"


def find_uv(*, may_fetch: bool = True) -> str:
    """The path of uv, fetched if it is not here.

    Args:
        may_fetch: Else a uv that is not here is an error.

    Raises:
        ProvisionError: it is not here, and cannot be had.
    """
    import platformdirs  # it wants POSIX modules, which a command that asks nobody does without

    kept = Path(platformdirs.user_cache_path("provision")) / "tools"
    found = shutil.which("uv") or _of_this_python() or shutil.which(str(kept / "bin" / "uv"))
    if found:
        return found
    if not may_fetch:
        raise ProvisionError("uv, which chooses the packages, is not on this machine", hint=HINT)
    return _fetched(kept)


def _of_this_python() -> str | None:
    """The program of the package `uv`, which another Python's folder for programs may hold."""
    if importlib.util.find_spec("uv") is None:
        return None
    folders = [
        sysconfig.get_path("scripts"),
        os.path.join(sys.prefix, "bin"),
        os.path.dirname(sys.executable),
    ]
    return next(filter(None, (shutil.which("uv", path=folder) for folder in folders)), None)


def _fetched(folder: Path) -> str:
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    options = ["--only-binary", ":all:", "--no-deps", "--upgrade", "--target", str(folder), "uv"]
    try:
        done = subprocess.run(
            [*pip, *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_S,
            check=False,
        )
        why = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    found = shutil.which(str(folder / "bin" / "uv"))
    if found is None:
        raise ProvisionError(
            f"uv, which chooses the packages, is not on this machine and cannot be fetched: {why or 'pip brought none'}",
            hint=HINT,
        )
    return found
