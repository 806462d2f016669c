"""Is what has landed, or is about to, the file that was promised?"""

from __future__ import annotations

import os
from typing import Callable, List, Optional, Tuple

from ..contract.failures import Failure
from . import verify
from .engine.transfer import Transfer
from .existing import Wanted
from .sources.lookup import Answer
from .time_budget import Stopped


def check_promise(wanted: Wanted, answer: Answer, name: str, secrets: List[str]) -> None:
    """Tell a source that has something else apart before a large byte is fetched.

    Args:
        name: Of the file, which says its format.
        secrets: Values that no message may quote.

    Raises:
        Failure: `checksum`, `size`, or as `verify.check_head`.
    """
    if wanted.sha256 and answer.sha256 and wanted.sha256 != answer.sha256:
        raise Failure("checksum", f"{answer.host} has sha256 {answer.sha256}, wanted is {wanted.sha256}")
    if None not in (wanted.size_bytes, answer.size_bytes) and wanted.size_bytes != answer.size_bytes:
        raise Failure("size", f"{answer.host} has {answer.size_bytes} bytes, wanted are {wanted.size_bytes}")
    check_head(answer, name, secrets)


def check_head(answer: Answer, name: str, secrets: List[str]) -> None:
    """Tell by its first bytes that the file of *answer* is not what *name* promises; raises as `verify.check_head`."""
    is_all = answer.size_bytes == len(answer.head)
    verify.check_head(answer.head, name, secrets, is_all=is_all, url=answer.url, token=answer.token)


def check_content(
    transfer: Transfer, size: int, wanted: Wanted, *, secrets: List[str], stop: Callable[[], bool]
) -> str:
    """The sha256 of all that *transfer* brought, when everything about it is right.

    Args:
        size: How many bytes it brought.
        wanted: By the plan; the hash that the source told counts where that has none.
        secrets: Values that no message may quote.
        stop: Asked while the rest is hashed.

    Raises:
        Failure: `size`, `checksum`, or as `verify.check_format`.
        Stopped: *stop* said so.
    """
    assert transfer.hasher is not None
    if wanted.size_bytes not in (None, size):
        raise Failure("size", f"{transfer.answer.host} sent {size} bytes, wanted are {wanted.size_bytes}")
    verify.check_format(transfer.part.descriptor, transfer.name, size, secrets)
    sha256 = transfer.hasher.result(size, stop=stop)
    if sha256 is None:
        raise Stopped
    expected = wanted.sha256 or transfer.answer.sha256
    if expected and sha256 != expected:
        raise Failure("checksum", f"its sha256 is {sha256}, wanted is {expected}")
    if wanted.git_sha1 and not expected:
        git_sha1 = verify.git_sha1_of(transfer.part.descriptor, size)
        if git_sha1 != wanted.git_sha1:
            raise Failure("checksum", f"git calls its content {git_sha1}, wanted is {wanted.git_sha1}")
    return sha256


def signature(path: str) -> Optional[Tuple[int, int]]:
    """Tells the file that is at *path* from another one; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
