"""Which environment a plan means here, and the version of Python that it has or would be made with.

Cheap: names and small files are read, no interpreter is started.
"""

from __future__ import annotations

import glob
import os
import re
from typing import Optional, Tuple

from ..contract.failures import Failure
from ..contract.findings import Facts
from ..contract.plan import Python
from ..host import environments
from .context import Context

OLDEST_WELCOME = (3, 10)
"""Today's torch wheels need this much; an older interpreter is taken only where there is no newer one."""
_CONFIGURATION_CHARS = 64 << 10


def path_meant(python: Python, context: Context, facts: Facts) -> str:
    """The environment that is meant; with `auto` the first on a GPU that has torch may do, and then needs nothing."""
    if python.venv != "auto":
        return os.path.join(context.workspace, os.path.expanduser(python.venv))
    chosen = (context.state.get("venv", "auto") or {}).get("path")
    ready = (venv.path for venv in facts.venvs if venv.torch and venv.is_writable and facts.gpus)
    return str(chosen or next(ready, os.path.join(context.workspace, "venv")))


def base_python(facts: Facts) -> str:
    """The agent's own interpreter when it is new enough for today's wheels, else the newest that is there.

    Raises:
        Failure: there is none.
    """
    if not facts.pythons:
        raise Failure("command", "no python3 was found", case="no_base_python")
    welcome = [found for found in facts.pythons if numbers(found.version)[:2] >= OLDEST_WELCOME]
    return (welcome or facts.pythons)[0].path


def version_meant(python: Optional[Python], context: Context, facts: Facts) -> str:
    """The version of Python in the plan's environment, or of the one that it would be made with; empty: not known."""
    if python is not None:
        found = version_in(path_meant(python, context, facts))
        if found is not None:
            return found
    try:
        base = base_python(facts)
    except Failure:
        return ""
    return next(each.version for each in facts.pythons if each.path == base)


def version_in(path: str) -> Optional[str]:
    """The version of the interpreter of the environment at *path*; None where there is none."""
    if not os.path.exists(environments.interpreter_of(path)):
        return None
    try:
        with open(os.path.join(path, "pyvenv.cfg"), encoding="utf-8", errors="replace") as file:
            text = file.read(_CONFIGURATION_CHARS)
    except OSError:
        text = ""
    told = re.search(r"^\s*version(?:_info)?\s*=\s*([0-9]+(?:\.[0-9]+){1,2})", text, re.MULTILINE)
    if told is not None:
        return told[1]
    place = glob.escape(path)
    records = glob.glob(os.path.join(place, "conda-meta", "python-[0-9]*.json"))
    folders = glob.glob(os.path.join(place, "lib", "python[0-9]*"))
    names = [
        re.match(r"python-?([0-9]+(?:\.[0-9]+){1,2})", os.path.basename(each))
        for each in (*records, *folders)
    ]
    return next((name[1] for name in names if name is not None), None)


def numbers(version: str) -> Tuple[int, ...]:
    """The numbers of *version*, up to the first that is none."""
    found = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
