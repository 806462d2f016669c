"""What can go wrong with an item, as a class that programs act on and a hint that people follow."""

from __future__ import annotations

import errno
from typing import Any, Dict, Optional

HINTS: Dict[str, str] = {
    "not_found": "check the URL's spelling in a browser, then correct the profile",
    "gated": "accept the licence on the model's page with the account of your token, then run the same `provision up` again",
    "unauthorized": "set the token that this host wants in your environment, then run the same `provision up` again",
    "rate_limited": "wait and run the same `provision up` again; what has landed is kept",
    "not_a_model": "open the URL in a browser: the server sends a page, not the file; correct the profile",
    "checksum": "the source has other content than the profile says: correct `sha256`, or the URL",
    "size": "the source has another size than the profile says: correct `size`, or the URL",
    "truncated": "run the same `provision up` again: it goes on where the transfer ended",
    "stalled": "run the same `provision up` again: it goes on where it stopped; add a `mirrors:` entry if it keeps stalling",
    "timed_out": "run the same `provision up` again, or raise `limits.file` (`--set` or the item's own `limits:`)",
    "disk_full": "free space on the instance or rent one with a larger disk, then run the same `provision up` again",
    "read_only": "choose a folder that can be written with `--workspace`",
    "unreachable": "try again; if it stays so, this instance's network cannot reach the source: use a mirror or another instance",
    "tls": "check the URL's host name and the instance's clock and CA certificates (`SSL_CERT_FILE`)",
    "upstream_down": "the source's server is in trouble: wait, or add a `mirrors:` entry",
    "unsafe_path": "choose a path inside the workspace",
    "command": "read the last lines above; repeat the command by hand on the instance",
    "missing": "see the errors above it in the log: what should have made it failed or was skipped",
    "conflict": "two items ask for the same thing in different ways: correct the profile",
    "gpu": "rent an instance whose driver suits the wanted torch, or list an older torch version",
    "network": "check the instance's network with `provision doctor`",
    "crashed": "read the service's log on the instance",
    "not_ready": "read the service's log on the instance, or raise `ready.within`",
    "port_taken": "stop the other process, or give the service another port",
    "bug": "please report this with the agent.log of the run",
}
"""Every class, with what to do when the error has no better advice of its own."""

RETRIABLE = frozenset(
    (
        "rate_limited",
        "truncated",
        "stalled",
        "timed_out",
        "unreachable",
        "upstream_down",
        "network",
        "not_ready",
    )
)


class Failure(Exception):
    """An item cannot be had. `class_` is a key of `HINTS`; `message` says what happened and why."""

    def __init__(
        self,
        class_: str,
        message: str,
        *,
        hint: Optional[str] = None,
        retriable: Optional[bool] = None,
        **facts: Any,
    ) -> None:
        super().__init__(message)
        self.class_ = class_
        self.message = message
        self.hint = hint or HINTS[class_]
        self.retriable = class_ in RETRIABLE if retriable is None else retriable
        self.is_reported = False
        """Its event is written: whoever counts it need not write another."""
        self.facts = facts
        """More fields for the event, such as `wait_s` or `found`."""

    def as_fields(self) -> Dict[str, Any]:
        """The fields of a ``…_failed`` event."""
        return dict(
            {"class": self.class_, "message": self.message, "hint": self.hint, "retriable": self.retriable},
            **self.facts,
        )


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MISFIT = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


def disk_failure(error: OSError, path: str) -> Failure:
    """What an error of the file system means: no room, a path that cannot be, or a disk that takes nothing."""
    if error.errno in _FULL:
        return Failure("disk_full", f"no room for `{path}`: {error.strerror}")
    if error.errno in _MISFIT:
        hint = "something else stands at this path on the instance, or it is too long: choose another `path`"
        return Failure("conflict", f"`{path}` cannot be written: {error.strerror}", hint=hint)
    return Failure("read_only", f"cannot write `{path}`: {error.strerror or error}")
