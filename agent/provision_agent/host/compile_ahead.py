"""Compiles what a program will import, before it does: run by the interpreter of its environment, in a process of its own.

An installer leaves sources only, and the first start of a program compiles some thousand files one after the other. This
follows its import statements without running any of them, and leaves what python itself would have left. Best effort:
what it does not find is compiled by whoever imports it.
"""

from __future__ import annotations

import dis
import importlib.util
import inspect
import marshal
import os
import struct
import sys
import sysconfig
import time
from types import CodeType
from typing import Dict, Iterator, List, Set, Tuple

WITHIN_S = 120.0
MAX_FILES = 20_000
_SKIPPED = frozenset({"tests", "test", "__pycache__", "node_modules", "venv", "custom_nodes"})

_EXTENDED, _CONSTANT, _IMPORT = (dis.opmap[name] for name in ("EXTENDED_ARG", "LOAD_CONST", "IMPORT_NAME"))
_SMALL = dis.opmap.get("LOAD_SMALL_INT", -1)


class Ahead:
    """The files that *roots* lead to, each compiled once. Folders are taken with all that lies in them."""

    def __init__(self, roots: List[str], *, within_s: float = WITHIN_S) -> None:
        self._end = time.monotonic() + within_s
        self._folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        self._seen: Set[str] = set()
        self._found: Dict[Tuple[str, str], List[str]] = {}
        self._roots = roots
        self.compiled = 0

    def work(self) -> None:
        """Compile until nothing is left, or the time is up."""
        for root in self._roots:
            for file in [root] if os.path.isfile(root) else _sources(root):
                self._follow(file, os.path.dirname(file) if root == file else root)

    def _follow(self, start: str, home: str) -> None:
        """*start* and what it imports, in the order of the imports; *home*: the folder that its program looks in first."""
        left = [start]
        while left and time.monotonic() < self._end and len(self._seen) < MAX_FILES:
            file = left.pop()
            if file in self._seen:
                continue
            self._seen.add(file)
            code = self._compile(file)
            if code is not None:
                found = [each for name in _imports(code, file) for each in self._files(*name, home)]
                left += [each for each in reversed(found) if each not in self._seen]

    def _compile(self, file: str) -> "CodeType | None":
        """The code of *file*, left where python looks for it, unless it is there."""
        try:
            cached = importlib.util.cache_from_source(file)
            found = os.stat(file)
            head = importlib.util.MAGIC_NUMBER + struct.pack(
                "<III", 0, int(found.st_mtime) & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF
            )
            code = _left(cached, head)
            if code is None:
                with open(file, "rb") as source:
                    text = source.read()
                code = compile(text, file, "exec", dont_inherit=True)
                _leave(cached, head + marshal.dumps(code))
                self.compiled += 1
        except (OSError, SyntaxError, ValueError, EOFError, NotImplementedError, RecursionError):
            return None
        return code

    def _files(self, name: str, folder: str, taken: Tuple[str, ...], home: str) -> List[str]:
        """The files of the module *name* and of its parents, and of what is taken from it where those are modules."""
        key = (name, folder)
        if key not in self._found:
            places = [folder] if folder else [home, *self._folders]
            self._found[key] = next(filter(None, (_at(place, name) for place in places)), [])
        files, package = self._found[key], folder
        if name and not files:
            return []
        if name:
            package, last = os.path.split(files[-1])
            if last != "__init__.py":
                return files
        return [*files, *(each for part in taken for each in _at(package, part))]


def _at(place: str, name: str) -> List[str]:
    """The files that importing *name* from the folder *place* runs; empty where it is not there."""
    files: List[str] = []
    path = place
    parts = name.split(".") if name else []
    for part in parts:
        path = os.path.join(path, part)
        package = os.path.join(path, "__init__.py")
        if os.path.isfile(package):
            files.append(package)
        elif os.path.isfile(f"{path}.py"):
            files.append(f"{path}.py")
        elif not os.path.isdir(path):
            return []
    return files


def _left(cached: str, head: bytes) -> "CodeType | None":
    """The code that was left in *cached*, where it is of the source that *head* says."""
    try:
        with open(cached, "rb") as left:
            data = left.read()
    except OSError:
        return None
    code = marshal.loads(data[16:]) if data[:16] == head else None  # noqa: S302 - as python itself does
    return code if isinstance(code, CodeType) else None


def _leave(cached: str, data: bytes) -> None:
    """Write *data* as *cached*, under its name only when it is whole."""
    os.makedirs(os.path.dirname(cached), exist_ok=True)
    temporary = f"{cached}.{os.getpid()}"
    with open(temporary, "xb") as out:
        out.write(data)
    os.replace(temporary, cached)


def _imports(code: CodeType, file: str) -> Iterator[Tuple[str, str, Tuple[str, ...]]]:
    """What the statements of a module import when it is run, those in its functions not."""
    is_for_types = "TYPE_CHECKING" in code.co_names
    constants: List[object] = [None, None]
    argument = 0
    words = code.co_code
    for at in range(0, len(words), 2):
        operation, argument = words[at], argument | words[at + 1]
        if operation == _EXTENDED:
            argument <<= 8
            continue
        if operation == _CONSTANT:
            constants = [constants[1], code.co_consts[argument]]
        elif operation == _SMALL:
            constants = [constants[1], argument]
        elif operation == _IMPORT:
            level, taken = constants
            folder = file if isinstance(level, int) and level > 0 else ""
            for _ in range(level if isinstance(level, int) else 0):
                folder = os.path.dirname(folder)
            names = tuple(each for each in taken if each != "*") if isinstance(taken, tuple) else ()
            if not (is_for_types and folder):  # most of those are never run: who needs one compiles it
                yield code.co_names[argument], folder, names
        argument = 0
    for each in code.co_consts:  # bodies of classes are run, too
        if isinstance(each, CodeType) and not each.co_flags & inspect.CO_OPTIMIZED:
            yield from _imports(each, file)


def _sources(folder: str) -> Iterator[str]:
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        yield from (os.path.join(directory, name) for name in sorted(names) if name.endswith(".py"))


def main(roots: List[str]) -> None:
    """Compile what the files and folders *roots* lead to, and end."""
    os.nice(1)
    sys.setrecursionlimit(5000)
    ahead = Ahead(roots)
    ahead.work()
    print(f"compiled {ahead.compiled} files ahead", flush=True)
