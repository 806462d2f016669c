"""A lock of Python packages (``pylock.toml``, PEP 751): which files, from where, with which hashes.

uv writes it, and `read_lock` reads it, within bounds. Only what names files is taken; the rest is passed over. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Tuple, Union
from urllib.parse import unquote, urlsplit

from .parsing import ParseError, bounded, parse
from .toml_text import read_toml

MAX_LOCK_BYTES = 32 << 20
MAX_PACKAGES = 20_000
MAX_FILES = 10_000
"""Of one package."""
SUPPORTED_VERSION = "1."
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LockedFile:
    """A wheel or a source distribution. Either `url` or `path` is given."""

    url: Optional[str] = bounded(None, max_chars=4096)
    """http, https or file; it may hold a login."""
    path: Optional[str] = bounded(None, max_chars=4096)
    name: Optional[str] = bounded(None, max_chars=512)
    size_bytes: Optional[int] = bounded(None, low=0, alias="size")
    hashes: Dict[str, str] = bounded(factory=dict, max_entries=16, max_chars=256)

    @property
    def file_name(self) -> str:
        """What it is called where it is installed from: that says which interpreters it fits."""
        return self.name or unquote(urlsplit(self.url or self.path or "").path.rpartition("/")[2])

    @property
    def sha256(self) -> Optional[str]:
        """Its hash, in lower-case hex; None where the lock has none of this kind."""
        return self.hashes["sha256"].lower() if "sha256" in self.hashes else None


@dataclass(frozen=True)
class LockedTree:
    """A source tree that is no file of an index: a repository, a folder or an archive."""

    url: Optional[str] = bounded(None, max_chars=4096)
    path: Optional[str] = bounded(None, max_chars=4096)
    commit: Optional[str] = bounded(None, max_chars=128, alias="commit-id")


@dataclass(frozen=True)
class LockedPackage:
    """One package. `wheels` are those that fit where the lock is for one interpreter, else all of them."""

    name: str = bounded(max_chars=256, pattern="[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
    version: Optional[str] = bounded(None, max_chars=256)
    marker: Optional[str] = bounded(None, max_chars=4096)
    """A condition (PEP 508) under which it is wanted; None: always."""
    requires_python: Optional[str] = bounded(None, max_chars=256, alias="requires-python")
    index: Optional[str] = bounded(None, max_chars=4096)
    wheels: Tuple[LockedFile, ...] = bounded((), max_entries=MAX_FILES)
    sdist: Optional[LockedFile] = None
    vcs: Optional[LockedTree] = None
    directory: Optional[LockedTree] = None
    archive: Optional[LockedTree] = None

    @property
    def is_of_index(self) -> bool:
        """Is it made of files of an index, and not of a tree that somebody names?"""
        return (
            self.version is not None and self.vcs is None and self.directory is None and self.archive is None
        )

    @property
    def pin(self) -> str:
        """As pip and uv read it: ``numpy==2.1.0``."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Lock:
    """All packages of one resolution, in the order of the lock."""

    packages: Tuple[LockedPackage, ...]
    requires_python: Optional[str] = None
    created_by: str = ""

    @property
    def versions(self) -> Dict[str, str]:
        """Version by name of those that are of an index."""
        return {each.name: each.version for each in self.packages if each.version is not None}

    def size_bytes(self) -> Optional[int]:
        """What all wheels have together, the first of each package; None where one of them does not say."""
        sizes = [each.wheels[0].size_bytes for each in self.packages if each.wheels]
        return None if None in sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True)
class _Document:
    version: str = bounded(max_chars=16, alias="lock-version")
    requires_python: Optional[str] = bounded(None, max_chars=256, alias="requires-python")
    created_by: str = bounded("", max_chars=256, alias="created-by")
    packages: Tuple[LockedPackage, ...] = bounded((), max_entries=MAX_PACKAGES)


def read_lock(data: Union[bytes, str], *, what: str = "the lock of packages") -> Lock:
    """The lock in *data*.

    Args:
        what: The name of the text, for messages.

    Raises:
        ParseError: it is no ``pylock.toml`` of version 1, is too large, or names a file in a way that cannot be used.
    """
    document = parse(_Document, read_toml(data, max_bytes=MAX_LOCK_BYTES, what=what), what)
    if not document.version.startswith(SUPPORTED_VERSION):
        raise ParseError(f"{what} is of version {document.version[:8]}, and 1 is read here")
    for package in document.packages:
        for file in (*package.wheels, *([package.sdist] if package.sdist else [])):
            _check(file, f"{what}: {package.name}")
    return Lock(document.packages, document.requires_python, document.created_by)


def _check(file: LockedFile, where: str) -> None:
    """Do nothing if *file* can be fetched and put under its own name. Raises ParseError."""
    if (file.url is None) == (file.path is None):
        raise ParseError(f"{where} has a file without one place")
    if file.url is not None and urlsplit(file.url).scheme not in ("http", "https", "file"):
        raise ParseError(f"{where} has a file that is not at an http, https or file URL")
    name = file.file_name
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(name) > 255:
        raise ParseError(f"{where} has a file without a usable name")
    if file.sha256 is not None and not _SHA256.fullmatch(file.sha256):
        raise ParseError(f"{where} has a sha256 that is none")


def write_lock(lock: Lock, *, created_by: str = "provision") -> str:
    """*lock* as a ``pylock.toml``; `read_lock` of it is *lock* again."""
    lines = ['lock-version = "1.0"', f"created-by = {_text(created_by)}"]
    if lock.requires_python is not None:
        lines.append(f"requires-python = {_text(lock.requires_python)}")
    for package in lock.packages:
        lines += ["", "[[packages]]", *_entries(_facts(package))]
        if package.sdist is not None:
            lines.append(f"sdist = {_file(package.sdist)}")
        if package.wheels:
            lines += ["wheels = [", *(f"    {_file(wheel)}," for wheel in package.wheels), "]"]
        trees = {"vcs": package.vcs, "directory": package.directory, "archive": package.archive}
        for name, tree in trees.items():
            if tree is not None:
                facts = {"url": tree.url, "path": tree.path, "commit-id": tree.commit}
                lines.append(f"{name} = {{ {', '.join(_entries(facts))} }}")
    return "\n".join(lines) + "\n"


def _facts(package: LockedPackage) -> Mapping[str, Optional[str]]:
    return {
        "name": package.name,
        "version": package.version,
        "marker": package.marker,
        "requires-python": package.requires_python,
        "index": package.index,
    }


def _entries(facts: Mapping[str, Optional[str]]) -> List[str]:
    return [f"{key} = {_text(value)}" for key, value in facts.items() if value is not None]


def _file(file: LockedFile) -> str:
    entries = _entries({"name": file.name, "url": file.url, "path": file.path})
    if file.size_bytes is not None:
        entries.append(f"size = {file.size_bytes}")
    entries.append(f"hashes = {{ {', '.join(_entries(file.hashes))} }}")
    return f"{{ {', '.join(entries)} }}"


def _text(value: str) -> str:
    """*value* as a text of TOML in one line."""
    out = []
    for char in value:
        if char in '"\\':
            out.append("\\" + char)
        elif ord(char) < 32 or ord(char) == 127:
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'
