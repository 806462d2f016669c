"""What words of a shell script come to, as far as the script itself says it: variables, arrays, defaults, parts of paths.

What nobody can tell without running the script stays as it is written, with its `$`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .shell_lexer import balanced

MOST_CHARS = 1 << 16
"""Of one value: variables that name each other many times would fill any memory."""
MOST_DEPTH = 20
_NAME = re.compile(r"[A-Za-z_]\w*|[0-9]|[@*#]")
_ALL = re.compile(r"\"?\$(?:\{([A-Za-z_]\w*)\[[@*]\](?::(\d+))?\}|\{?([@*])\}?)\"?$")
_KEYS = re.compile(r"\"?\$\{!([A-Za-z_]\w*)\[[@*]\]\}\"?$")
_INNER = re.compile(r"([A-Za-z_]\w*|[0-9@*])(\[[^\]]*\])?(.*)", re.S)
_BASENAME = re.compile(r"(basename|dirname)\s+(?:--\s+)?(.+)$", re.S)
_CUT = re.compile(
    r"(?:echo|printf\s+'%s'|printf\s+\"%s\")\s+(.+?)\s*\|\s*cut\s+-d\s*(\S+)\s+-f\s*(\d+)(\s*\|\s*xargs)?$",
    re.S,
)
_CLEAN = re.compile(
    r"(?:echo|printf\s+'%s'|printf\s+\"%s\")\s+(.+?)\s*\|\s*(?:xargs|sed\s.*|tr\s.*|awk\s.*)$", re.S
)


@dataclass
class Values:
    """The variables and arrays of a script so far, and the words that a function was called with."""

    scalars: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, list[str]] = field(default_factory=dict)
    maps: dict[str, dict[str, str]] = field(default_factory=dict)
    """Associative arrays; their values are in `arrays`, too."""
    arguments: list[str] = field(default_factory=list)
    folder: str | None = None
    """Where the script is; None: where it was started."""
    left: list[str | None] = field(default_factory=list)
    """Folders that `popd` goes back to."""
    piped: list[str] = field(default_factory=list)
    """Lines that the command before gives to the next one."""
    written: dict[str, str] = field(default_factory=dict)
    """Texts that the script writes into files, by how it calls them."""

    def copy(self) -> Values:
        """Changed for itself."""
        arrays = {name: list(words) for name, words in self.arrays.items()}
        maps = {name: dict(entries) for name, entries in self.maps.items()}
        return Values(
            dict(self.scalars),
            arrays,
            maps,
            list(self.arguments),
            self.folder,
            list(self.left),
            list(self.piped),
            dict(self.written),
        )

    def rename(self, known: str, name: str) -> None:
        """Let *name* be what *known* is."""
        if known in self.arrays:
            self.arrays[name] = list(self.arrays[known])
        if known in self.maps:
            self.maps[name] = dict(self.maps[known])
        if known in self.scalars:
            self.scalars[name] = self.scalars[known]

    def write(self, file: str, text: str) -> None:
        """Remember that *text* is put at the end of *file*."""
        self.written[file] = (self.written.get(file, "") + text)[:MOST_CHARS]

    def words(self, raw: str) -> list[str]:
        """What the word *raw* becomes: several where it is an array or a list in a variable."""
        keys = _KEYS.match(raw)
        if keys and keys[1] in self.maps:
            return list(self.maps[keys[1]])
        if keys and keys[1] in self.arrays:
            return [str(number) for number in range(len(self.arrays[keys[1]]))]
        found = _ALL.match(raw)
        if found:
            if found[3]:
                return list(self.arguments)
            if found[1] in self.arrays:
                return self.arrays[found[1]][int(found[2] or 0) :]
            return [self.scalars[found[1]]] if found[1] in self.scalars else [raw]
        text = self.text(raw)
        if raw.startswith("$") and "$" not in text:
            return text.split()
        return _braced(raw) if "{" in raw and "," in raw and not re.search(r"[\"'$]", raw) else [text]

    def is_empty_list(self, raw: str, *, has_words: bool) -> bool:
        """Is *raw* an array, known to be empty; or, where a function `has_words`, their empty list?"""
        found, keys = _ALL.match(raw), _KEYS.match(raw)
        if found and found[3]:
            return has_words and not self.arguments
        name = found[1] if found else keys[1] if keys else ""
        return name in self.arrays and not self.words(raw)

    def text(self, raw: str, depth: int = 0) -> str:
        """*raw* without its quotes, and with what is known in place of its variables."""
        out: list[str] = []
        at = size = 0
        while at < len(raw) and size < MOST_CHARS:
            here, piece = raw[at], ""
            if here == "'":
                end = raw.find("'", at + 1)
                end = len(raw) if end < 0 else end
                piece, at = raw[at + 1 : end], end + 1
            elif here == "\\" and at + 1 < len(raw):
                piece, at = ("" if raw[at + 1] == "\n" else raw[at + 1]), at + 2
            elif here == '"':
                end = _quote_end(raw, at)
                piece, at = self._quoted(raw[at + 1 : end], depth), end + 1
            elif here in "$`":
                piece, at = self._substituted(raw, at, depth)
            else:
                piece, at = here, at + 1
            out.append(piece)
            size += len(piece)
        return "".join(out)[:MOST_CHARS]

    def _quoted(self, inner: str, depth: int) -> str:
        out: list[str] = []
        at = size = 0
        while at < len(inner) and size < MOST_CHARS:
            piece = inner[at]
            if piece == "\\" and inner[at + 1 : at + 2] in ('"', "$", "`", "\\", "\n"):
                piece = "" if inner[at + 1] == "\n" else inner[at + 1]
                at += 2
            elif piece in "$`":
                piece, at = self._substituted(inner, at, depth)
            else:
                at += 1
            out.append(piece)
            size += len(piece)
        return "".join(out)

    def _substituted(self, raw: str, at: int, depth: int) -> tuple[str, int]:
        """What stands for the substitution that begins at *at*, and where that ends."""
        if raw[at] == "`":
            end = raw.find("`", at + 1)
            end = len(raw) if end < 0 else end + 1
            return self._command(raw[at + 1 : end - 1], depth) or raw[at:end], end
        if raw.startswith(("$(", "${"), at):
            end = balanced(raw, at + 1)
            inner, whole = raw[at + 2 : end - 1], raw[at:end]
            known = self._command(inner, depth) if raw[at + 1] == "(" else self._parameter(inner, depth)
            return whole if known is None else known, end
        name = _NAME.match(raw, at + 1)
        if name is None:
            return raw[at], at + 1
        known = self._value(name[0])
        return f"${name[0]}" if known is None else known, name.end()

    def _value(self, name: str) -> str | None:
        if name in ("@", "*"):
            return " ".join(self.arguments)
        if name == "#":
            return str(len(self.arguments))
        if name.isdigit():
            number = int(name)
            return self.arguments[number - 1] if 0 < number <= len(self.arguments) else None
        if name == "PWD":
            return self.folder
        if name in self.arrays:
            return self.arrays[name][0] if self.arrays[name] else ""
        return self.scalars.get(name)

    def _parameter(self, inner: str, depth: int) -> str | None:
        """What `${inner}` is; None where it cannot be told."""
        found = _INNER.match(inner)
        if found is None or depth > MOST_DEPTH:
            return None
        name, index, operation = found[1], found[2], found[3]
        value = self._value(name)
        if index is not None:
            entries = self.arrays.get(name, [])
            if index in ("[@]", "[*]"):
                value = " ".join(entries) if name in self.arrays else None
            else:
                number = self.text(index[1:-1], depth + 1)
                number = self.scalars.get(number, number) if name not in self.maps else number
                pair = self.maps.get(name, {}).get(number)
                if pair is not None:
                    return self._edited(pair, operation, depth) if operation else pair
                is_one = number.lstrip("-").isdigit() and -len(entries) <= int(number) < len(entries)
                value = entries[int(number)] if is_one else None
        default = re.match(r":?[-=](.*)", operation, re.S)
        if default is not None:
            return value if value else self.text(default[1], depth + 1)
        instead = re.match(r":?\+(.*)", operation, re.S)
        if instead is not None:
            return self.text(instead[1], depth + 1) if value else ""
        if value is None or not operation or operation.startswith((":?", "?")):
            return value
        return self._edited(value, operation, depth)

    def _edited(self, value: str, operation: str, depth: int) -> str | None:
        trimmed = re.match(r"(##|#|%%|%)(.*)", operation, re.S)
        if trimmed is not None:
            return _trimmed(value, trimmed[1], self.text(trimmed[2], depth + 1))
        replaced = re.match(r"(//|/)(.+?)(?:/(.*))?$", operation, re.S)
        if replaced is not None and not re.search(r"[*?\[]", replaced[2]):
            old, new = self.text(replaced[2], depth + 1), self.text(replaced[3] or "", depth + 1)
            return value.replace(old, new, -1 if replaced[1] == "//" else 1)[:MOST_CHARS]
        return value.lower() if operation == ",," else value.upper() if operation == "^^" else None

    def _command(self, inner: str, depth: int) -> str | None:
        """What a `$(command)` says, for the few that only take a text apart."""
        inner = inner.strip()
        if depth > MOST_DEPTH:
            return None
        if inner == "pwd":
            return self.folder
        found = _BASENAME.match(inner)
        if found is not None and "|" not in found[2]:
            value = self.text(found[2], depth + 1).split("\n")[0]
            if "$" in value:
                return None
            head, _, last = value.rstrip("/").rpartition("/")
            return last if found[1] == "basename" else head or "."
        found = _CUT.match(inner)
        if found is not None:
            value = self.text(found[1], depth + 1)
            parts, number = value.split(self.text(found[2]) or "|"), int(found[3])
            if "$(" in value or number > len(parts):
                return None
            return parts[number - 1].strip() if found[4] else parts[number - 1]
        found = _CLEAN.match(inner)
        if found is not None:
            value = self.text(found[1], depth + 1)
            return None if "$" in value else value.strip()
        return None


def _trimmed(value: str, how: str, pattern: str) -> str:
    if len(value) > 4096:
        return value
    lengths = range(len(value) + 1)
    if how in ("#", "##"):
        cuts = lengths if how == "#" else reversed(lengths)
        return next((value[cut:] for cut in cuts if fnmatchcase(value[:cut], pattern)), value)
    cuts = reversed(lengths) if how == "%" else lengths
    return next((value[:cut] for cut in cuts if fnmatchcase(value[cut:], pattern)), value)


def _quote_end(raw: str, at: int) -> int:
    at += 1
    while at < len(raw) and raw[at] != '"':
        if raw.startswith(("$(", "${"), at):
            at = balanced(raw, at + 1)
        else:
            at += 2 if raw[at] == "\\" else 1
    return min(at, len(raw))


def _braced(raw: str) -> list[str]:
    """`a{b,c}d` as its two words; one pair of braces."""
    found = re.fullmatch(r"([^{}]*)\{([^{}]+)\}([^{}]*)", raw)
    return [f"{found[1]}{each}{found[3]}" for each in found[2].split(",")] if found else [raw]
