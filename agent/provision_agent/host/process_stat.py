"""What the kernel says of one process, or of one of its threads, in /proc/<pid>/stat."""

from __future__ import annotations

from typing import NamedTuple, Optional


class ProcessStat(NamedTuple):
    """One process at one moment."""

    name: str
    state: str
    """One letter, as ps shows it."""
    parent: int
    """Its pid; 0: none that can be seen from here."""
    session: int
    terminal: int
    """The device number of its terminal; 0: it has none."""
    start_ticks: int
    """When it began, in clock ticks since the machine did."""

    @property
    def has_ended(self) -> bool:
        """It is a zombie, or less."""
        return self.state in ("Z", "X")


def read(pid: int, *, thread: Optional[int] = None) -> Optional[ProcessStat]:
    """What is said of *pid*, or of its *thread*; None when it is gone, or nobody says."""
    path = f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat"
    try:
        with open(path, "rb") as file:
            text = file.read()
        before, _, after = text.rpartition(b")")  # the program's name may hold spaces and brackets
        name = before.partition(b"(")[2].decode("utf-8", "replace")
        fields = after.split()
        return ProcessStat(
            name=name,
            state=fields[0].decode("ascii", "replace"),
            parent=int(fields[1]),
            session=int(fields[3]),
            terminal=int(fields[4]),
            start_ticks=int(fields[19]),
        )
    except (OSError, ValueError, IndexError):
        return None
