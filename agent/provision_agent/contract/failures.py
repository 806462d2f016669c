"""What can go wrong, as classes that programs act on and hints that people follow; and the exception that carries one."""

from __future__ import annotations

import errno
from typing import Dict, Iterable, NamedTuple, Optional


class FailureClass(NamedTuple):
    """What one class means."""

    hint: str
    """What to do, when the failure has no better advice of its own."""
    next: str
    """What a program should do: a word of `verdicts.NEXT`."""
    scope: str
    """What it is about: ``item``, ``host`` (all items of that source), ``run`` (the instance as a whole)."""
    is_retriable: bool = False
    """The same again may help."""
    helps_elsewhere: bool = True
    """Another source of the same thing may do better."""
    helps_afresh: bool = False
    """Bytes may have been spoilt on the way: the same again from the beginning may help, once."""

    @property
    def is_of_instance(self) -> bool:
        """Nothing helps here, whatever is asked for: only another instance does."""
        return self.next == "replace_instance"


FAILURES: Dict[str, FailureClass] = {
    "not_found": FailureClass(
        "check the URL's spelling in a browser, then correct the profile", "fix_profile", "item"
    ),
    "gated": FailureClass(
        "accept the licence on the model's page with the account of your token, then run the same `provision up` again",
        "fix_credentials",
        "item",
    ),
    "unauthorized": FailureClass(
        "set the token that this host wants in your environment, then run the same `provision up` again",
        "fix_credentials",
        "host",
    ),
    "rate_limited": FailureClass(
        "wait and run the same `provision up` again; what has landed is kept",
        "retry",
        "host",
        is_retriable=True,
    ),
    "not_a_model": FailureClass(
        "the source has another file than the profile says: open the URL in a browser, then correct it",
        "fix_profile",
        "item",
    ),
    "checksum": FailureClass(
        "the source has other content than the profile says: correct `sha256`, or the URL",
        "fix_profile",
        "item",
        helps_afresh=True,
    ),
    "size": FailureClass(
        "the source has another size than the profile says: correct `size`, or the URL", "fix_profile", "item"
    ),
    "truncated": FailureClass(
        "run the same `provision up` again: it goes on where the transfer ended",
        "retry",
        "item",
        is_retriable=True,
        helps_afresh=True,
    ),
    "stalled": FailureClass(
        "run the same `provision up` again: it goes on where it stopped; add a `mirrors:` entry if it keeps stalling",
        "retry",
        "item",
        is_retriable=True,
    ),
    "timed_out": FailureClass(
        "run the same `provision up` again, or raise `limits.file` (`--set` or the item's own `limits:`)",
        "retry",
        "item",
        is_retriable=True,
    ),
    "disk_full": FailureClass(
        "free space on the instance or rent one with a larger disk, then run the same `provision up` again",
        "replace_instance",
        "run",
        helps_elsewhere=False,
    ),
    "read_only": FailureClass(
        "choose a folder that can be written with `--workspace`",
        "replace_instance",
        "run",
        helps_elsewhere=False,
    ),
    "unreachable": FailureClass(
        "try again; if it stays so, this instance's network cannot reach the source: use a mirror or another instance",
        "retry",
        "host",
        is_retriable=True,
    ),
    "tls": FailureClass(
        "check the URL's host name and the instance's clock and CA certificates (`SSL_CERT_FILE`)",
        "retry",
        "host",
    ),
    "upstream_down": FailureClass(
        "the source's server is in trouble: wait, or add a `mirrors:` entry",
        "retry",
        "host",
        is_retriable=True,
    ),
    "unsafe_path": FailureClass(
        "choose a path inside the workspace", "fix_profile", "item", helps_elsewhere=False
    ),
    "command": FailureClass(
        "read the last lines above; repeat the command by hand on the instance", "fix_profile", "item"
    ),
    "missing": FailureClass(
        "see the errors above it in the log: what should have made it failed or was skipped", "retry", "item"
    ),
    "conflict": FailureClass(
        "two items ask for the same thing in different ways: correct the profile",
        "fix_profile",
        "item",
        helps_elsewhere=False,
    ),
    "gpu": FailureClass(
        "rent an instance whose driver suits the wanted torch, or list an older torch version",
        "replace_instance",
        "run",
        helps_elsewhere=False,
    ),
    "network": FailureClass(
        "check the instance's network with `provision doctor`", "retry", "run", is_retriable=True
    ),
    "crashed": FailureClass("read the service's log on the instance", "retry", "item"),
    "not_ready": FailureClass(
        "read the service's log on the instance, or raise `ready.within`", "retry", "item", is_retriable=True
    ),
    "port_taken": FailureClass("stop the other process, or give the service another port", "retry", "item"),
    "bug": FailureClass(
        "please report this with the agent.log of the run", "report_bug", "run", helps_elsewhere=False
    ),
    "no_python": FailureClass(
        "on the instance: `apt-get update && apt-get install -y python3`, then the same command again",
        "replace_instance",
        "run",
        helps_elsewhere=False,
    ),
    "protocol": FailureClass(
        "the instance sends what no version of provision sends: update provision, or replace the instance",
        "replace_instance",
        "run",
        helps_elsewhere=False,
    ),
}
"""Every class, by name."""

_NEXT_ORDER = ("replace_instance", "fix_credentials", "fix_profile", "report_bug")
"""What to do first, when errors of several classes came together."""


def next_of_classes(classes: Iterable[str]) -> Optional[str]:
    """What a program should do about errors of these classes; None when none of them says."""
    wanted = {FAILURES[name].next for name in classes if name in FAILURES}
    return next((word for word in _NEXT_ORDER if word in wanted), None)


class Failure(Exception):
    """An item cannot be had. `class_` is a key of `FAILURES`; `message` says what happened and why."""

    def __init__(
        self,
        class_: str,
        message: str,
        *,
        hint: Optional[str] = None,
        retriable: Optional[bool] = None,
        **facts: object,
    ) -> None:
        super().__init__(message)
        self.class_ = class_
        self.message = message
        self.meaning = FAILURES[class_]
        self.hint = hint or self.meaning.hint
        self.retriable = self.meaning.is_retriable if retriable is None else retriable
        self.place = ""
        """The server that it is about, as ``host:port``, where it is one that cannot be reached."""
        self.is_reported = False
        """Its event is written: whoever counts it need not write another."""
        self.facts: Dict[str, object] = facts
        """More fields for the event, such as `wait_s` or `found`."""

    @property
    def wait_s(self) -> Optional[float]:
        """How long the other side wants to be left alone; None when it does not say."""
        wait_s = self.facts.get("wait_s")
        return float(wait_s) if isinstance(wait_s, (int, float)) else None

    def as_fields(self) -> Dict[str, object]:
        """The fields of a ``…_failed`` event."""
        own = {"class": self.class_, "message": self.message, "hint": self.hint, "retriable": self.retriable}
        return {**own, **self.facts}


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
