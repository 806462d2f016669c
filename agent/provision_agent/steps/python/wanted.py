"""Which requirements a plan asks for, also where its repositories are not checked out: then their files are fetched alone.

For questions before a run, and for locks. A file of a repository is read at the commit that a run would check out.
"""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
from contextlib import contextmanager
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from ...contract.failures import Failure
from ...contract.plan import IF_PRESENT, Layer, Plan, Repo
from ...run.context import Context
from .. import refs
from ..git import Git
from . import requirements

FETCH_S = 60.0
MAX_FILE_CHARS = 1 << 20
_INCLUDE = re.compile(r"(?:-r|--requirement)[\s=]+(\S+)")
_HASH = re.compile(r"\s--hash[= ]\S+")
_OPTION = re.compile(r"(--(?:extra-)?index-url|--find-links|-f|-i)[\s=]+(\S+)")


class Line(NamedTuple):
    """One requirement, and where it stands; number 0: in the profile."""

    file: str
    number: int
    text: str


class Part(NamedTuple):
    """Requirements that belong together: of a layer, or of a repository."""

    title: str
    lines: Tuple[Line, ...]
    options: Tuple[str, ...]
    level: str
    is_layer: bool

    @property
    def is_alone(self) -> bool:
        """It is installed without what it needs itself."""
        return "--no-deps" in self.options


def parts_of(plan: Plan, context: Context, *, is_here: bool) -> List[Part]:
    """The layers of *plan* but torch, then the requirements of its repositories, in order.

    Args:
        is_here: This is the instance: what is checked out counts as it is.

    Raises:
        Failure: a file of a layer cannot be read. One of a repository that cannot be is a part without lines.
    """
    python = plan.python
    assert python is not None
    with _Files(plan, context, is_here=is_here).opened() as files:
        parts = [_of_layer(layer, files) for layer in python.layers if layer.torch is None]
        if "repos" in plan.steps:
            parts += [_of_repo(repo, files) for repo in plan.repos if repo.install is not None]
    return parts


def _of_layer(layer: Layer, files: "_Files") -> Part:
    if layer.requirements is not None:
        lines, options = _read(layer.requirements, files, set())
        return Part(layer.requirements, tuple(lines), tuple(options), "critical", True)
    options = [entry for entry in layer.packages if entry.startswith("-")]
    lines = [Line("", 0, entry) for entry in layer.packages if not entry.startswith("-")]
    title = ", ".join(line.text for line in lines[:3])
    return Part(title, tuple(lines), tuple(options), "critical", True)


def _of_repo(repo: Repo, files: "_Files") -> Part:
    path = posixpath.join(repo.path, repo.requirements or "")
    try:
        lines, options = _read(path, files, set())
    except Failure as failure:
        if repo.install == IF_PRESENT:
            return Part(path, (), (), repo.level, False)
        message = f"cannot be read: {failure.message}"
        return Part(path, (Line(path, 0, message),), ("--unreadable",), repo.level, False)
    return Part(path, tuple(lines), tuple(options), repo.level, False)


def _read(path: str, files: "_Files", seen: Set[str]) -> Tuple[List[Line], List[str]]:
    """The requirements in *path* and in what it includes, and the options that pip and uv share."""
    lines: List[Line] = []
    options: List[str] = []
    seen.add(path)
    for number, said in requirements.logical_lines(files.text(path)):
        text = _HASH.sub("", said).strip()
        include, option = _INCLUDE.match(text), _OPTION.match(text)
        if include is not None:
            other = posixpath.normpath(posixpath.join(posixpath.dirname(path), include.group(1)))
            if other not in seen and not other.startswith(".."):
                more, more_options = _read(other, files, seen)
                lines, options = lines + more, options + more_options
        elif option is not None:
            names = {"-i": "--extra-index-url", "--index-url": "--extra-index-url", "-f": "--find-links"}
            options.append(f"{names.get(option.group(1), option.group(1))}={option.group(2)}")
        elif not text.startswith(("-c", "--")):
            lines.append(Line(path, number, text))
    return lines, options


class _Files:
    """Small files of the workspace: as they are, else of the repository that they will be in."""

    def __init__(self, plan: Plan, context: Context, *, is_here: bool) -> None:
        self._plan = plan
        self._context = context
        self._is_here = is_here
        self._folder = ""
        self._fetched: Dict[str, Git] = {}

    @contextmanager
    def opened(self) -> Iterator["_Files"]:
        """Remove what was fetched at the end."""
        with tempfile.TemporaryDirectory(prefix="provision-wanted-") as folder:
            self._folder = folder
            yield self

    def text(self, path: str) -> str:
        """What stands in *path*.

        Raises:
            Failure: `missing`, or as git.
        """
        repo = self._repo_of(path)
        why = "it is in no repository of the profile"
        if self._is_here:
            try:
                full = os.path.join(self._context.workspace, path)
                with open(full, encoding="utf-8", errors="replace") as file:
                    return file.read(MAX_FILE_CHARS)
            except OSError as error:
                why = str(error.strerror)
        if repo is None:
            raise Failure(
                "missing", f"cannot read the requirements `{path}`: {why}", case="requirements_path"
            )
        inside = posixpath.relpath(path, repo.path)
        lines = self._git_of(repo).run("show", f"FETCH_HEAD:{inside}", timeout_s=FETCH_S)
        return "\n".join(lines)[:MAX_FILE_CHARS]

    def _repo_of(self, path: str) -> Optional[Repo]:
        fitting = [repo for repo in self._plan.repos if path.startswith(repo.path.rstrip("/") + "/")]
        return max(fitting, key=lambda repo: len(repo.path), default=None)

    def _git_of(self, repo: Repo) -> Git:
        """A repository without files, at what *repo* would check out."""
        if repo.path not in self._fetched:
            self._fetched[repo.path] = self._fetch(repo)
        return self._fetched[repo.path]

    def _fetch(self, repo: Repo) -> Git:
        last = Failure("not_found", f"`{repo.path}` has no source")
        for number, url in enumerate((repo.url, *repo.mirrors)):
            folder = os.path.join(self._folder, f"{len(self._fetched)}-{number}")
            os.makedirs(folder)
            git = Git(folder, self._context, lambda line: None)
            try:
                for arguments in _without_files(url):
                    git.run(*arguments)
                target = refs.resolve(url, repo.ref, git)
                options = ("--quiet", "--depth=1", "--no-tags", "--filter=blob:none")
                git.run("fetch", *options, "origin", target.refspec, timeout_s=FETCH_S)
                return git
            except Failure as failure:
                last = failure
        raise last


def _without_files(url: str) -> Sequence[Tuple[str, ...]]:
    """What makes an empty repository that fetches a file only when it is read."""
    return (
        ("init", "--quiet"),
        ("remote", "add", "origin", "--", url),
        ("config", "remote.origin.promisor", "true"),
        ("config", "remote.origin.partialclonefilter", "blob:none"),
    )
