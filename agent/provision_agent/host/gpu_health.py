"""Whether the cards are free and whole, as nvidia-smi and the kernel's log tell. Never raises, never waits long."""

from __future__ import annotations

import re
import shutil
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..contract.failures import Failure
from . import process

ASK_S = 8.0
_MOST_LINES = 2000
_FIELDS = "pci.bus_id,memory.total,memory.used"
_ERROR_FIELDS = "pci.bus_id,ecc.errors.uncorrected.volatile.total,retired_pages.pending"
_ROW_FIELDS = "gpu_bus_id,remapped_rows.pending,remapped_rows.failure"
_XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]{4,20})\): ([0-9]{1,4})\b")
_BUS = re.compile(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{2}):([0-9a-f]{2})")
BROKEN_XIDS = {
    48: "a memory error that could not be corrected",
    62: "its own controller halted",
    64: "bad memory could not be taken out of use",
    74: "NVLink errors",
    79: "it fell off the bus",
    92: "many memory errors",
    94: "a memory error that could not be corrected",
    95: "a memory error that could not be contained",
    119: "its own processor does not answer",
    120: "its own processor failed",
    140: "a memory error that could not be corrected",
    143: "it could not be started",
}
"""The Xid events that speak of the card itself; all others may be a program's fault."""


class Card(NamedTuple):
    """The memory of one card."""

    bus: str
    total_bytes: int
    used_bytes: int


class Health(NamedTuple):
    """What is known of all cards; `cards` is None where nvidia-smi is not there or cannot tell."""

    cards: Optional[Tuple[Card, ...]]
    errors: Tuple[str, ...]
    """What is broken, one sentence for each."""


def look() -> Health:
    """Ask nvidia-smi and the kernel's log."""
    if shutil.which("nvidia-smi") is None:
        return Health(None, tuple(_log_errors(set())))
    rows, complaint = _ask(f"--query-gpu={_FIELDS}")
    cards = tuple(card for card in map(_card, rows) if card is not None)
    errors = [complaint] if complaint else []
    errors += [
        f"nvidia-smi: {word}"
        for row in rows
        for word in row
        if re.search(r"is lost|ERR!|Unknown Error", word)
    ]
    errors += _memory_errors()
    errors += _log_errors({_place(card.bus) for card in cards})
    return Health(cards or None, tuple(dict.fromkeys(errors)))


def _card(row: Sequence[str]) -> Optional[Card]:
    if len(row) != 3 or not all(re.fullmatch(r"[0-9]{1,9}", cell) for cell in row[1:]):
        return None
    return Card(row[0], int(row[1]) << 20, int(row[2]) << 20)


def _memory_errors() -> List[str]:
    """What nvidia-smi counts; a card or a driver that does not count has none."""
    found = []
    for bus, uncorrected, pending in _rows_of(3, f"--query-gpu={_ERROR_FIELDS}"):
        if re.fullmatch(r"[0-9]{1,18}", uncorrected) and int(uncorrected):
            found.append(f"card {bus}: {uncorrected} ECC errors that could not be corrected")
        if _is_yes(pending):
            found.append(f"card {bus}: memory pages are to be taken out of use")
    for bus, pending, failure in _rows_of(3, f"--query-remapped-rows={_ROW_FIELDS}"):
        if _is_yes(failure):
            found.append(f"card {bus}: bad memory rows could not be replaced")
        elif _is_yes(pending):
            found.append(f"card {bus}: memory rows are to be replaced")
    return found


def _is_yes(cell: str) -> bool:
    return cell.lower() == "yes" or (cell.isdigit() and int(cell) > 0)


def _rows_of(width: int, question: str) -> List[List[str]]:
    return [row for row in _ask(question)[0] if len(row) == width]


def _ask(question: str) -> Tuple[List[List[str]], str]:
    """The rows of the answer, and what nvidia-smi says where it cannot answer because a card is broken."""
    lines, status = _lines(["nvidia-smi", question, "--format=csv,noheader,nounits"])
    said = next(
        (line for line in lines if re.search(r"is lost|unable to determine the device", line, re.IGNORECASE)),
        "",
    )
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if "," in line]
    return (rows if status == 0 else []), (f"nvidia-smi: {said[:200]}" if said else "")


def _log_errors(ours: Set[Tuple[int, str, str]]) -> List[str]:
    """What the kernel has logged since it started, of our cards; of all where it is not known which are ours."""
    counts: Dict[Tuple[str, int], int] = {}
    for line in _kernel_log():
        found = _XID.search(line)
        if found is None or int(found[2]) not in BROKEN_XIDS:
            continue
        if not ours or _place(found[1]) in ours:
            event = (found[1], int(found[2]))
            counts[event] = counts.get(event, 0) + 1
    return [
        f"kernel log: Xid {number} of card {bus}, {count} times: {BROKEN_XIDS[number]}"
        for (bus, number), count in counts.items()
    ]


def _kernel_log() -> List[str]:
    """Its lines about cards; none where it may not be read, as in most containers."""
    for argv in (["dmesg"], ["journalctl", "-k", "-b", "-q", "--no-pager", "-o", "cat"]):
        if shutil.which(argv[0]) is not None:
            lines, status = _lines(argv, only="NVRM: Xid")
            if status == 0:
                return lines
    return []


def _place(bus: str) -> Tuple[int, str, str]:
    """Domain, bus and device of a PCI address, which tools write in several ways."""
    found = _BUS.match(bus.lower())
    return (int(found[1] or "0", 16), found[2], found[3]) if found is not None else (-1, bus, "")


def _lines(argv: List[str], only: str = "") -> Tuple[List[str], int]:
    """What *argv* prints, its first lines with *only* in them, and how it ended; 1 where it did not."""
    lines: List[str] = []

    def keep(line: str) -> None:
        if only in line and len(lines) < _MOST_LINES:
            lines.append(line[:4000])

    try:
        return lines, process.run(argv, timeout_s=ASK_S, on_line=keep).status
    except Failure:
        return lines, 1
