"""OpenSSH's client configuration, in a form that asyncssh takes: what ssh skips, or this tool decides itself, is left out.

asyncssh refuses a whole configuration for one word that it does not know. So the files are read here, line by line:
includes are put in place, conditions that cannot be told do not match, and only the words of `KEPT` go on. Nothing is
ever forwarded to an instance (agent, X11, variables), whatever the configuration says. Source: ssh_config(5).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_FILE_BYTES = 1 << 20
MAX_FILES = 256
MAX_DEPTH = 16
"""Of files that include each other, as ssh."""
_LINE = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*)(?:\s*=\s*|\s+)(.*?)\s*")
KEPT = {
    name.lower(): name
    for name in (
        "AddressFamily", "BindAddress", "CASignatureAlgorithms", "CanonicalDomains", "CanonicalizeFallbackLocal", "CanonicalizeHostname",
        "CanonicalizeMaxDots", "CanonicalizePermittedCNAMEs", "CertificateFile", "HostKeyAlgorithms", "HostKeyAlias",
        "HostName", "IdentitiesOnly", "IdentityAgent", "IdentityFile", "KexAlgorithms", "MACs", "Port", "ProxyCommand", "ProxyJump", "Tag", "User",
    )
}  # fmt: skip
"""The words that go on, by their small letters."""
_CONDITIONS = {"host": 1, "originalhost": 1, "user": 1, "localuser": 1, "exec": 1, "tagged": 1, "all": 0, "canonical": 0,
               "final": 0}  # fmt: skip
"""Those that can be told, with the number of their arguments; any other does not match."""


class ConfigError(ValueError):
    """A line that ssh refuses, too; the text names its file and number."""


def plain_text(file: Path | None, options: Sequence[str] = ()) -> str:
    """The configuration as asyncssh takes it.

    Args:
        file: The user's configuration; None, one that is not there and an empty one (``/dev/null``) are the same.
        options: Lines that win over the file, as of ``ssh -o``.

    Raises:
        ConfigError: ssh would refuse it, too. OSError: a file cannot be read.
    """
    reader = _Reader()
    lines = [*reader.block("-o", enumerate(options, 1), (), 0), "Match all"]
    if file is not None and file.exists():
        lines += reader.read(file, (), 0)
    return "\n".join(lines) + "\n"


@dataclass
class _Reader:
    """What is counted over all files of one configuration."""

    files: int = 0

    def read(self, file: Path, outer: tuple[str, ...], depth: int) -> list[str]:
        """The lines of *file*, which hold only where *outer*, conditions of `Match`, hold."""
        self.files += 1
        if depth > MAX_DEPTH or self.files > MAX_FILES:
            raise ConfigError(f"{file}: too many files include each other")
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{file}: longer than {MAX_FILE_BYTES >> 20} MiB")
        text = data.decode(errors="surrogateescape")
        return list(self.block(str(file), enumerate(text.splitlines(), 1), outer, depth))

    def block(
        self, name: str, lines: Iterator[tuple[int, str]] | enumerate[str], outer: tuple[str, ...], depth: int
    ) -> Iterator[str]:
        """The *lines* of one file called *name*, made plain."""
        here: tuple[str, ...] | None = outer
        yield _match(here)
        for number, line in lines:
            found = _LINE.fullmatch(line)
            if found is None:
                continue  # empty, a comment, or a lone word
            word, rest = found[1].lower(), found[2]
            where = f"{name} line {number}"
            if word in ("host", "match"):
                own = _conditions(word, _words(rest, where))
                here = None if own is None else (*outer, *own)
                if here is not None:
                    yield _match(here)
            elif here is None:
                continue
            elif word == "include":
                for file in _included(_words(rest, where)):
                    yield from self.read(file, here, depth + 1)
                yield _match(here)
            else:
                yield from _setting(word, rest, where)


def _match(conditions: tuple[str, ...] | None) -> str:
    return "Match " + " ".join(conditions or ("all",))


def _conditions(word: str, words: list[str]) -> tuple[str, ...] | None:
    """A `Host` or `Match` line as conditions of `Match`; None when it does not match, or cannot be told."""
    if word == "host":
        return ("originalhost", shlex.quote(",".join(words)))
    found: list[str] = []
    rest = iter(words)
    for condition in rest:
        bare = condition.lower().removeprefix("!")
        if bare not in _CONDITIONS:
            return None
        found.append(condition)
        if _CONDITIONS[bare]:
            argument = next(rest, None)
            if argument is None:
                return None
            found.append(shlex.quote(argument))
    others = tuple(part for part in found if part.lower() != "all")
    return others or ("all",)


def _included(patterns: list[str]) -> Iterator[Path]:
    for pattern in patterns:
        path = Path(pattern).expanduser()
        root = Path(path.anchor) if path.anchor else Path("~/.ssh").expanduser()
        relative = str(path.relative_to(path.anchor)) if path.anchor else pattern
        yield from sorted(found for found in root.glob(relative) if found.is_file())


def _setting(word: str, rest: str, where: str) -> Iterator[str]:
    if word == "proxycommand":
        yield f"ProxyCommand {rest}"
    elif word in KEPT:
        words = _words(rest, where)
        if not words:
            raise ConfigError(f"{where}: `{KEPT[word]}` has no value")
        if word == "port" and not words[0].isdigit():
            raise ConfigError(f"{where}: `{words[0]}` is not a port")
        yield f"{KEPT[word]} {shlex.join(words)}"


def _words(rest: str, where: str) -> list[str]:
    try:
        words = shlex.split(rest)
    except ValueError:
        raise ConfigError(f"{where}: a quote is not closed") from None
    comment = next((number for number, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:comment]
