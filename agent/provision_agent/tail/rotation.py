"""Which file on the disk holds the bytes that come next, whatever rotated a log meanwhile.

A file is known by its inode and *proved* by its bytes: those at its head and those just before the offset. An inode
may be used again and a size may grow past the old one, but bytes that were sent cannot be sent again by chance.
"""

from __future__ import annotations

import os
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from ..contract import frames, log_names
from .log_file import EVIDENCE_BYTES, Compressed, Identity, Source, nothing
from .writers import oldest_writer_ns, process_start_ns

MAX_SIBLINGS = 1000
LOOKS = 5
"""So often the folder is looked at again when somebody rotated it meanwhile."""


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
    def of(cls, entry: frames.FollowedFile) -> "Claim":
        """The claim in one entry of a follow request; an older collector claims less."""
        return cls(
            offset=entry.offset,
            proof=entry.proof,
            identity=None if entry.ino is None else (entry.dev or 0, entry.ino),
            since=entry.since,
            samples=list(entry.samples),
            known_bytes=entry.known_bytes,
        )


class Sibling(NamedTuple):
    """A rotated file of a log, by its name. *size* is that of its content, also when it is compressed."""

    path: str
    identity: Identity
    modified_ns: int
    size: int
    is_compressed: bool

    def open(self, offset: int = 0, tick: Callable[[], None] = nothing) -> Optional[Source]:
        """Open it at *offset*; *tick* is called now and then when that takes long. None when it is gone."""
        return (
            Compressed.open_at(self.path, offset, tick)
            if self.is_compressed
            else Source.open(self.path, offset)
        )


def siblings(path: str) -> List[Sibling]:
    """The rotated files of the log *path*, the oldest first; compressed ones when they kept their times."""
    found: Dict[str, Sibling] = {}
    for target in dict.fromkeys((path, os.path.realpath(path))):
        folder, name = os.path.split(target)
        is_rotated = log_names.rotated_name(name)
        try:
            with os.scandir(folder or ".") as entries:
                for entry in entries:
                    plain = entry.name[:-3] if entry.name.endswith(".gz") else entry.name
                    if is_rotated.match(plain) and entry.is_file():
                        found[entry.path] = _sibling(entry.path, entry.stat(), entry.name != plain)
        except OSError:
            continue  # the folder does not exist yet, or a file went while we looked: the next look sees more
    kept = [
        each
        for each in found.values()
        if not each.is_compressed or (each.path[:-3] not in found and each.size >= 0)
    ]
    kept.sort(key=lambda sibling: (sibling.modified_ns, log_names.rotation_age(sibling.path)))
    return kept[-MAX_SIBLINGS:]


def _sibling(path: str, facts: os.stat_result, is_compressed: bool) -> Sibling:
    size = Compressed.content_bytes(path, facts) if is_compressed else facts.st_size
    return Sibling(path, (facts.st_dev, facts.st_ino), facts.st_mtime_ns, size, is_compressed)


def locate(path: str, claim: Claim, tick: Callable[[], None] = nothing) -> Optional[Source]:
    """The file that holds what *claim* says, open at its offset; None when there is none.

    Args:
        path: The log: it, or a renamed or copied one of it.
        claim: What the receiver has.
        tick: Called now and then when that takes long.
    """
    names: Dict[str, Optional[Identity]] = {}
    for _ in range(LOOKS):
        if _names(path) == names:
            break
        names = _names(path)
        rotated = siblings(path)
        for are_compressed in (False, True):  # these are read from their beginning: only if need be
            group = [sibling for sibling in rotated if sibling.is_compressed == are_compressed]
            found = _likeliest(None if are_compressed else Source.open(path), group, claim, tick)
            if found is not None:
                return found
    return None  # nobody rotated it while we looked


def _likeliest(
    current: Optional[Source], rotated: List[Sibling], claim: Claim, tick: Callable[[], None]
) -> Optional[Source]:
    candidates = [] if current is None else [current]
    for sibling in rotated:
        if current is None or sibling.identity != current.identity:
            candidates += filter(None, [sibling.open(tick=tick)])
    fitting = [source for source in candidates if _fits(source, claim)]
    found = min(fitting, key=lambda source: _likelihood(source, claim, current), default=None)
    for source in candidates:
        if source is not found:
            source.close()
    if found is not None:
        found.begin_at(claim.offset)
    return found


