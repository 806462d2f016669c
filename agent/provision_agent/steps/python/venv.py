"""The virtual environment: found when one suits, made when none does, mended when it is half there.

Whatever `prepare` returns has an interpreter that runs, and pip or uv to install with.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from ...contract.failures import Failure
from ...contract.findings import Facts
from ...contract.parsing import parse
from ...contract.plan import Python
from ...host import answers, environments, probe, process
from ...host.environments import interpreter_of
from ...run.context import Context
from ...run.interpreters import base_python
from ...run.writing import folder_at
from .. import orphans, remove_tree
from ..progress import Progress
from . import images

ITEM = "venv"
LEVEL = "critical"
PROBE_S = 30.0
CREATE_S = 300.0
NO_PIP = "it has no pip"


@dataclass(frozen=True)
class Venv:
    """An environment that can be used. `is_created`: this run made it."""

    path: str
    python: str
    is_created: bool
    told: Dict[str, answers.Interpreter] = field(default_factory=dict, compare=False, repr=False)
    """What `python` said of itself, by its path: asked once in a run, and again where it is made again."""


def prepare(
    python: Python,
    context: Context,
    found: Mapping[str, object],
    *,
    before_making: Optional[Callable[[Venv], object]] = None,
) -> Venv:
    """Find or make the environment that *python* asks for.

    ``auto`` takes the one that an earlier run took, else one whose torch already runs on this GPU, else
    ``<workspace>/venv``; a path is taken as it is, and made when it is not there.

    Args:
        found: The instance's facts.
        before_making: Told of one that is not there and is about to be made; its python is the one it is made with.

    Raises:
        Failure: `command` when it cannot be made (a missing venv module is named with the command that installs it),
            `conflict` when the path holds something else, `unsafe_path` when a link of a repository leads it out.
    """
    facts = parse(Facts, found, "facts")
    context.report("package_started", item=ITEM, level=LEVEL)
    started = time.monotonic()
    with Progress(context, ITEM, LEVEL) as progress:
        path = _chosen(python, context, facts, progress)
        _require_own_place(path, context)
        needs_pip = not _uses_uv(python, facts)
        problem = health(path, context, needs_pip=needs_pip)
        if problem == NO_PIP and not (is_ours(path, context) or path == _default(context)):
            problem = images.add_pip(path, base_python(facts), context, progress)
            if problem is not None:
                raise Failure("command", f"{path}: {problem}", case="no_pip", about={"path": path})
        if problem is None:
            _refuse_read_only(path, python)
            context.state.put("venv", path, _record(context, path, is_ours=is_ours(path, context)))
            context.report("package_skipped", item=ITEM, level=LEVEL, reason="verified")
            return Venv(path, interpreter_of(path), False)
        if os.path.lexists(path) and os.listdir(path):
            _clear(path, problem, context, progress)
        if before_making is not None:
            before_making(Venv(path, base_python(facts), True))
        make(path, context, facts, progress, needs_pip=needs_pip)
    context.report(
        "package_finished", item=ITEM, level=LEVEL, duration_s=round(time.monotonic() - started, 3)
    )
    return Venv(path, interpreter_of(path), True)


def find(python: Python, context: Context) -> Optional[Venv]:
    """The environment that `prepare` made or chose before, as it is; None when there is none. Changes nothing."""
    path = _given(python, context) or _remembered(context) or os.path.join(context.workspace, "venv")
    return Venv(path, interpreter_of(path), False) if os.path.exists(interpreter_of(path)) else None


def is_ours(path: str, context: Context) -> bool:
    """True when a run made *path*: then it may be made again, an image's own may not."""
    record = context.state.get("venv", path)
    return record is not None and bool(record.get("is_ours"))


def is_chosen_of_image(path: str, context: Context) -> bool:
    """True when `auto` took *path* as the image brought it, because its torch runs here."""
    chosen = str((context.state.get("venv", "auto") or {}).get("path", ""))
    return path == chosen and not is_ours(path, context)


def health(path: str, context: Context, *, needs_pip: bool) -> Optional[str]:
    """What is wrong with the environment at *path*; None when it can be used."""
    python = interpreter_of(path)
    if not os.path.exists(python):
        return "it has no bin/python" if not os.path.islink(python) else "its bin/python is a link to nothing"
    try:
        answer = probe.ask(
            python, answers.Interpreter, timeout_s=context.bounded(PROBE_S), cancelled=context.cancelled
        )
    except Failure as failure:
        return failure.message
    return NO_PIP if needs_pip and not answer.has_pip else None


