"""What an image brings: which of its environments `auto` takes, and why; a pip for one that has none."""

from __future__ import annotations

import os
from typing import List, NamedTuple, Optional

from ...contract.failures import Failure
from ...contract.findings import Environment, Facts
from ...host import answers, environments, probe, process
from ...run.context import Context
from .. import orphans
from ..progress import Progress

TORCH_S = 90.0
PIP_S = 300.0


class Choice(NamedTuple):
    """The environment that is taken, and why."""

    path: str
    why: str


def choose(facts: Facts, context: Context, progress: Progress) -> Choice:
    """The first environment of the image whose torch runs on this GPU and that may be added to, else the workspace's own."""
    reasons: List[str] = []
    for each in facts.venvs if facts.gpus else ():
        if each.torch is None:
            continue
        reason = _against(each, context, progress)
        if reason is None:
            managed = ", which the system claims to manage" if each.is_managed else ""
            return Choice(each.path, f"its torch {each.torch} runs on this GPU already{managed}")
        reasons.append(f"{each.path}: {reason}")
    own = os.path.join(context.workspace, "venv")
    if not facts.gpus:
        return Choice(own, "there is no GPU that an environment of the image could run on")
    nothing = "; ".join(reasons) or "there is none with torch"
    return Choice(own, f"no environment of the image has a torch that runs on this GPU ({nothing})")


def _against(each: Environment, context: Context, progress: Progress) -> Optional[str]:
    """Why *each* is not taken; None when it is."""
    if not each.is_writable:
        return "nothing can be added to it: its packages are read-only"
    progress.say(f"does the torch of {each.path} run on this GPU?")
    try:
        answer = probe.ask(
            environments.interpreter_of(each.path),
            answers.Torch,
            timeout_s=context.bounded(TORCH_S),
            cancelled=context.cancelled,
        )
    except Failure as failure:
        return failure.message
    return None if answer.ran_on == "cuda" else answer.error or "its torch sees no GPU"


def add_pip(path: str, base: str, context: Context, progress: Progress) -> Optional[str]:
    """Give the environment at *path*, which works, a pip; what is wrong if that cannot be done, else None.

    Args:
        base: Another interpreter, which may have one.
    """
    python = environments.interpreter_of(path)
    problems: List[str] = []
    for argv in (
        [python, "-m", "ensurepip", "--default-pip"],
        [base, "-m", "pip", "--python", python, "install", "pip"],
    ):
        progress.say(f"{path} has no pip: {' '.join(argv)}")
        try:
            done = process.run(
                argv,
                timeout_s=context.bounded(PIP_S),
                environment=process.child_environment(orphans.mark(context)),
                on_line=progress.line,
                cancelled=context.cancelled,
            )
        except Failure as failure:
            problems.append(failure.message)
            continue
        if done.status == 0:
            return None
        problems.append(f"`{' '.join(argv)}` ended with {done.status}: {done.said(2)}")
    return f"it has no pip, and none can be added: {'; '.join(problems)}"