def copy_of(path: str, source: Source, tick: Callable[[], None] = nothing) -> Optional[Source]:
    """A rotated file of *path* that holds what was last read of *source*, open at its offset: made by copytruncate.

    Args:
        source: The file at *path*, which was emptied meanwhile.
        tick: Called now and then when that takes long.
    """
    rotated = siblings(path) if source.offset else []
    rotated.sort(key=lambda sibling: sibling.is_compressed)
    for sibling in rotated:
        if sibling.identity == source.identity or sibling.size < source.offset:
            continue
        copy = sibling.open(source.offset, tick)
        if copy is not None and copy.has_evidence_of(source):
            return copy
        if copy is not None:
            copy.close()
    return None


def is_edited(path: str, claim: Claim) -> bool:
    """Whether the receiver changed what it had: most of it is in a file of this log, the last bytes are not."""
    for name in [path, *(sibling.path for sibling in siblings(path) if not sibling.is_compressed)]:
        source = Source.open(name) if claim.samples else None
        if source is None:
            continue
        equal = sum(source.sha256(at, size) == proof for at, size, proof in claim.samples)
        source.close()
        if equal * 2 >= len(claim.samples):
            return True
    return False


def later(path: str, found: Source) -> List[Source]:
    """The whole files that were written after *found* and before the one at *path*, the oldest first."""
    return _looked(path, lambda: _later(path, found))


def beginning(path: str) -> Tuple[List[Source], int]:
    """Where the log *path* begins when it is seen for the first time.

    Returns:
        The files that its writer wrote, the oldest first and itself last; and how many bytes are in older files that
        nobody knows the writer of.
    """
    foreign_bytes = 0

    def look() -> List[Source]:
        nonlocal foreign_bytes
        ours, foreign_bytes = written_before(path)
        return list(filter(None, [*(sibling.open() for sibling in ours), Source.open(path)]))

    return _looked(path, look), foreign_bytes


def _looked(path: str, look: Callable[[], List[Source]]) -> List[Source]:
    """What *look* opens by name; once more when somebody rotated the log meanwhile: the names were other files' then."""
    for left in reversed(range(LOOKS)):
        names, chain = _names(path), look()
        if not left or _names(path) == names:
            break
        for source in chain:
            source.close()
    return chain


def _names(path: str) -> Dict[str, Optional[Identity]]:
    """Which file each name of the log belongs to now."""
    names: Dict[str, Optional[Identity]] = {sibling.path: sibling.identity for sibling in siblings(path)}
    return {**names, path: _identity(path)}


def _later(path: str, found: Source) -> List[Source]:
    chain: List[Source] = []
    rotated = siblings(path)
    name = next((sibling.path for sibling in rotated if sibling.identity == found.identity), path)
    age = (os.fstat(found.descriptor).st_mtime_ns, log_names.rotation_age(name))
    for sibling in rotated:
        if (
            sibling.identity == found.identity
            or (sibling.modified_ns, log_names.rotation_age(sibling.path)) <= age
        ):
            continue
        source = sibling.open()
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
    rotated, current = siblings(path), _identity(path)
    began = oldest_writer_ns({current, *(sibling.identity for sibling in rotated)})
    booted = process_start_ns("1")
    ours, foreign_bytes = [], 0
    for sibling in rotated:
        if sibling.identity == current:
            continue
        if began is not None and sibling.modified_ns >= began:
            ours.append(sibling)
        elif booted is not None and sibling.modified_ns >= booted:
            foreign_bytes += sibling.size
    return ours, foreign_bytes


def _identity(path: str) -> Optional[Identity]:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


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
    may_be_equal = size < EVIDENCE_BYTES and not isinstance(source, Compressed)  # short ones, by chance
    if source.size != size or may_be_equal:
        return False
    start = max(0, size - frames.PROOF_BYTES)
    return source.at(start, size - start) == original.at(start, size - start)
