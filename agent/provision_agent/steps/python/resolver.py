"""What an install would bring, asked of uv before anything is fetched: every file with its place, size and hash.

uv resolves for the environment's own python, prefers what is installed already, and obeys the same constraints as the
install. Packages that no index has as they are installed (an image's own torch) are offered to it as they are.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
from dataclasses import dataclass, replace
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ...contract.failures import Failure
from ...contract.parsing import ParseError
from ...contract.pylock import MAX_LOCK_BYTES, Lock, LockedPackage, read_lock, write_lock
from ...host import process
from ...host.probe import normalised
from ...run.context import Context
from . import offers, pip_errors

RESOLVE_S = 900.0
"""Without a wheel for it, a package may have to be built before its needs are known."""
_numbers = itertools.count(1)
_numbering = threading.Lock()
_WITH_VALUE = ("--index-url", "--extra-index-url", "--find-links", "--no-binary", "--only-binary")
_SHORT = {"-i": "--index-url", "-f": "--find-links", "-r": "--requirement", "-c": "--constraint"}
_PLAIN = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[A-Za-z0-9._,\s-]*\])?\s*(?:\(?[<>=!~][^@/;#]*)?(?:;[^@#]*)?"
)
_INDEX_SETTINGS = (
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_INDEX",
    "UV_FIND_LINKS",
    "UV_CONSTRAINT",
    "UV_NO_BINARY",
    "UV_NO_BINARY_PACKAGE",
    "UV_ONLY_BINARY",
    "UV_REQUIRE_HASHES",
    "UV_TORCH_BACKEND",
)
"""What would lead uv elsewhere than to the wheels that are here."""


def is_plain(line: str) -> bool:
    """Is the requirement *line* a name with versions, extras and conditions: nothing but an index can bring it?"""
    return _PLAIN.fullmatch(line.strip()) is not None


@dataclass(frozen=True)
class Order:
    """What is to be resolved together."""

    lines: Tuple[str, ...]
    """Plain requirements, and options of indexes as they stand in requirements files."""
    options: Tuple[str, ...] = ()
    """What pip and uv understand alike, for the command."""
    is_forced: bool = False
    """Installed again, whatever is there."""
    is_uncached: bool = False
    is_all: bool = True
    """False where there are also requirements that only the installer can bring (git, folders, archives)."""


def order_of(arguments: Sequence[str]) -> Optional[Order]:
    """*arguments* of an install as an order; None where an option stands among them whose meaning is not known here."""
    found, options, lines, is_all = Order(()), [], [], True
    words = iter(arguments)
    for word in words:
        name, has_value, value = word.partition("=") if word.startswith("--") else (word, "", "")
        name = _SHORT.get(name, name)
        if name in (*_WITH_VALUE, "--requirement"):
            value = value if has_value else next(words, "")
            if name == "--requirement":
                told = lines_of(value)
                if told is None:
                    return None
                lines += told.lines
                is_all = is_all and told.is_all
            else:
                options += [name, value]
        elif name == "--force-reinstall":
            found = replace(found, is_forced=True)
        elif name == "--no-cache-dir":
            found = replace(found, is_uncached=True)
        elif name == "--no-deps":
            options.append(name)
        elif name == "--pre":
            options.append("--prerelease=allow")
        elif word.startswith("-"):
            return None
        elif is_plain(word):
            lines.append(word)
        else:
            is_all = False
    return replace(found, lines=tuple(lines), options=tuple(options), is_all=is_all)


class FileLines(NamedTuple):
    """The lines of a requirements file and of what it includes."""

    lines: List[str]
    is_all: bool


def lines_of(path: str, *, depth: int = 0) -> Optional[FileLines]:
    """What the requirements file at *path* asks of indexes; None where it has an option that is not known here."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    found, is_all = [], True
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        name, _, value = re.sub(r"=", " ", line, count=1).partition(" ") if line[:1] == "-" else ("", "", "")
        name, value = _SHORT.get(name, name), value.strip()
        if not line:
            continue
        if name == "--requirement" and depth < 8:
            told = lines_of(os.path.join(os.path.dirname(path), value), depth=depth + 1)
            if told is None:
                return None
            found += told.lines
            is_all = is_all and told.is_all
        elif name in ("--index-url", "--extra-index-url", "--find-links"):
            found.append(line)
        elif name in ("-e", "--editable"):
            is_all = False
        elif name:
            return None  # constraints, hashes, and what else may be said there
        elif is_plain(line):
            found.append(line)
        elif " --" in line:
            return None
        else:
            is_all = False
    return FileLines(found, is_all)


