"""What an archive brought: kept as a list beside the state, held against the disk, and made again where it is damaged.

An archive may have very many members, so the list is a file of its own, one line each, written and read as a stream.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple
from urllib.parse import quote, unquote

from ..contract.parsing import bounded, parse, read_object, to_json
from ..contract.plan import Download
from ..run.context import Context
from ..run.writing import folder_for
from . import unpack, verify
from .unpack import Unpacked

KIND = "members"
MAX_LINE_BYTES = 64 << 10
KEPT_BYTES = 16 << 20
"""A changed file up to this size is kept when the archive's own takes its place: people edit small files."""
_NAMED = 3
_TYPES = [str, str, int, int, str, str, bool]
_SAFE = "/ !#$&'()+,;=@[]{}~"


class Damage(NamedTuple):
    """A member that is not as the archive brought it."""

    path: str
    """Absolute."""
    state: str
    """missing, or wrong_kind, wrong_size, wrong_hash, wrong_mode."""
    message: str


@dataclass(frozen=True)
class _Head:
    """The first line of a list: of which archive it is."""

    sha256: Optional[str] = bounded(None, max_chars=64)
    folder: str = bounded("", max_chars=4096)


class Members:
    """The members of one item's archive, which is unpacked into the folder that it lies in."""

    def __init__(self, context: Context, item: Download, archive: str, sha256: Optional[str]) -> None:
        self._context = context
        self._item = item
        self._archive = archive
        self._folder = os.path.realpath(os.path.dirname(archive))
        self._head = _Head(sha256, self._folder)
        self._list = context.state.beside(KIND, item.key)

    def unpack(self, *, stop: Callable[[], bool]) -> None:
        """Unpack the archive, and remember what came of it. Raises as `unpack.unpack`."""
        self._write({each.path: each for each in self._unpack(None, stop)}, stop)

    def restore(self, *, stop: Callable[[], bool]) -> List[Damage]:
        """Make what is missing or changed again, from the archive; what somebody changed in small files is kept.

        Returns:
            What was made again. Without a list of members nobody knows what is missing: all are made, none is named.

        Raises:
            Failure: as `unpack.unpack`.
        """
        known = self._read()
        if known is None:
            self.unpack(stop=stop)
            return []
        damaged, before = list(self._damaged(known, reads_bytes=False, stop=stop)), dict(known)
        if stop():
            return []
        for damage in damaged:
            self._put_aside(damage)
        if damaged:
            wanted = {os.path.relpath(damage.path, self._folder) for damage in damaged}
            known.update((each.path, each) for each in self._unpack(wanted, stop))
        known = {path: self._as_it_is(each) for path, each in known.items()}
        if known != before:
            self._write(known, stop)
        return damaged

    def damaged(self, *, reads_bytes: bool, stop: Callable[[], bool]) -> Optional[List[Damage]]:
        """What is not as the archive brought it; None when nothing is remembered of this archive.

        Args:
            reads_bytes: Believe no size and no time: read what is there.
            stop: Asked between members; True ends it early.
        """
        known = self._read()
        return None if known is None else list(self._damaged(known, reads_bytes=reads_bytes, stop=stop))

    def count(self) -> int:
        """How many are remembered."""
        return len(self._read() or {})

    def paths(self) -> Iterator[str]:
        """Where they are, absolute."""
        yield from (os.path.join(self._folder, path) for path in self._read() or {})

    # -- against the disk

    def _damaged(
        self, known: Mapping[str, Unpacked], *, reads_bytes: bool, stop: Callable[[], bool]
    ) -> Iterator[Damage]:
        others: Optional[Dict[str, Set[Tuple[int, int]]]] = None
        for path, member in known.items():
            if stop():
                return
            full = os.path.join(self._folder, path)
            found = _difference(full, member, reads_bytes=reads_bytes, stop=stop)
            if found is None:
                continue
            if found.state != "missing":
                others = self._of_others() if others is None else others
                if _signature(full) in others.get(full, ()):
                    continue  # another item put its own file there, and answers for it
            yield found

    def _of_others(self) -> Dict[str, Set[Tuple[int, int]]]:
        """Size and time of the files that other items of this workspace made, by path: they may lie over members."""
        found: Dict[str, Set[Tuple[int, int]]] = {}
        state = self._context.state
        for record in (*state.all("download"), *state.all("file")):
            size, mtime_ns = record.get("size"), record.get("mtime_ns")
            if isinstance(size, int) and isinstance(mtime_ns, int):
                folder, name = os.path.split(str(record.get("path")))
                found.setdefault(os.path.join(os.path.realpath(folder), name), set()).add((size, mtime_ns))
        for listed in state.all_beside(KIND):
            if listed != self._list:
                head, known = _read(listed)
                for path, member in (known or {}).items():
                    full = os.path.join(head.folder, path)
                    found.setdefault(full, set()).add((member.size_bytes, member.mtime_ns))
        return found

    def _as_it_is(self, member: Unpacked) -> Unpacked:
        """With the time that the file has now: its bytes were right a moment ago."""
        if member.kind != "file":
            return member
        try:
            found = os.lstat(os.path.join(self._folder, member.path))
        except OSError:
            return member
        is_same = stat.S_ISREG(found.st_mode) and found.st_size == member.size_bytes
        return replace(member, mtime_ns=found.st_mtime_ns) if is_same else member

    # -- the archive

    def _unpack(self, wanted: Optional[Set[str]], stop: Callable[[], bool]) -> List[Unpacked]:
        folder_for(self._context, self._archive).close()  # a link that was brought leads no member out
        return unpack.unpack(self._archive, self._folder, self._item.unpack, stop=stop, wanted=wanted)

    def _put_aside(self, damage: Damage) -> None:
        """Keep a small file that somebody changed, and say where; make room for a member of another kind."""
        try:
            found = os.lstat(damage.path)
        except OSError:
            return
        is_emptied = stat.S_ISREG(found.st_mode) and not found.st_size
        if damage.state == "wrong_mode" or is_emptied or stat.S_ISLNK(found.st_mode):
            return
        if stat.S_ISREG(found.st_mode) and found.st_size > KEPT_BYTES:
            return
        inside = os.path.relpath(damage.path, os.path.realpath(self._context.workspace))
        kept = os.path.join(self._context.run_directory, "replaced", inside.replace("../", ""))
        kept = f"{kept}.{time.time_ns():x}" if os.path.lexists(kept) else kept
        os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
        with folder_for(self._context, damage.path) as folder:
            shutil.move(os.path.join(folder.path, os.path.basename(damage.path)), kept)
        message = (
            f"{inside} was changed: the archive's own takes its place, the changed one is kept as {kept}"
        )
        self._context.report("warning", message=message)

    # -- the list

    def _read(self) -> Optional[Dict[str, Unpacked]]:
        head, known = _read(self._list)
        return known if head == self._head else None

    def _write(self, members: Mapping[str, Unpacked], stop: Callable[[], bool]) -> None:
        if stop():
            return  # it may be incomplete
        os.makedirs(os.path.dirname(self._list), mode=0o700, exist_ok=True)
        temporary = f"{self._list}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(json.dumps(to_json(self._head)) + "\n")
            file.writelines(map(_line, members.values()))
        os.replace(temporary, self._list)


