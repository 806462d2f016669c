"""Which file on the disk holds the bytes that come next, whatever rotated a log meanwhile.

A file is known by its inode and *proved* by its bytes: those at its head and those just before the offset. An inode
may be used again and a size may grow past the old one, but bytes that were sent cannot be sent again by chance.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from . import protocol

CHUNK_BYTES = 256 * 1024
EVIDENCE_BYTES = 1024
"""So much of the head, and so much before the offset, is compared on every wake."""
MAX_SIBLINGS = 1000

Identity = Tuple[int, int]
"""Device and inode."""


class Source:
    """One open incarnation of a log, and how far it has been read."""

    def __init__(self, descriptor: int, path: str, offset: int = 0) -> None:
        self.descriptor = descriptor
        self.path = path
        self.offset = offset
        facts = os.fstat(descriptor)
        self.identity: Identity = (facts.st_dev, facts.st_ino)
        self.modified_ns = facts.st_mtime_ns
        self._head = os.pread(descriptor, min(EVIDENCE_BYTES, offset), 0)
        start = max(0, offset - EVIDENCE_BYTES)
        self._behind = os.pread(descriptor, offset - start, start)

    @classmethod
    def open(cls, path: str, offset: int = 0) -> "Optional[Source]":
        """The regular file at *path*; None when there is none that can be read."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return cls(descriptor, path, offset)

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self.descriptor).st_size

    def read(self) -> Optional[bytes]:
        """The next bytes, empty at the end; None when those before are not what they were.

        The evidence is looked at *after* the read: if it still stands, nothing was truncated before or during it.
        """
        data = os.pread(self.descriptor, CHUNK_BYTES, self.offset)
        if not self.has_evidence_of(self):
            return None
        self.offset += len(data)
        self._behind = (self._behind + data[-EVIDENCE_BYTES:])[-EVIDENCE_BYTES:]
        if len(self._head) < EVIDENCE_BYTES:
            self._head = (self._head + data[:EVIDENCE_BYTES])[:EVIDENCE_BYTES]
        return data

    def has_evidence_of(self, other: "Source") -> bool:
        """Whether this file holds what was last read of *other*, at the same place."""
        behind, head = other._behind, other._head
        if os.pread(self.descriptor, len(behind), other.offset - len(behind)) != behind:
            return False
        return other.offset <= EVIDENCE_BYTES or os.pread(self.descriptor, len(head), 0) == head

    def proves(self, offset: int, proof: Optional[str]) -> bool:
        """Whether the bytes before *offset* have the sha256 *proof*; nothing is proved by nothing."""
        if offset == 0 or proof is None or self.size < offset:
            return False
        start = max(0, offset - protocol.PROOF_BYTES)
        return _sha256(self, start, offset - start) == proof

    def facts(self) -> Dict[str, Any]:
        """What finds this file again after a cut."""
        return {"dev": self.identity[0], "ino": self.identity[1]}

    def close(self) -> None:
        os.close(self.descriptor)


