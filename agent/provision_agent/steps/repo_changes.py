"""What a checkout has lost, and what people changed in it.

A tracked file that is gone, cut short or a link to nothing holds nothing of anybody's: it comes back from git. Whatever
else differs from the commit may be somebody's work: it is never destroyed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from contextlib import suppress
from typing import Iterator, List, NamedTuple

from ..contract.failures import Failure
from ..contract.plan import Repo
from ..run.context import Context
from . import remove_tree
from .git import Git

SET_ASIDE = "refs/provision/set-aside"
"""Below this the changes are held that a repair took out of the folder."""
_CHANGED = re.compile(r"[ MTADRCU]{2} ")
_LOOKED_AT = 1000
_AT_ONCE = 100
_NAMED = 3
_IDENTITY = ("-c", "user.name=provision", "-c", "user.email=provision@localhost")
_SCRATCH = "provision-compare"


def is_at(commit: str, git: Git) -> bool:
    """True where git says, in one look, that HEAD is *commit* and every tracked file is as that has it."""
    try:
        lines = git.run(
            "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=all"
        )
    except Failure:
        return False
    return f"# branch.oid {commit}" in lines and all(line.startswith("# branch.") for line in lines)


class Before(NamedTuple):
    """What was at the path of a repository before anything was done to it."""

    folder: bool
    repository: bool


def what_is_there(folder: str) -> Before:
    """What is at *folder* now."""
    return Before(os.path.lexists(folder), os.path.lexists(os.path.join(folder, ".git")))


def leave_as_before(folder: str, before: Before, context: Context) -> None:
    """After a clone that failed: take away the repository that it began, and its folder where nothing else is in it."""
    if before.repository:
        return
    left = remove_tree.remove(os.path.join(folder, ".git"), context)
    if left is not None:
        context.report("warning", message=left)
    if not before.folder:
        with suppress(OSError):  # other files came meanwhile: downloads, say
            os.rmdir(folder)


def changed_files(repo: Repo, git: Git) -> List[str]:
    """The tracked files, and submodules, that differ from the commit; the mode of a file is no difference."""
    submodules = "dirty" if repo.submodules else "all"
    lines = git.run("status", "--porcelain", "--untracked-files=no", f"--ignore-submodules={submodules}")
    changed = [line[2:].strip() for line in lines if _CHANGED.match(line)]
    return [name for name in changed if not (repo.submodules and is_submodule(name, git))]


def is_submodule(name: str, git: Git) -> bool:
    """Submodules at another commit are brought back by `git submodule update`, which overwrites no edit."""
    return git.line("ls-files", "--stage", "--", name).startswith("160000 ")


def restore_lost(repo: Repo, folder: str, git: Git, context: Context) -> None:
    """Bring back the tracked files that are gone or cut short, as they are staged, and say so.

    Raises:
        Failure: git cannot.
    """
    names = sorted(set(_lost(folder, git)))
    for start in range(0, len(names), _AT_ONCE):
        git.run("checkout-index", "--force", "-u", "--", *names[start : start + _AT_ONCE])
    if names:
        message = (
            f"{repo.path}: {len(names)} tracked file(s) were gone or cut short ({named(names)}): restored"
        )
        context.report("warning", message=message)


def set_aside(repo: Repo, folder: str, git: Git, context: Context) -> None:
    """Take what people changed in tracked files out of the folder, into a commit that git keeps, and say where it is.

    Raises:
        Failure: git cannot, as in an unfinished merge: then all stays as it is.
    """
    names = changed_files(repo, git)
    if not names:
        return
    commit = git.line(*_IDENTITY, "stash", "create", "set aside by provision")
    if not commit:
        raise Failure(
            "conflict",
            f"`{repo.path}` has changes that cannot be set aside: {named(names)}",
            case="local_changes",
            about={"git": f"git -C {shlex.quote(folder)}"},
        )
    git.run("update-ref", f"{SET_ASIDE}/{commit}", commit)
    git.run("reset", "--hard", "--quiet")
    back = f"`git -C {shlex.quote(folder)} stash apply {commit}` brings them back"
    message = f"{repo.path}: changes of {len(names)} tracked file(s) ({named(names)}) were set aside: {back}"
    context.report("warning", message=message)


def named(names: List[str]) -> str:
    """The first of *names*, for people."""
    return ", ".join(f"`{name}`" for name in names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _lost(folder: str, git: Git) -> Iterator[str]:
    gone = git.run("ls-files", "--deleted")
    yield from (name for name in gone if not is_submodule(name, git))
    changed = [name for name in git.run("ls-files", "--modified") if name not in gone]
    scratch = os.path.join(folder, ".git", _SCRATCH)
    for name in changed[:_LOOKED_AT]:
        path = os.path.join(folder, name)
        if os.path.islink(path):
            if not os.path.exists(path) and _mode(name, git) != "120000":
                yield name
        elif os.path.isfile(path) and os.path.isdir(os.path.join(folder, ".git")):
            try:
                git.run("checkout-index", "--force", f"--prefix={scratch}/", "--", name)
                if _is_beginning(path, os.path.join(scratch, name)):
                    yield name
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def _mode(name: str, git: Git) -> str:
    return git.line("ls-files", "--stage", "--", name).partition(" ")[0]


def _is_beginning(path: str, whole: str) -> bool:
    """Does the file at *path* hold nothing but the first bytes of the one at *whole*, and not all of them?"""
    size_bytes = os.path.getsize(path)
    if not os.path.isfile(whole) or os.path.islink(whole) or size_bytes >= os.path.getsize(whole):
        return False
    with open(path, "rb") as short, open(whole, "rb") as long:
        while size_bytes > 0:
            piece = short.read(1 << 20)
            if not piece or piece != long.read(len(piece)):
                return False
            size_bytes -= len(piece)
    return True
