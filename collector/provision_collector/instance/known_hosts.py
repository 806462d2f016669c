"""What files of known hosts say of one host, found through an index: a file is read again only when it has changed.

A line that nobody can read is skipped, as ssh does. Source: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

MAX_FILE_BYTES = 64 << 20
Trusted = tuple[
    list[object], list[object], list[object], list[object], list[object], list[object], list[object]
]
"""Host keys, authorities, revoked keys, and four of X.509: the form that asyncssh asks for."""
Signature = tuple[int, int, int, int]


@dataclass
class _Index:
    """The lines of one file, by the names that they hold for."""

    signature: Signature
    exact: dict[str, list[str]] = field(default_factory=dict)
    hashed: list[tuple[bytes, bytes, str]] = field(default_factory=list)
    """``(salt, digest, line)``: only each in turn can be asked."""
    patterns: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        words = line.split(None, 3)
        is_marked = line.startswith("@")
        if line.startswith("#") or len(words) < 3 + is_marked:
            return
        names = words[is_marked]
        if names.startswith("|"):
            with suppress(ValueError, binascii.Error):
                _, kind, salt, digest = names.split("|")
                if kind == "1":
                    self.hashed.append((base64.b64decode(salt), base64.b64decode(digest), line))
        elif any(letter in names for letter in "*?!/"):
            self.patterns.append(line)
        else:
            for name in names.split(","):
                self.exact.setdefault(name, []).append(line)

    def lines_of(self, name: str) -> Iterator[str]:
        yield from self.exact.get(name, ())
        yield from self.patterns
        host = name.encode()
        for salt, digest, line in self.hashed:
            if hmac.digest(salt, host, "sha1") == digest:
                yield line


_indexes: dict[Path, _Index] = {}
_lock = threading.Lock()


def find(files: list[Path], name: str) -> Trusted:
    """The keys that *files* hold for *name*, ``HOST`` or ``[HOST]:PORT``. May block; a file that cannot be read is empty."""
    found: Trusted = ([], [], [], [], [], [], [])
    for file in files:
        index = _index_of(file)
        for line in index.lines_of(name) if index is not None else ():
            try:
                parts = asyncssh.import_known_hosts(line).match(name, "", None)
            except ValueError:
                continue
            for into, part in zip(found, parts, strict=True):
                into.extend(part)
    return found


def added(file: Path, line: str) -> None:
    """*line* was appended to *file* by this process, which held its lock: the index need not be made again."""
    with _lock, suppress(OSError):
        index = _indexes.get(file)
        after = _signature(os.stat(file))
        if (
            index is not None
            and after[:2] == index.signature[:2]
            and after[2] == index.signature[2] + len(line.encode())
        ):
            index.add(line.strip())
            index.signature = after


def _index_of(file: Path) -> _Index | None:
    with _lock:
        try:
            before = _signature(os.stat(file))
            known = _indexes.get(file)
            if known is None or known.signature != before:
                with file.open("rb") as opened:
                    text = opened.read(MAX_FILE_BYTES).decode(errors="replace")
                known = _Index(before)
                for line in text.split("\n"):
                    known.add(line.strip())
                _indexes[file] = known
        except OSError:
            return None
        return known


def _signature(stat: os.stat_result) -> Signature:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