class Resolver:
    """Resolves for one environment with the uv at `uv`. Safe to use from several threads.

    Args:
        uv: Its path.
        python: Of the environment.
        context: Of the run.
        name: Of the folder with what is offered as it is, in that of the run.
    """

    def __init__(self, uv: str, python: str, context: Context, *, name: str = "installed") -> None:
        self._uv = uv
        self._python = python
        self._context = context
        self._offers = offers.Offers(python, context, name=name)

    def resolve(
        self,
        order: Order,
        *,
        constraints: Sequence[str],
        installed: Mapping[str, str],
        preferred: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> Lock:
        """What *order* brings, with what is installed at its version.

        Args:
            constraints: Requirements that what is brought must fit, one a line.
            installed: Version by name of what is there: it stays, where it fits.
            preferred: The same of what will be there.
            environment: Of the child.

        Raises:
            Failure: `conflict`, `not_found`, `network`, … as uv says; `command` where its answer cannot be read.
        """
        with _numbering:
            number = next(_numbers)
        folder = self._context.run_directory
        wanted = os.path.join(folder, f"resolve-{number}.in")
        held = os.path.join(folder, f"resolve-{number}.constraints.txt")
        answer = os.path.join(folder, f"pylock.resolve-{number}.toml")
        made = [wanted, held, answer]
        try:
            _write(wanted, order.lines)
            _write(held, constraints)
            preferences = {**preferred, **installed} if not order.is_forced else dict(preferred)
            packages = tuple(
                LockedPackage(name=name, version=version) for name, version in preferences.items()
            )
            if packages:  # uv reads no lock without any
                _write(answer, [write_lock(Lock(packages))])
            argv = [self._uv, "pip", "compile", "--no-header", "--format", "pylock.toml"]
            argv += ["--output-file", answer, "--python", self._python, "--constraint", held]
            place = self._offers.folder(installed) if not order.is_forced else None
            argv += ["--find-links", place] if place is not None else []
            self._run([*argv, *order.options, wanted], environment)
            return self._read(answer)
        finally:
            for path in made:
                try:
                    os.unlink(path)
                except OSError:
                    pass

    def is_offer(self, package: LockedPackage) -> bool:
        """Is *package* one that is installed and was only offered as it is?"""
        return any(self._offers.is_one(wheel) for wheel in package.wheels)

    def _run(self, argv: List[str], environment: Mapping[str, str]) -> None:
        output: List[str] = []
        done = process.run(
            argv,
            timeout_s=self._context.bounded(RESOLVE_S),
            directory=self._context.workspace,
            environment=environment,
            on_line=output.append,
            cancelled=self._context.cancelled,
        )
        if done.status != 0:
            for line in output:
                self._context.output(line)
            raise pip_errors.failure(argv, done.status, output, timeout_s=RESOLVE_S)

    def _read(self, path: str) -> Lock:
        try:
            with open(path, "rb") as file:
                return read_lock(file.read(MAX_LOCK_BYTES + 1), what="the answer of uv")
        except (ParseError, OSError) as error:
            raise Failure("command", f"what uv has resolved cannot be read: {error}") from None


def from_disk(environment: Mapping[str, str]) -> Dict[str, str]:
    """*environment* of uv without what names indexes: what it installs is here."""
    return {name: value for name, value in environment.items() if name not in _INDEX_SETTINGS}


def needed(lock: Lock, installed: Mapping[str, str], *, is_forced: bool) -> List[LockedPackage]:
    """What of *lock* is not installed at its version; all of it where it is to be installed again."""
    return [
        package
        for package in lock.packages
        if is_forced or not is_version(installed.get(normalised(package.name)), package.version)
    ]


def is_version(found: Optional[str], wanted: Optional[str]) -> bool:
    """Do both mean the same version, written as it may be?"""
    return found is not None and wanted is not None and _key(found) == _key(wanted)


def _key(version: str) -> str:
    public, plus, local = version.lower().lstrip("v").partition("+")
    public = re.sub(r"[-_.]?(a|b|c|rc|alpha|beta|pre|preview|post|rev|r|dev)[-_.]?(?=\d)", r"\1", public)
    return (
        re.sub(r"(\.0+)+$", "", re.sub(r"(?<![0-9])0+(?=\d)", "", public))
        + plus
        + re.sub(r"[-_]", ".", local)
    )


def _write(path: str, lines: Sequence[str]) -> None:
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600
    )  # an index's URL may hold a login
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