def _read(path: str) -> Tuple[_Head, Optional[Dict[str, Unpacked]]]:
    """A list; None for one that is not there or cannot be read as a whole."""
    known: Dict[str, Unpacked] = {}
    try:
        with open(path, "rb") as file:
            head = parse(_Head, read_object(file.readline(MAX_LINE_BYTES), max_bytes=MAX_LINE_BYTES))
            for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
                member = _member(line)
                known[member.path] = member
    except (OSError, ValueError):
        return _Head(), None
    return head, known


def _line(member: Unpacked) -> str:
    """One line of a list; names are quoted, since an archive may call its members what is no text."""
    path, target = (
        quote(each, safe=_SAFE, errors="surrogateescape") for each in (member.path, member.target)
    )
    values = [path, member.kind, member.size_bytes, member.mtime_ns, member.sha256, target]
    return json.dumps([*values, member.is_executable]) + "\n"


def _member(line: bytes) -> Unpacked:
    """What `_line` wrote; there may be very many, so nothing but the types is looked at. Raises ValueError."""
    values = json.loads(line)
    if not isinstance(values, list) or [type(value) for value in values] != _TYPES:
        raise ValueError("no member of an archive")
    member = Unpacked(*values)
    if "%" not in member.path + member.target:
        return member
    path, target = (unquote(each, errors="surrogateescape") for each in (member.path, member.target))
    return replace(member, path=path, target=target)


def _signature(path: str) -> Tuple[int, int]:
    try:
        found = os.lstat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _difference(
    path: str, member: Unpacked, *, reads_bytes: bool, stop: Callable[[], bool]
) -> Optional[Damage]:
    """How the member at *path* is not as it was unpacked; None when it is."""
    try:
        found = os.lstat(path)
    except OSError:
        return Damage(path, "missing", "it is not there")
    mode = found.st_mode
    kind = "link" if stat.S_ISLNK(mode) else "folder" if stat.S_ISDIR(mode) else "file"
    if kind != member.kind and not (member.kind == "folder" and os.path.isdir(path)):
        return Damage(path, "wrong_kind", f"it is a {kind}, not a {member.kind}")
    if member.kind == "link" and os.readlink(path) != member.target:
        return Damage(path, "wrong_kind", f"it is a link to `{os.readlink(path)}`, not to `{member.target}`")
    if member.kind != "file":
        return None
    if found.st_size != member.size_bytes:
        return Damage(path, "wrong_size", f"it has {found.st_size} bytes, not {member.size_bytes}")
    if not mode & stat.S_IRUSR or (member.is_executable and not mode & stat.S_IXUSR):
        lacks = "executed" if mode & stat.S_IRUSR else "read"
        return Damage(path, "wrong_mode", f"it may not be {lacks} any more")
    if not reads_bytes and found.st_mtime_ns == member.mtime_ns:
        return None
    has = verify.sha256_of(path, stop=stop)
    if has in (None, member.sha256):
        return None
    return Damage(path, "wrong_hash", f"its sha256 is {str(has)[:12]}…, not {str(member.sha256)[:12]}…")


def summary(damaged: List[Damage], root: str) -> str:
    """*damaged* in a few words, with the first names."""
    names = ", ".join(f"`{os.path.relpath(damage.path, root)}`" for damage in damaged[:_NAMED])
    return names + (", …" if len(damaged) > _NAMED else "")
