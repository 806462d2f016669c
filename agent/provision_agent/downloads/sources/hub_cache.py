"""A repository of a model hub in the layout of the hub's own cache, from which its libraries start without the network.

    models--OWNER--REPO/blobs/ETAG            the content; ETAG is its sha256, or what git calls it
    models--OWNER--REPO/snapshots/COMMIT/PATH  a link to it; a copy where the file system has no links
    models--OWNER--REPO/refs/main             the commit, written when all of it is there

https://huggingface.co/docs/huggingface_hub/guides/manage-cache. What the hub's own tools put there is taken over once it
has been verified, and theirs take over what is put here.
"""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from ...contract.failures import Failure
from ...contract.parsing import ParseError
from ...contract.plan import Download
from ...contract.plan_parts import HubRepository, repository_of
from ...host.beneath import Folder
from ...run.context import Context
from ...run.writing import folder_for
from ..http.request import Headers
from .hugging_face import COMMIT, about_url, commit_of, read_page, tree_url
from .listing import ListedFile, Listing, Page
from .repository_file import RepositoryFile, check_path, inherited

MAIN = "main"
_KINDS = {"datasets": "datasets", "spaces": "spaces"}
_TIME_SLACK_S = 2
"""So coarse are the times of some file systems that have no links."""


@dataclass(frozen=True)
class CachedFile(RepositoryFile):
    """A content in the cache, under all names that the repository has for it."""

    cache: str = ""
    """The repository's folder, relative to the workspace."""
    revision: str = MAIN
    """As the plan has it."""
    commit: str = ""
    names: Tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.cache}/snapshots/{self.commit}/{self.names[0]}"

    @property
    def file_name(self) -> str:
        return self.names[0].rpartition("/")[2]


def listing(url: str) -> Optional[Listing]:
    """How the files of the repository *url* are found out, at the commit that its revision stands for now."""
    repository = repository_of(url)
    if repository is None:
        return None
    at = _At(repository)
    first = about_url(repository.repo, "revision", repository.revision)
    return Listing(title=repository.repo, url=first, folder="", read=at.read, items=at.items)


class _At:
    """One repository at one commit."""

    def __init__(self, repository: HubRepository) -> None:
        self._repository = repository
        self._commit = ""

    def read(self, page: bytes, headers: Headers) -> Page:
        """First the commit, then the pages of the listing at it."""
        if page.lstrip()[:1] == b"{":
            self._commit = commit_of(page)
            return Page((), tree_url(self._repository.repo, self._commit))
        if not self._commit:
            raise ParseError("the hub's answer tells no commit")
        return read_page(self._repository._replace(revision=self._commit), page, headers)

    def items(self, item: Download, files: Sequence[ListedFile]) -> List[Download]:
        """One item for each content; raises as `check_path`, and `upstream_down` where no hash is told."""
        kind, _, name = self._repository.repo.partition("/")
        folder = f"{_KINDS[kind]}/{name}" if kind in _KINDS else f"models/{self._repository.repo}"
        cache = item.path.rstrip("/") + "/" + folder.replace("/", "--")
        by_blob: Dict[str, List[ListedFile]] = {}
        for file in files:
            check_path(file.path, file.path)
            blob = file.sha256 or file.git_sha1
            if blob is None:
                message = f"the listing of `{self._repository.repo}` tells no hash of `{file.path}`"
                raise Failure("upstream_down", message)
            by_blob.setdefault(blob, []).append(file)
        found: List[Download] = []
        for blob, same in by_blob.items():
            own = {
                "url": same[0].url,
                "path": f"{cache}/blobs/{blob}",
                "size_bytes": same[0].size_bytes,
                "sha256": same[0].sha256,
            }
            found.append(
                CachedFile(
                    **{**inherited(item), **own},  # type: ignore[arg-type]
                    of=item.key,
                    git_sha1=same[0].git_sha1,
                    cache=cache,
                    revision=self._repository.revision,
                    commit=self._commit,
                    names=tuple(file.path for file in same),
                )
            )
        return found


class HubCaches:
    """Gives what has landed its names in the caches. Safe to use from any thread.

    Args:
        items: All that are fetched.
    """

    def __init__(self, items: Sequence[Download], context: Context) -> None:
        self._context = context
        files = {item.key: item for item in items if isinstance(item, CachedFile)}.values()
        self._left: Dict[str, int] = {}
        for item in files:
            self._left[item.of] = self._left.get(item.of, 0) + 1
        self._named = {(item.cache, item.revision) for item in files}
        self._lock = threading.Lock()

    def landed(self, item: Download) -> None:
        """*item* is there and verified.

        Raises:
            Failure: as `folder_for`. OSError: the disk says no.
        """
        if not isinstance(item, CachedFile):
            return
        for name in item.names:
            path = f"{item.cache}/snapshots/{item.commit}/{name}"
            blob = item.path.rpartition("/")[2]
            target = "../" * (2 + name.count("/")) + f"blobs/{blob}"
            with folder_for(self._context, path) as folder:
                _name(
                    folder, os.path.basename(name), target, os.path.join(self._context.workspace, item.path)
                )
        with self._lock:
            self._left[item.of] -= 1
            is_all = self._left[item.of] == 0
        if is_all:
            self._conclude(item)

    def _conclude(self, item: CachedFile) -> None:
        """All of the repository that was wanted is there: say at which commit.

        A commit that a plan pins is `main` as well, unless the plan has `main` too: libraries ask for that.
        """
        is_commit = COMMIT.fullmatch(item.revision) is not None
        if is_commit and (item.cache, MAIN) in self._named:
            return
        path = f"{item.cache}/refs/{MAIN if is_commit else item.revision}"
        with folder_for(self._context, path) as folder:
            _write(folder, os.path.basename(path), item.commit.encode())


def _name(folder: Folder, name: str, target: str, blob: str) -> None:
    """Have *name* in *folder* be the content of *blob*, which *target* leads to from there."""
    if _is_named(folder, name, target, blob):
        return
    temporary = f".{name[:50]}.linking"
    folder.remove(temporary)
    try:
        os.symlink(target, temporary, dir_fd=folder.descriptor)
    except OSError:
        try:
            os.link(blob, temporary, dst_dir_fd=folder.descriptor)
        except OSError:
            _copy(blob, folder, temporary)
    folder.replace(temporary, name)


def _is_named(folder: Folder, name: str, target: str, blob: str) -> bool:
    try:
        if os.readlink(name, dir_fd=folder.descriptor) == target:
            return True
    except OSError:
        pass  # it is no link, or not there
    try:
        found, wanted = folder.lstat(name), os.stat(blob)
    except OSError:
        return False
    if (found.st_ino, found.st_dev) == (wanted.st_ino, wanted.st_dev):
        return True
    return found.st_size == wanted.st_size and abs(found.st_mtime - wanted.st_mtime) <= _TIME_SLACK_S


def _copy(blob: str, folder: Folder, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with open(blob, "rb") as old, os.fdopen(folder.open(name, flags, 0o644), "wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        times = os.fstat(old.fileno())
        os.utime(new.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))


def _write(folder: Folder, name: str, content: bytes) -> None:
    """Have the file *name* hold *content*; it is left alone where it does."""
    try:
        with os.fdopen(folder.open(name, os.O_RDONLY), "rb") as file:
            if file.read(1 << 10) == content:
                return
    except OSError:
        pass  # it is not there
    temporary = f".{name[:50]}.writing"
    with os.fdopen(folder.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "wb") as file:
        file.write(content)
    folder.replace(temporary, name)
