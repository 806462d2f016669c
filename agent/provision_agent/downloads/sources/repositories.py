"""Whole repositories of a model hub: one item of a plan becomes those of its files that are wanted.

The hub's listing tells size and sha256 of every large file, so each of them is verified as if the plan had named it.
"""

from __future__ import annotations

import time
from typing import Iterator, List, Optional, Sequence, Tuple

from ...contract import retry
from ...contract.buckets import is_wanted
from ...contract.failures import Failure
from ...contract.parsing import ParseError
from ...contract.plan import Download
from ...contract.source_kinds import means_many_files
from ...run.context import Context
from ..source_selector import Source
from . import addresses, hub_cache, last_listing
from .documents import SMALL_BYTES
from .listing import ListedFile, Listing
from .lookup import Sources
from .repository_file import RepositoryFile, check_path, inherited

__all__ = ["RepositoryFile", "expand", "files_of", "listing_of"]

PAGES_MOST = 200
"""A page has up to a thousand entries."""
RETRY_CAP_S = 10.0


def expand(
    items: Sequence[Download], access: Sources, context: Context, *, remembers: bool = False
) -> "Tuple[List[Download], List[Tuple[Download, Failure]]]":
    """*items* with every repository replaced by its files, and the repositories that could not be listed.

    Args:
        remembers: Keep what was listed, for a run that may ask nobody: that one takes it for what there is.
    """
    files: List[Download] = []
    unlisted: List[Tuple[Download, Failure]] = []
    for item in items:
        listing = listing_of(item, item.url)
        if listing is None:
            files.append(item)
            continue
        known = last_listing.recalled(item, context) if context.is_offline else None
        if known is not None:
            files += known
            continue
        try:
            found = _patiently(item, listing, access, context)
            if remembers:
                last_listing.keep(item, found, context)
            files += found
        except Failure as failure:
            unlisted.append((item, failure))
    return files, unlisted


def listing_of(item: Download, url: str) -> Optional[Listing]:
    """How to find out the files of *url*, a source of *item*; None when it is one file. Raises as `kind_for`."""
    if not means_many_files(url):
        return None
    return hub_cache.listing(url) if item.layout == "hub" else addresses.kind_for(url).listing(url)


def files_of(item: Download, listing: Listing, access: Sources, *, deadline: float) -> List[Download]:
    """The files of *listing* that *item* wants, each with what the listing tells of it.

    Args:
        deadline: For all pages together, on the monotonic clock.

    Raises:
        Failure: as `Sources.open`, `not_found` when nothing in it is wanted, `unsafe_path` for a name that leaves
            the folder, `upstream_down` for a listing that cannot be read.
    """
    wanted = [
        file
        for file in _listed(item, listing, access, deadline)
        if file.path.startswith(listing.folder) and is_wanted(file.path, item.include, item.exclude)
    ]
    if not wanted:
        raise Failure(
            "not_found",
            f"no file of `{item.url}` is wanted: its patterns fit none",
            case="patterns",
        )
    if listing.items is not None:
        return listing.items(item, wanted)
    return [_file(item, listing, file) for file in wanted]


def _patiently(item: Download, listing: Listing, access: Sources, context: Context) -> List[Download]:
    attempts = retry.Attempts(retry.Schedule(item.limits.attempts, cap_s=RETRY_CAP_S))
    source = Source(listing.url)
    about = {"item": item.label, "key": item.key, "level": item.level}

    def pause(wait_s: float) -> None:
        if context.wait(wait_s):
            raise Failure("timed_out", f"the run ended while {source.host} could not be reached")

    def work() -> List[Download]:
        while context.outages.first([source], pause) is not None:
            within_s = context.bounded(item.limits.lookup_s)
            try:
                found = files_of(item, listing, access, deadline=time.monotonic() + within_s)
            except Failure as failure:
                if failure.class_ != "unreachable" or not failure.retriable:
                    context.outages.end(*source.places)
                    raise
                wait_s = source.not_reached(failure, context.outages, now=time.monotonic())
                if source.failure is None:
                    report(failure, wait_s)
            else:
                context.outages.end(*source.places)
                return found
        assert source.failure is not None
        raise source.failure

    def report(failure: Failure, wait_s: float) -> None:
        count = source.unreached or attempts.failures
        told = {"attempt": count, "wait_s": round(wait_s, 1), "class": failure.class_}
        context.report("download_retried", **about, **told)

    return retry.call(
        work,
        attempts,
        errors=Failure,
        wait=context.wait,
        may_help=lambda failure: failure.retriable and source.failure is None and not context.is_over(),
        before_wait=report,
    )


def _listed(item: Download, listing: Listing, access: Sources, deadline: float) -> Iterator[ListedFile]:
    """Every file of the listing, page by page."""
    if listing.at_hand is not None:
        yield from listing.at_hand()
        return
    url: Optional[str] = listing.url
    for _ in range(PAGES_MOST):
        if url is None:
            return
        access.add(item, url)
        response, _ = access.open(url, span=None, deadline=deadline, connect_s=item.limits.connect_s)
        try:
            page = response.read(SMALL_BYTES, max(0.1, deadline - time.monotonic()))
        finally:
            response.close()
        try:
            files, url = listing.read(page, response.headers)
        except ParseError as error:
            message = f"the listing of `{listing.title}` cannot be read: {error}"
            raise Failure("upstream_down", message) from None
        yield from files


def _file(item: Download, listing: Listing, listed: ListedFile) -> Download:
    inside = listed.path[len(listing.folder) :]
    check_path(listed.path, inside)
    own = {
        "url": listed.url,
        "path": item.path.rstrip("/") + "/" + inside,
        "size_bytes": listed.size_bytes,
        "sha256": listed.sha256,
    }
    return RepositoryFile(**{**inherited(item), **own}, of=item.key)  # type: ignore[arg-type]
