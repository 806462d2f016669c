"""What can go wrong, as classes that programs act on and hints that people follow; and the exception that carries one."""

from __future__ import annotations

import errno
from typing import Dict, Iterable, Mapping, NamedTuple, Optional, Set, Tuple, Union

from . import cases


class FailureClass(NamedTuple):
    """What one class means."""

    hint: str
    """What to do, when its case (`cases.CASES`) has no better advice."""
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
    is_of_contact: bool = False
    """It is about the way to the instance: this side says so, never an agent."""
    follows_others: bool = False
    """Where something else failed too, that is the reason: only alone does it say what to do."""

    @property
    def is_of_instance(self) -> bool:
        """Nothing helps here, whatever is asked for: only another instance does."""
        return self.next == "replace_instance"


FAILURES: Dict[str, FailureClass] = {
    "not_found": FailureClass(
        "open the URL in a browser and check its spelling, then correct the profile", "fix_profile", "item"
    ),
    "gated": FailureClass(
        "accept the licence on the model's page with the account of your token, then the same command again",
        "fix_credentials",
        "item",
    ),
    "unauthorized": FailureClass(
        "set the token that this host wants in your environment and name it under `secrets:` of the profile",
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
        "the same command again goes on with it; if it ends so again, raise the limit: of a file `limits.file`, of a command "
        "its `timeout`, of the run `--timeout`",
        "retry",
        "item",
        is_retriable=True,
    ),
    "disk_full": FailureClass(
        "free space on the instance, or rent one with a larger disk, then the same command again",
        "replace_instance",
        "run",
        helps_elsewhere=False,
    ),
    "read_only": FailureClass(
        "choose a folder that can be written with `--workspace`, or make it writable on the instance",
        "fix_instance",
        "run",
        helps_elsewhere=False,
    ),
    "unreachable": FailureClass(
        "try again; if it stays so, the source cannot be reached from there: use a mirror, or another instance or network",
        "retry",
        "host",
        is_retriable=True,
    ),
    "offline": FailureClass(
        "the same command without `--offline` fetches it; or copy it to that path on the instance",
        "fix_instance",
        "item",
    ),
    "tls": FailureClass(
        "check the URL's host name and the instance's clock and CA certificates (`SSL_CERT_FILE`)",
        "fix_instance",
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
        "if another error says why, mend that; else no step of the profile makes it: correct the check, or add what does",
        "fix_profile",
        "item",
        follows_others=True,
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
    "unfit": FailureClass(
        "this instance is not what `require:` of the profile asks for: take another one, or ask for less",
        "replace_instance",
        "run",
        helps_elsewhere=False,
    ),
    "network": FailureClass(
        "the instance cannot get out: check its network and `https_proxy`, then the same command again",
        "retry",
        "run",
        is_retriable=True,
    ),
    "crashed": FailureClass(
        "read the service's log on the instance; correct its `run:` or what it needs", "fix_profile", "item"
    ),
    "not_ready": FailureClass(
        "read the service's log on the instance, or raise `ready.within`", "retry", "item", is_retriable=True
    ),
    "node_import": FailureClass(
        "read the lines above it in the service's log: add what it needs (`install:` of the repo, a layer), "
        "or choose another `ref`",
        "fix_profile",
        "item",
    ),
    "service_log": FailureClass("read the service's log on the instance", "fix_profile", "item"),
    "port_taken": FailureClass(
        "stop the other process on the instance, or give the service another port", "fix_instance", "item"
    ),
    "bug": FailureClass(
        "please report this with the agent.log of the run", "report_bug", "run", helps_elsewhere=False
    ),
    "secret_in_file": FailureClass(
        "delete the value from the file, find what wrote it there, and take a new token in place of this one: "
        "whoever had the file may have read it",
        "none",
        "item",
    ),
    "no_python": FailureClass(
        "on the instance: `apt-get update && apt-get install -y python3`, then the same command again",
        "fix_instance",
        "run",
        helps_elsewhere=False,
    ),
    "protocol": FailureClass(
        "the instance sends what no version of provision sends: update provision, or replace the instance",
        "replace_instance",
        "run",
        helps_elsewhere=False,
    ),
    "agent_changed": FailureClass(
        "another user of the instance can write where the agent lies: give a `--workspace` below a folder that only you can write, "
        "or replace the instance",
        "replace_instance",
        "run",
        helps_elsewhere=False,
    ),
    "unknown-name": FailureClass(
        "check the host's spelling in `--host`; an alias must stand in your ssh configuration (`--ssh-config`)",
        "fix_address",
        "run",
        is_of_contact=True,
    ),
    "refused": FailureClass(
        "check that the instance runs, and that the port is that of its SSH: `--host HOST:PORT`",
        "fix_address",
        "run",
        is_of_contact=True,
    ),
    "timed-out": FailureClass(
        "check that the instance runs and that its SSH port is open to this machine",
        "replace_instance",
        "run",
        is_of_contact=True,
    ),
    "reset": FailureClass(
        "look at the provider's page: the instance takes the connection and drops it, or the port is not that of its SSH",
        "replace_instance",
        "run",
        is_of_contact=True,
    ),
    "no-route": FailureClass(
        "check the address, and the network of this machine; the provider's page says whether the instance exists",
        "replace_instance",
        "run",
        is_of_contact=True,
    ),
    "no-exec": FailureClass(
        "a provider's proxy is often a terminal only: use the instance's direct SSH address and port",
        "fix_address",
        "run",
        is_of_contact=True,
    ),
    "no-python": FailureClass(
        "on the instance: `apt-get update && apt-get install -y python3`, then the same command again",
        "fix_instance",
        "run",
        is_of_contact=True,
    ),
    "closed": FailureClass(
        "check the address, and that the port is that of its SSH: `--host HOST:PORT`",
        "fix_address",
        "run",
        is_of_contact=True,
    ),
    "agents-dead": FailureClass(
        "`provision attach` starts the agent again and goes on with the run",
        "retry",
        "run",
        is_of_contact=True,
    ),
    "folder-gone": FailureClass(
        "`provision up` with the same profile goes on with what is there; files are verified, not trusted",
        "retry",
        "run",
        is_of_contact=True,
    ),
}
"""Every class, by name."""

_NEXT_ORDER = (
    "replace_instance",
    "fix_address",
    "fix_credentials",
    "fix_profile",
    "fix_instance",
    "report_bug",
    "retry",
)
"""What to do first, when errors of several classes came together."""

Kind = Union[str, Tuple[str, Optional[str]]]
"""A class of failure, or a class and a case."""


def hint_of(class_: str, case: Optional[str] = None, about: Optional[Mapping[str, str]] = None) -> str:
    """What to do about a failure, in this side's own words.

    Args:
        class_: A key of `FAILURES`; one that is not known here has the advice to bring the two versions together. Empty
            or ``ok``: nothing failed.
        case: A key of `cases.CASES`; one that is not known here counts for nothing.
        about: The particulars of the case.
    """
    known = FAILURES.get(class_)
    unknown = "update provision here: the instance speaks of what this version does not know"
    of_class = known.hint if known is not None else unknown
    return cases.words(case, about) or ("" if class_ in ("", "ok") else of_class)


def next_of_kinds(kinds: Iterable[Kind]) -> Optional[str]:
    """What a program should do about errors of these kinds; None when none of them says."""
    wanted: Set[str] = set()
    follow: Set[str] = set()
    for kind in kinds:
        class_, case = (kind, None) if isinstance(kind, str) else kind
        of_case = cases.CASES.get(case or "")
        meaning = FAILURES.get(class_)
        if of_case is not None and of_case.next is not None:
            wanted.add(of_case.next)
        elif meaning is not None:
            (follow if meaning.follows_others else wanted).add(meaning.next)
    return next((word for word in _NEXT_ORDER if word in (wanted or follow)), None)


class Failure(Exception):
    """An item cannot be had.

    Args:
        class_: A key of `FAILURES`.
        message: What happened and why.
        case: A key of `cases.CASES`, where there is better advice than that of the class.
        about: What the words of that case leave open.
        retriable: The same again may help; None: as the class says.
    """

    def __init__(
        self,
        class_: str,
        message: str,
        *,
        case: Optional[str] = None,
        about: Optional[Mapping[str, object]] = None,
        retriable: Optional[bool] = None,
        **facts: object,
    ) -> None:
        super().__init__(message)
        self.class_ = class_
        self.message = message
        self.meaning = FAILURES[class_]
        self.case = case
        self.about = {name: str(value) for name, value in (about or {}).items()}
        self.retriable = self.meaning.is_retriable if retriable is None else retriable
        self.place = ""
        """The server that it is about, as ``host:port``, where it is one that cannot be reached."""
        self.is_reported = False
        """Its event is written: whoever counts it need not write another."""
        self.facts: Dict[str, object] = facts
        """More fields for the event, such as `wait_s` or `found`."""

    @property
    def hint(self) -> str:
        """What to do."""
        return hint_of(self.class_, self.case, self.about)

    def advise(self, case: str, **about: object) -> None:
        """Give the advice of *case* in place of the present one."""
        self.case, self.about = case, {name: str(value) for name, value in about.items()}

    def saying(self, message: str) -> Failure:
        """The same failure in other words."""
        other = Failure(
            self.class_, message, case=self.case, about=self.about, retriable=self.retriable, **self.facts
        )
        other.place = self.place
        return other

    @property
    def wait_s(self) -> Optional[float]:
        """How long the other side wants to be left alone; None when it does not say."""
        wait_s = self.facts.get("wait_s")
        return float(wait_s) if isinstance(wait_s, (int, float)) else None

    def as_fields(self) -> Dict[str, object]:
        """The fields of a ``…_failed`` event."""
        own = {"class": self.class_, "message": self.message, "hint": self.hint, "retriable": self.retriable}
        case = {"case": self.case, "about": self.about} if self.case is not None else {}
        return {**own, **case, **self.facts}


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MISFIT = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


def disk_failure(error: OSError, path: str) -> Failure:
    """What an error of the file system means: no room, a path that cannot be, or a disk that takes nothing.

    Returns:
        `disk_full`, `conflict` or `read_only`; the caller raises it.
    """
    if error.errno in _FULL:
        return Failure("disk_full", f"no room for `{path}`: {error.strerror}")
    if error.errno in _MISFIT:
        return Failure("conflict", f"`{path}` cannot be written: {error.strerror}", case="path_taken")
    return Failure("read_only", f"cannot write `{path}`: {error.strerror or error}", case="path_unwritable")
