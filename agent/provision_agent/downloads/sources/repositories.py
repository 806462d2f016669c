"""Whole repositories of a model hub: one item of a plan becomes those of its files that are wanted.

The hub's listing tells size and sha256 of every large file, so each of them is verified as if the plan had named it.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urljoin

from ...contract.failures import Failure
from ...contract.plan import Download, HubRepository, repository_of
from ...contract.retry import full_jitter_s
from ...run.context import Context
from . import addresses
from .lookup import LISTING_BYTES, MOST_BYTES, Sources


@dataclass(frozen=True)
class RepositoryFile(Download):
    """A file of a whole repository: two of them may want one final path, so its source is part of its identity."""

    of: str = ""
    """The key of the plan's item."""

    @property
    def key(self) -> str:
        return f"{self.path}#{self.of.rpartition('#')[2]}"


PAGES_MOST = 200
"""A page has up to a thousand entries."""
RETRY_BASE_S, RETRY_CAP_S = 0.5, 10.0


def expand(
    items: Sequence[Download], access: Sources, context: Context
) -> "Tuple[List[Download], List[Tuple[Download, Failure]]]":
    """*items* with every repository replaced by its files, and the repositories that could not be listed."""
    files: List[Download] = []
    unlisted: List[Tuple[Download, Failure]] = []
    for item in items:
        repository = repository_of(item.url)
        if repository is None:
            files.append(item)
            continue
        try:
            files += _patiently(item, repository, access, context)
        except Failure as failure:
            unlisted.append((item, failure))
    return files, unlisted


def files_of(
    item: Download, repository: HubRepository, access: Sources, *, deadline: float
) -> List[Download]:
    """The files of *repository* that *item* wants, each with what the listing tells of it.

    Raises:
        Failure: as `Sources.open`, `not_found` when nothing in it is wanted, `unsafe_path` for a name that leaves
            the folder.
    """
    wanted = []
    for entry in _entries(repository, access, item.limits.connect_s, deadline):
        path = str(entry["path"])
        if entry.get("type") == "file" and path.startswith(repository.folder) and _is_wanted(path, item):
            wanted.append(_file(item, repository, path, entry))
    if not wanted:
        raise Failure(
            "not_found",
            f"no file of `{item.url}` is wanted: its patterns fit none",
            hint="correct `include` and `exclude`: they are compared with paths such as `unet/model.safetensors`",
        )
    return wanted


def _patiently(
    item: Download, repository: HubRepository, access: Sources, context: Context
) -> List[Download]:
    for attempt in range(1, item.limits.attempts + 1):
        within_s = max(0.1, min(item.limits.lookup_s, context.remaining_s()))
        try:
            return files_of(item, repository, access, deadline=time.monotonic() + within_s)
        except Failure as failure:
            if not failure.retriable or attempt == item.limits.attempts or context.remaining_s() <= 0:
                raise
            told_s = float(failure.facts.get("wait_s", 0.0))
            wait_s = told_s or full_jitter_s(attempt, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S)
            about = {"item": item.label, "key": item.key, "level": item.level, "attempt": attempt}
            context.report("download_retried", wait_s=round(wait_s, 1), **{"class": failure.class_}, **about)
            if context.cancelled.wait(min(wait_s, max(0.0, context.remaining_s()))):
                raise
    raise AssertionError("there is at least one attempt")


def _entries(
    repository: HubRepository, access: Sources, connect_s: float, deadline: float
) -> Iterator[Mapping[str, Any]]:
    """Every entry of the listing, page by page."""
    url: Optional[str] = addresses.listing_of(repository)
    for _ in range(PAGES_MOST):
        response, _ = access.open(str(url), span=None, deadline=deadline, connect_s=connect_s)
        try:
            page = response.read(LISTING_BYTES, max(0.1, deadline - time.monotonic()))
            following = re.search(r'<([^>]+)>;\s*rel="?next', response.headers.get("Link") or "")
        finally:
            response.close()
        try:
            entries: List[Dict[str, Any]] = json.loads(page)
            yield from (entry for entry in entries if isinstance(entry["path"], str))
        except (ValueError, TypeError, KeyError):
            raise Failure(
                "upstream_down", f"the hub's listing of `{repository.repo}` cannot be read", retriable=True
            ) from None
        if following is None:
            return
        url = urljoin(str(url), following[1])


def _is_wanted(path: str, item: Download) -> bool:
    """As the hub's own tools match: against the whole path, and ``*`` goes across folders."""
    is_included = not item.include or any(fnmatchcase(path, pattern) for pattern in item.include)
    return is_included and not any(fnmatchcase(path, pattern) for pattern in item.exclude)


def _file(item: Download, repository: HubRepository, path: str, entry: Mapping[str, Any]) -> Download:
    inside = path[len(repository.folder) :]
    if any(part in ("", ".", "..") for part in inside.split("/")) or re.search(r"[\\\x00-\x1f\x7f]", inside):
        raise Failure("unsafe_path", f"the repository has a file that it calls {path[:80]!r}")
    large = entry.get("lfs")
    large = large if isinstance(large, dict) else {}
    sha256 = str(large.get("oid") or "").lower()
    size = large.get("size", entry.get("size"))
    link = addresses.HubFile(addresses.hub_endpoint(), repository.repo, repository.revision, path)
    inherited = {each.name: getattr(item, each.name) for each in fields(Download)}
    inherited.update(
        url=link.url,
        path=item.path.rstrip("/") + "/" + inside,
        size_bytes=size if type(size) is int and 0 <= size <= MOST_BYTES else None,
        sha256=sha256 if re.fullmatch(r"[0-9a-f]{64}", sha256) else None,
        include=(),
        exclude=(),
    )
    return RepositoryFile(**inherited, of=item.key)