def make(path: str, context: Context, facts: Facts, progress: Progress, *, needs_pip: bool = True) -> None:
    """Make the environment at *path*, which is empty or not there.

    Raises:
        Failure: `command`, with the last words of what should have made it.
    """
    base = base_python(facts)
    context.state.put("venv", path, _record(context, path, is_ours=True))
    problems: List[str] = []
    for argv in _recipes(path, base, facts, needs_pip=needs_pip):
        progress.say(f"making {path} with {os.path.basename(argv[0])}")
        done = process.run(
            argv,
            timeout_s=context.bounded(CREATE_S),
            environment=process.child_environment(orphans.mark(context)),
            on_line=progress.line,
            cancelled=context.cancelled,
        )
        problem = (
            f"`{' '.join(argv)}` ended with {done.status}: {done.said(3)}"
            if done.status
            else health(path, context, needs_pip=needs_pip)
        )
        if problem is None:
            return
        problems.append(problem)
        remove_tree.remove(path, context)
    raise Failure(
        "command",
        f"cannot make the environment {path}: {'; '.join(problems)}",
        case="no_venv",
        about={"package": _venv_package(base)},
    )


def _chosen(python: Python, context: Context, facts: Facts, progress: Progress) -> str:
    settled = _given(python, context) or _remembered(context)
    if settled is not None:
        return settled
    path, why = images.choose(facts, context, progress)
    progress.say(f"taking {path}: {why}")
    context.state.put("venv", "auto", {"path": path, "why": why})
    return path


def _default(context: Context) -> str:
    return os.path.join(context.workspace, "venv")


def _refuse_read_only(path: str, python: Python) -> None:
    if python.layers and not environments.is_writable(path):
        raise Failure(
            "read_only",
            f"nothing can be added to the environment {path}: its packages are read-only",
            case="venv_read_only",
        )


def _require_own_place(path: str, context: Context) -> None:
    """Below the workspace, no link that was brought leads to *path*: an environment is written to for ever."""
    if not os.path.relpath(path, context.workspace).startswith(".."):
        folder_at(context, path).close()


def _given(python: Python, context: Context) -> Optional[str]:
    return None if python.venv == "auto" else os.path.join(context.workspace, os.path.expanduser(python.venv))


def _remembered(context: Context) -> Optional[str]:
    """What `auto` meant the last time: a second run must not land in another environment."""
    path = str((context.state.get("venv", "auto") or {}).get("path", ""))
    return path if path and os.path.exists(interpreter_of(path)) else None


def _clear(path: str, problem: str, context: Context, progress: Progress) -> None:
    """Make room for a new environment where there is a broken one; never where there is anything else."""
    if not (is_ours(path, context) or os.path.exists(os.path.join(path, "pyvenv.cfg"))):
        raise Failure(
            "conflict",
            f"`{path}` is no Python environment ({problem}) and is not empty",
            case="venv_path_taken",
            about={"path": path},
        )
    context.report("warning", message=f"the environment {path} is broken ({problem}): making it again")
    progress.say(f"removing the broken {path}")
    left = remove_tree.remove(path, context)
    if left is not None:
        context.report("warning", message=left)


def _recipes(path: str, base: str, facts: Facts, *, needs_pip: bool) -> List[Tuple[str, ...]]:
    own: Tuple[str, ...] = (base, "-m", "venv", path)
    uv = facts.uv
    if not uv:
        return [own]
    seeded = (uv, "venv", "--seed", "--python", base, path)
    bare = (uv, "venv", "--python", base, path)
    return [seeded, own] if needs_pip else [seeded, bare, own]


def version_at(path: str, context: Context, facts: Facts) -> str:
    """The version of the python at *path*, or of the one that an environment there would be made with."""
    try:
        python = interpreter_of(path)
        return probe.ask(python, answers.Interpreter, timeout_s=context.bounded(PROBE_S)).version
    except Failure:
        base = base_python(facts)
        return next(found.version for found in facts.pythons if found.path == base)


def _venv_package(base: str) -> str:
    name = os.path.basename(base)
    return f"{name}-venv" if name.startswith("python3") else "python3-venv"


def _uses_uv(python: Python, facts: Facts) -> bool:
    return python.installer != "pip" and bool(facts.uv)


def _record(context: Context, path: str, *, is_ours: bool) -> Dict[str, object]:
    return dict(context.state.get("venv", path) or {}, is_ours=is_ours)
