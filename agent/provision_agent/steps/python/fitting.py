"""The requirements of a node, beside what stands: a line that conflicts with that, or that nobody can bring, is left out.

What stands are the layers of the plan, what it protects, and the nodes that were installed before. One such line must
not keep the rest of its file away; it is named by file and line, with what the resolver says.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

from ...contract.failures import Failure
from ...run.context import Context
from ..progress import Progress
from . import requirements, resolver
from .installer import Installer
from .misfits import misfits

CLASSES = ("conflict", "not_found")
KIND = "left_out"
"""Of the records that say which lines of a file were left out."""
_WHY_CHARS = 300


class _Line(NamedTuple):
    number: int
    text: str


def install(
    path: str,
    options: Sequence[str],
    tools: Installer,
    context: Context,
    progress: Progress,
    held: Mapping[str, str],
    *,
    item: str,
    level: str,
) -> None:
    """Install the requirements file at *path*, without those of its lines that do not fit.

    Args:
        options: Of the installer, besides.
        held: Versions that nothing may change.
        item: What the file is called in events.
        level: Of its node.

    Raises:
        Failure: it cannot be installed for another reason, or nobody can say which line it is.
    """
    context.state.forget(KIND, item)
    held = with_standing(held, tools)
    try:
        tools.install([*options, "--requirement", path], progress, item=item, level=level, constraints=held)
        return
    except Failure as failure:
        if failure.class_ not in CLASSES or tools.kept_out or context.is_over():
            raise
        refused = failure
    progress.say(f"{item} does not fit as it is: trying its lines")
    lines = _lines(path)
    tried = [line for line in lines if resolver.is_plain(line.text)]

    def problem(some: Sequence[_Line]) -> Optional[Failure]:
        return tools.trial([line.text for line in some], progress, constraints=held)

    try:
        if tools.standing and problem([]) is not None:
            tools.standing = ()  # layers that contradict each other say nothing about a node
        why = misfits(tried, problem)
    except Failure:
        raise refused from None  # nobody can say which line it is
    if not why:
        raise refused
    for line, reason in why:
        said = re.sub(r"\s+", " ", reason.message)[:_WHY_CHARS]
        context.report("warning", message=f"{item}:{line.number}: `{line.text}` is left out: {said}")
    left_out = {line.number for line, _ in why}
    context.state.put(KIND, item, {"lines": [line.text for line, _ in why]})
    kept = os.path.join(
        context.run_directory, f"fitting-{hashlib.sha256(item.encode()).hexdigest()[:16]}.txt"
    )
    with open(kept, "w", encoding="utf-8") as file:
        file.writelines(f"{line.text}\n" for line in lines if line.number not in left_out)
    if any(line.number not in left_out for line in lines):
        tools.install([*options, "--requirement", kept], progress, item=item, level=level, constraints=held)


def with_standing(held: Mapping[str, str], tools: Installer) -> Dict[str, str]:
    """The versions *held*, and those that the packages of the layers have now."""
    installed = tools.installed()
    return {**{name: installed[name] for name in tools.stays if name in installed}, **held}


def kept_lines(path: str, item: str, context: Context) -> List[str]:
    """The plain requirements of the file at *path* that were not left out when it was installed."""
    left = (context.state.get(KIND, item) or {}).get("lines")
    names = left if isinstance(left, list) else []
    try:
        return [line.text for line in _lines(path) if resolver.is_plain(line.text) and line.text not in names]
    except OSError:
        return []


def _lines(path: str) -> List[_Line]:
    """What the file at *path* asks for, a continued line as one."""
    found: List[_Line] = []
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        text = file.read()
    for number, said in requirements.logical_lines(text):
        include = re.match(r"(-r|--requirement|-c|--constraint)([\s=]+)(\S+)", said)
        if include is not None:  # the lines that are kept lie elsewhere
            said = f"{include[1]} {os.path.join(os.path.dirname(os.path.abspath(path)), include[3])}"
        found.append(_Line(number, said))
    return found