class Claim(NamedTuple):
    """What the receiver says it has: up to where, of which file."""

    offset: int
    proof: Optional[str]
    identity: Optional[Identity]
    since: float
    """When (this machine's clock) that generation was begun; a copy of it cannot be older."""
    samples: List[Tuple[int, int, str]]
    """``(offset, length, sha256)`` of a few parts all over what the receiver has."""
    known_bytes: Optional[int]
    """The file's size when it was last heard of."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Claim":
        """The claim in one entry of a follow request; an older collector claims less."""
        inode = entry.get("ino")
        return cls(
            offset=int(entry.get("offset", 0)),
            proof=entry.get("proof"),
            identity=None if inode is None else (int(entry["dev"]), int(inode)),
            since=float(entry.get("since") or 0.0),
            samples=[(int(at), int(size), str(proof)) for at, size, proof in entry.get("samples") or ()],
            known_bytes=entry.get("known_bytes"),
        )


class Sibling(NamedTuple):
    """A rotated file of a log, by its name."""

    path: str
    identity: Identity
    modified_ns: int
    size: int


def siblings(path: str) -> List[Sibling]:
    """The rotated files of the log *path*, the oldest first."""
    found = []
    for target in dict.fromkeys((path, os.path.realpath(path))):
        folder, name = os.path.split(target)
        is_rotated = protocol.rotated_name(name)
        try:
            with os.scandir(folder or ".") as entries:
                for entry in entries:
                    if is_rotated.match(entry.name) and entry.is_file():
                        facts = entry.stat()
                        found.append(
                            Sibling(
                                entry.path, (facts.st_dev, facts.st_ino), facts.st_mtime_ns, facts.st_size
                            )
                        )
        except OSError:
            continue  # the folder does not exist yet, or a file went while we looked: the next look sees more
    found.sort(key=lambda sibling: (sibling.modified_ns, protocol.rotation_age(sibling.path)))
    return found[-MAX_SIBLINGS:]


def locate(path: str, claim: Claim) -> Optional[Source]:
    """The file that holds what *claim* says, open at its offset: that one, or a renamed or copied one of *path*."""
    current = Source.open(path)
    candidates = [] if current is None else [current]
    for sibling in siblings(path):
        if current is None or sibling.identity != current.identity:
            candidates += filter(None, [Source.open(sibling.path)])
    fitting = [source for source in candidates if _fits(source, claim)]
    found = min(fitting, key=lambda source: _likelihood(source, claim, current), default=None)
    for source in candidates:
        if source is not found:
            source.close()
    if found is None or claim.offset == 0:
        return found
    reopened = Source(os.dup(found.descriptor), found.path, claim.offset)
    found.close()
    return reopened


def copy_of(path: str, source: Source) -> Optional[Source]:
    """A rotated file of *path* that holds what was last read of *source*, open at its offset: made by copytruncate."""
    for sibling in siblings(path) if source.offset else ():
        if sibling.identity == source.identity or sibling.size < source.offset:
            continue
        copy = Source.open(sibling.path, source.offset)
        if copy is not None and copy.has_evidence_of(source):
            return copy
        if copy is not None:
            copy.close()
    return None


def is_edited(path: str, claim: Claim) -> bool:
    """Whether the receiver changed what it had: most of it is in a file of this log, the last bytes are not."""
    for name in [path, *(sibling.path for sibling in siblings(path))]:
        source = Source.open(name) if claim.samples else None
        if source is None:
            continue
        equal = sum(_sha256(source, at, size) == proof for at, size, proof in claim.samples)
        source.close()
        if equal * 2 >= len(claim.samples):
            return True
    return False


def later(path: str, found: Source) -> List[Source]:
    """The whole files that were written after *found* and before the one at *path*, the oldest first."""
    chain: List[Source] = []
    rotated = siblings(path)
    name = next((sibling.path for sibling in rotated if sibling.identity == found.identity), path)
    age = (os.fstat(found.descriptor).st_mtime_ns, protocol.rotation_age(name))
    for sibling in rotated:
        if (
            sibling.identity == found.identity
            or (sibling.modified_ns, protocol.rotation_age(sibling.path)) <= age
        ):
            continue
        source = Source.open(sibling.path)
        if source is not None and not _is_copy(source, found):
            chain.append(source)
        elif source is not None:
            source.close()
    current = Source.open(path)
    if current is not None:
        is_new = current.identity != found.identity and current.identity not in [
            source.identity for source in chain
        ]
        chain += [current] if is_new else []
        if not is_new:
            current.close()
    return chain


def written_before(path: str) -> Tuple[List[Sibling], int]:
    """What belongs before the log *path* when it is seen for the first time.

    Returns:
        The rotated files that a process wrote which has the log open now (its start proves that it wrote them), the
        oldest first; and the bytes in those that were written since this instance started, by nobody knows whom.
    """
    current = Source.open(path)
    identities = {sibling.identity for sibling in siblings(path)}
    if current is not None:
        identities.add(current.identity)
        current.close()
    began = _oldest_writer_ns(identities)
    booted = _process_start_ns("1")
    ours, foreign_bytes = [], 0
    for sibling in siblings(path):
        if current is not None and sibling.identity == current.identity:
            continue
        if began is not None and sibling.modified_ns >= began:
            ours.append(sibling)
        elif booted is not None and sibling.modified_ns >= booted:
            foreign_bytes += sibling.size
    return ours, foreign_bytes


def _sha256(source: Source, offset: int, size: int) -> str:
    return hashlib.sha256(os.pread(source.descriptor, size, offset)).hexdigest()


def _fits(source: Source, claim: Claim) -> bool:
    if claim.offset == 0:
        return source.identity == claim.identity
    return source.proves(claim.offset, claim.proof)


def _likelihood(source: Source, claim: Claim, current: Optional[Source]) -> Tuple[bool, bool, bool, int]:
    """Sorts the likeliest first: that inode, the log itself, a copy that is not older than the claim, the oldest."""
    return (
        source.identity != claim.identity,
        source is not current,
        source.modified_ns < claim.since * 1e9,
        source.modified_ns,
    )


def _is_copy(source: Source, original: Source) -> bool:
    size = original.size
    if source.size != size or size < EVIDENCE_BYTES:  # short files may well be equal
        return False
    start = max(0, size - protocol.PROOF_BYTES)
    ends = [os.pread(each.descriptor, size - start, start) for each in (source, original)]
    return ends[0] == ends[1]


def _oldest_writer_ns(identities: "set[Identity]") -> Optional[int]:
    """When the oldest process began that has one of the files open for writing; None when nobody has."""
    starts = [_process_start_ns(pid) for pid in _writers(identities)]
    return min((start for start in starts if start is not None), default=None)


def _writers(identities: "set[Identity]") -> Iterator[str]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for number in os.listdir(f"/proc/{pid}/fd"):
                facts = os.stat(f"/proc/{pid}/fd/{number}")
                if (facts.st_dev, facts.st_ino) in identities:
                    with open(f"/proc/{pid}/fdinfo/{number}") as about:
                        flags = re.search(r"flags:\s*(\d+)", about.read())
                    if flags and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                        yield pid
                        break
        except OSError:
            continue  # ended meanwhile, or another user's


def _process_start_ns(pid: str) -> Optional[int]:
    try:
        with open(f"/proc/{pid}/stat") as about:
            ticks = int(about.read().rpartition(")")[2].split()[19])
        with open("/proc/stat") as about:
            booted = re.search(r"^btime (\d+)", about.read(), re.M)
    except (OSError, ValueError, IndexError):
        return None
    seconds = ticks / os.sysconf("SC_CLK_TCK")
    return None if booted is None else int((int(booted[1]) + seconds) * 1e9)
