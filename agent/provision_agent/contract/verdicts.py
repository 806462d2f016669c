"""Every way a run, or a command that watched one, can end: exit code, meaning, and what to do next. Pure."""

from __future__ import annotations

from typing import Dict, Iterable, List, NamedTuple, Optional

from .failures import FAILURES, Kind, next_of_kinds

NEXT: Dict[str, str] = {
    "none": "",
    "retry": "run the same `provision up` again: what has landed is kept",
    "replace_instance": "destroy this instance and take another one: this one cannot be mended from here",
    "fix_instance": "put the instance right as said above, then the same command again",
    "fix_address": "correct the address as said above, then the command again",
    "fix_profile": "correct the profile as said above, then `provision up` again",
    "fix_credentials": "correct the key or the token as said above, then the same command again",
    "report_bug": "please report this, with the logs above",
}
"""Every word that a caller can be told, with what people are told."""


class Verdict(NamedTuple):
    """One way to end."""

    code: int
    """The exit code of the command."""
    severity: int
    """The higher, the worse: of many verdicts, the worst counts."""
    next: Optional[str]
    """What to do next; None: the classes of the errors say it."""
    meaning: str
    tone: str = "bad"
    """How a person should take it: ``good``, ``warn`` or ``bad``."""
    is_of_instance: bool = True
    """A run can end so; the others are only ends of a command here."""
    is_of_contact: bool = False
    """What the way to the instance lacks (a class that `is_of_contact`) says better what to do next."""


VERDICTS: Dict[str, Verdict] = {
    "complete": Verdict(0, 0, "none", "everything needed is there and checked", "good"),
    "failed": Verdict(1, 40, None, "something critical is missing, or the preflight refused"),
    "usage": Verdict(
        2,
        130,
        "none",
        "invalid arguments, an unknown run, or a mirror that is locked or was edited",
        is_of_instance=False,
    ),
    "profile": Verdict(3, 120, "fix_profile", "the profile is wrong", is_of_instance=False),
    "refused": Verdict(4, 30, "fix_instance", "the run of another plan is going on the instance"),
    "incomplete": Verdict(5, 20, None, "usable, but something required is missing", "warn"),
    "unreachable": Verdict(10, 90, "replace_instance", "no SSH session could be opened", is_of_contact=True),
    "host-key": Verdict(11, 110, "fix_credentials", "the host key has changed or is unknown"),
    "contact-lost": Verdict(
        12, 60, "retry", "the connection was lost and not restored in time; the run may go on", "warn"
    ),
    "auth-refused": Verdict(13, 100, "fix_credentials", "the instance does not take this user with this key"),
    "agent-lost": Verdict(
        14,
        70,
        "replace_instance",
        "the agent died without a verdict, or the instance speaks what cannot be understood",
        is_of_contact=True,
    ),
    "instance-gone": Verdict(15, 80, "replace_instance", "the instance does not exist any more"),
    "bug": Verdict(
        70, 150, "report_bug", "a bug in this tool; it says nothing about the instance", is_of_instance=False
    ),
    "local": Verdict(
        74, 140, "retry", "this machine: the disk is full, or a permission is missing", is_of_instance=False
    ),
    "timeout": Verdict(124, 50, None, "the deadline passed"),
    "cancelled": Verdict(130, 10, "none", "the run was stopped, or the command was interrupted", "warn"),
}
"""Every verdict, by name."""


def exit_code(verdict: str) -> int:
    """The exit code of *verdict*; an unknown one counts as failed."""
    return VERDICTS[verdict].code if verdict in VERDICTS else VERDICTS["failed"].code


def worst(codes: Iterable[int]) -> int:
    """The exit code of many: the worst of *codes*; 0 when there is none."""
    return max(codes, key=lambda code: _SEVERITY.get(code, VERDICTS["failed"].severity), default=0)


def next_action(verdict: str, errors: Iterable[Kind]) -> str:
    """What a caller should do after a run.

    Args:
        verdict: One of `VERDICTS`; of an unknown one only the errors count.
        errors: The kinds of its errors.

    Returns:
        One of `NEXT`.
    """
    kinds: List[Kind] = list(errors)
    found = VERDICTS.get(verdict)
    if found is not None and found.is_of_contact:
        return next_of_kinds(kind for kind in kinds if _is_of_contact(kind)) or str(found.next)
    return (found.next if found is not None else None) or next_of_kinds(kinds) or "retry"


def _is_of_contact(kind: Kind) -> bool:
    meaning = FAILURES.get(kind if isinstance(kind, str) else kind[0])
    return meaning is not None and meaning.is_of_contact


_SEVERITY = {verdict.code: verdict.severity for verdict in VERDICTS.values()}
