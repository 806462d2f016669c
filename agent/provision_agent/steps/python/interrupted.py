"""What was being put in place when the agent died: it is looked at before anybody believes that it is installed.

An installer leaves a package's metadata before its last file, so that a half-installed one looks installed.
"""

from __future__ import annotations

from typing import Iterable, List

from ...host import answers, probe
from ...host.probe import normalised
from ...run.context import Context

KIND = "installing"
LOOK_S = 120.0


def begin(context: Context, python: str, names: Iterable[str]) -> None:
    """*names* are about to be installed for the interpreter *python*."""
    before = names_left(context, python)
    context.state.put(KIND, python, {"names": sorted({*before, *map(normalised, names)})})


def end(context: Context, python: str, names: Iterable[str]) -> None:
    """*names* are installed, or have been looked at."""
    left = sorted(set(names_left(context, python)) - set(map(normalised, names)))
    if left:
        context.state.put(KIND, python, {"names": left})
    else:
        context.state.forget(KIND, python)


def names_left(context: Context, python: str) -> List[str]:
    """What was being installed for *python* when nobody said that it is."""
    names = (context.state.get(KIND, python) or {}).get("names")
    return [str(name) for name in names] if isinstance(names, list) else []


def not_whole(context: Context, python: str) -> List[str]:
    """Those of `names_left` that are there and lack something, or have a file that is not as it should be."""
    names = names_left(context, python)
    if not names:
        return []
    limit = context.bounded(LOOK_S)
    told = probe.ask(python, answers.Damage, *names, timeout_s=limit, cancelled=context.cancelled)
    return sorted(name for name, harm in told.harmed.items() if harm.missing or harm.changed)
