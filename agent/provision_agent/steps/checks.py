"""Is it there? One check of a plan, answered from the disk or by importing.

A check believes nothing that was recorded: it looks. Partial downloads and folders never count as files.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
import sys
import time
from typing import Callable, Iterator, List, Optional, Set, Tuple, Union

from ..contract.failures import Failure
from ..contract.plan import Check
from ..host import answers, probe
from ..run import log_lines
from ..run.context import Context
from .python.venv import Venv

IMPORT_S = 120.0
GLOB_S = 60.0

Found = Union[int, str]


def do(check: Check, context: Context, venv: Optional[Venv]) -> None:
    """As `run_check`, for a run."""
    run_check(check, context, venv)


def run_check(check: Check, context: Context, venv: Optional[Venv]) -> Found:
    """Look for what *check* wants, and report ``check_passed`` or ``check_failed``.

    Args:
        check: A path, patterns of files, or modules.
        context: Relative paths are under its workspace.
        venv: Where modules are imported; without one, the agent's own python.

    Returns:
        What was found: the size of a file, as people write it, ``folder``, the number of matching files, or of modules.

    Raises:
        Failure: `missing`, or `timed_out` when importing or searching did not end; `found` is in its facts.
    """
    try:
        found = _look(check, context, venv)
    except Failure as failure:
        failure.facts.setdefault("found", "nothing")
        failure.facts["min_count"] = check.min_count
        context.report("check_failed", item=check.name, level=check.level, **failure.as_fields())
        failure.is_reported = True
        raise
    context.report("check_passed", item=check.name, level=check.level, found=found)
    return found


def _look(check: Check, context: Context, venv: Optional[Venv]) -> Found:
    if check.imports:
        return _import(check, context, venv)
    if check.path is not None:
        return _find_path(check, os.path.join(context.workspace, check.path))
    return _count_files(check, context)


def _find_path(check: Check, path: str) -> Found:
    try:
        status = os.stat(path)
    except OSError as error:
        broken = os.path.islink(path)
        why = "is a link to nothing" if broken else f"is not there ({error.strerror})"
        raise Failure("missing", f"`{check.path}` {why}", found="a broken link" if broken else 0) from None
    if not stat.S_ISREG(status.st_mode):
        return "folder" if stat.S_ISDIR(status.st_mode) else "present"
    if status.st_size < check.min_size_bytes:
        message = f"`{check.path}` has {status.st_size} bytes, at least {check.min_size_bytes} are wanted"
        raise Failure("missing", message, found=f"{status.st_size} bytes")
    return log_lines.size_text(status.st_size)


def _count_files(check: Check, context: Context) -> int:
    """Count every file once, whichever pattern or link leads to it."""
    counted: Set[Tuple[int, int]] = set()
    too_small: Set[Tuple[int, int]] = set()
    for path in _matches(check, context):
        try:
            status = os.stat(path)
        except OSError:
            continue  # a broken link, or it went away just now
        if stat.S_ISREG(status.st_mode) and not path.endswith(".part"):
            kind = counted if status.st_size >= check.min_size_bytes else too_small
            kind.add((status.st_dev, status.st_ino))
    if len(counted) >= check.min_count:
        return len(counted)
    small = f"; {len(too_small)} more below {check.min_size_bytes} bytes" if too_small else ""
    message = f"{len(counted)} of at least {check.min_count} files match {', '.join(f'`{p}`' for p in check.glob)}{small}"
    raise Failure("missing", message, found=len(counted))


def _matches(check: Check, context: Context) -> Iterator[str]:
    """Every path that a pattern of *check* fits, folders too; a path may come more than once."""
    end = time.monotonic() + context.bounded(GLOB_S)

    def entries(folder: str) -> List[str]:
        if time.monotonic() > end or context.cancelled.is_set():
            raise Failure("timed_out", f"searching for {check.name} did not end within {GLOB_S:.0f} s")
        try:
            return sorted(os.listdir(folder))
        except OSError:
            return []  # no folder, or none that may be read: nothing matches in it

    for pattern in check.glob:
        start = "/" if pattern.startswith("/") else context.workspace
        yield from _expand(
            start, [part for part in pattern.split("/") if part not in ("", ".")], entries, set()
        )


def _expand(
    folder: str, parts: List[str], entries: Callable[[str], List[str]], seen: Set[Tuple[int, int]]
) -> Iterator[str]:
    """Paths below *folder* that *parts* fit. *seen* holds the folders that a ``**`` has entered: links may go in circles."""
    if not parts:
        yield folder
        return
    first, rest = parts[0], parts[1:]
    if first == "**":
        yield from _expand(folder, rest or ["*"], entries, set())
        for name in entries(folder):
            below = os.path.join(folder, name)
            if not name.startswith(".") and os.path.isdir(below) and _is_new(below, seen):
                yield from _expand(below, parts, entries, seen)
    elif glob.has_magic(first):
        for name in entries(folder):
            if fnmatch.fnmatchcase(name, first) and (first.startswith(".") or not name.startswith(".")):
                yield from _expand(os.path.join(folder, name), rest, entries, set())
    elif os.path.lexists(os.path.join(folder, first)):
        yield from _expand(os.path.join(folder, first), rest, entries, set())


def _is_new(folder: str, seen: Set[Tuple[int, int]]) -> bool:
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    is_new = identity not in seen
    seen.add(identity)
    return is_new


def _import(check: Check, context: Context, venv: Optional[Venv]) -> int:
    python = sys.executable if venv is None else venv.python
    timeout_s = context.bounded(IMPORT_S)
    try:
        answer = probe.ask(
            python, answers.Imports, *check.imports, timeout_s=timeout_s, cancelled=context.cancelled
        )
    except Failure as failure:
        class_ = "missing" if failure.class_ == "command" else failure.class_
        raise Failure(class_, f"cannot import {', '.join(check.imports)}: {failure.message}") from None
    failed = {module: reason for module, reason in answer.reasons.items() if reason}
    if not failed:
        return len(answer.reasons)
    message = "; ".join(f"cannot import `{module}`: {reason}" for module, reason in failed.items())
    raise Failure(
        "missing",
        message,
        case="import",
        about={"python": python, "module": next(iter(failed))},
        found=f"not importable: {', '.join(failed)}",
    )
