"""How far a copy by hand is, and what could not be copied: why, and what to type next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from provision_agent.contract.failures import Failure, hint_of
from provision_agent.contract.file_messages import FAILED, FILE, HAVE, FileTold, SettledFile

SHOWN, NAMED = 10, 3

_NEXT = {
    "link_leads_out": "copy what the link leads to, or leave the link out with `--exclude`",
    "odd_name": "leave it out with `--exclude`, or give it another name",
    "unreadable_here": "check the path, and whether you may read it",
    "path_taken": "move away what stands there, or choose another target",
    "path_unwritable": "choose a target that the login of the instance may write",
    "full_here": "free space here, or choose another target: the same command again goes on where it was",
    "unwritable_here": "choose a target that you may write",
    "disk_full": "free space there, or choose another target: the same command again goes on where it was",
    "read_only": "choose a target that may be written",
    "conflict": "move away what stands there, or choose another target",
    "unsafe_path": "leave it out with `--exclude`",
}


def next_of(class_: str, case: str | None, about: dict[str, str] | None = None) -> str:
    """What to type next where a file cannot be copied by hand: there is no profile that could be corrected."""
    return _NEXT.get(case or "") or _NEXT.get("" if case else class_) or hint_of(class_, case, about)


@dataclass(frozen=True)
class NotCopied:
    """Why a file could not be copied, and what to do."""

    message: str
    next: str = ""


@dataclass
class Copied:
    """How far a copy is."""

    files: int = 0
    """Sent or fetched."""
    there: int = 0
    """Were the same on both sides already."""
    bytes: int = 0
    """Over the wire."""
    failed: dict[str, NotCopied] = field(default_factory=dict)
    """By path."""

    def settle(self, path: str, told: FileTold, settled: SettledFile) -> None:
        """Count what became of the file at *path*."""
        if settled.state == FAILED:
            next_ = next_of(settled.class_, settled.case, settled.about)
            self.failed[path] = NotCopied(settled.message, next_)
            return
        self.failed.pop(path, None)
        if told.kind == FILE:
            self.there += settled.state == HAVE
            self.files += settled.state != HAVE

    def refuse(self, path: str, failure: Failure) -> None:
        """What was never named as a file cannot be copied."""
        self.failed[path] = NotCopied(failure.message, next_of(failure.class_, failure.case, failure.about))

    def count(self, count: int) -> None:
        """So many bytes more."""
        self.bytes += count

    def lines(self) -> list[str]:
        """What could not be copied, for people: what is alike once."""
        alike: dict[str, list[str]] = {}
        for path, why in self.failed.items():
            alike.setdefault(why.message.replace(f"`{path}`", "`…`"), []).append(path)
        lines = []
        for paths in list(alike.values())[:SHOWN]:
            first, *others = paths
            message = self.failed[first].message
            line = message if first in message else f"{first}: {message}"
            if others:
                named = ", ".join(f"`{path}`" for path in others[:NAMED])
                more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
                line += f"; the same of {named}{more}"
            lines.append(line)
        if len(alike) > SHOWN:
            left = sum(len(paths) for paths in list(alike.values())[SHOWN:])
            lines.append(f"and {left} more (--json lists all)")
        return lines

    def hints(self) -> list[str]:
        """What to do about it, what concerns most files first."""
        return [
            text for text, _ in Counter(why.next for why in self.failed.values() if why.next).most_common(3)
        ]
