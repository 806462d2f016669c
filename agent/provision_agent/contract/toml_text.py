"""The part of TOML that lock files are written in, as plain values; what is not of it is refused, never guessed.

Python before 3.11 reads no TOML. Read are comments, tables, arrays of tables, texts in one line (both quotes), whole
numbers, true and false, dates (as the text that they are), arrays and inline tables. Several lines in one text, floats,
numbers of another base and dates of other shapes are refused. Bytes, depth and counts are bounded.
"""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Sequence, Set, Union

from .parsing import ParseError

MAX_DEPTH = 12
MAX_VALUES = 400_000
_SPACE = re.compile(r"[ \t]*")
_BLANKS = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"((?:[^"\\\n\x00-\x08\x0b-\x1f\x7f]|\\.)*)"')
_LITERAL = re.compile(r"'([^'\n\x00-\x08\x0b-\x1f\x7f]*)'")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)?)?")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9](?:_?\d)*)(?![\w.+:-])")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}

Table = Dict[str, object]


class _Found(NamedTuple):
    """A value, and where the text goes on behind it."""

    value: object
    end: int


def read_toml(data: Union[bytes, str], *, max_bytes: int, what: str = "the text") -> Table:
    """The tables in *data*.

    Args:
        max_bytes: A longer text is refused unread.
        what: The name of the text, for messages.

    Raises:
        ParseError: longer, not UTF-8, not of the part of TOML that is read here, or nested too deeply. The message names
            the line.
    """
    if len(data) > max_bytes:
        raise ParseError(f"{what} is longer than {max_bytes // 1024} KiB")
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
    except UnicodeDecodeError:
        raise ParseError(f"{what} is not UTF-8") from None
    return _Reader(text.replace("\r\n", "\n"), what).document()


class _Reader:
    """Reads one text from its beginning to its end."""

    def __init__(self, text: str, what: str) -> None:
        self._text = text
        self._what = what
        self._values = 0
        self._root: Table = {}
        self._given: Set[int] = set()
        """The tables that a header has named, by identity: none is given twice."""

    def document(self) -> Table:
        at, table = self._skip(0), self._root
        while at < len(self._text):
            if self._text[at] == "[":
                is_array = self._text.startswith("[[", at)
                keys, at = self._keys(at + (2 if is_array else 1))
                at = self._expect("]]" if is_array else "]", at)
                table = self._element(keys, at) if is_array else self._named(keys, at)
            else:
                at = self._entry(table, at, 1)
            at = self._line_end(at)
        return self._root

    # -- headers

    def _named(self, keys: Sequence[str], at: int) -> Table:
        table = self._inside(self._root, keys, at)
        if id(table) in self._given:
            raise self._error(at, "a table twice")
        self._given.add(id(table))
        return table

    def _element(self, keys: Sequence[str], at: int) -> Table:
        parent = self._inside(self._root, keys[:-1], at)
        found = parent.setdefault(keys[-1], [])
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self._error(at, "a name for two things")
        table: Table = {}
        self._count(at)
        found.append(table)
        return table

    def _inside(self, table: Table, keys: Sequence[str], at: int) -> Table:
        """The table that *keys* lead to from *table*; made where it is not there."""
        if len(keys) > MAX_DEPTH:
            raise self._error(at, "tables nested too deeply")
        for key in keys:
            found = table.setdefault(key, {})
            if isinstance(found, list) and found:
                found = found[-1]
            if not isinstance(found, dict):
                raise self._error(at, "a name for two things")
            table = found
        return table

    # -- entries and values

    def _entry(self, table: Table, at: int, depth: int) -> int:
        keys, at = self._keys(at)
        at = self._expect("=", at)
        value, at = self._value(self._space(at), depth)
        parent = self._inside(table, keys[:-1], at)
        if keys[-1] in parent:
            raise self._error(at, "a key twice")
        parent[keys[-1]] = value
        return at

    def _keys(self, at: int) -> "tuple[List[str], int]":
        keys: List[str] = []
        while True:
            at = self._space(at)
            found = _KEY.match(self._text, at)
            if found is not None:
                key, at = found.group(), found.end()
            elif self._text[at : at + 1] in ("'", '"'):
                key, at = self._quoted(at)
            else:
                raise self._error(at, "no key")
            keys.append(key)
            at = self._space(at)
            if not self._text.startswith(".", at):
                return keys, at
            at += 1

    def _value(self, at: int, depth: int) -> _Found:
        self._count(at)
        if depth > MAX_DEPTH:
            raise self._error(at, "values nested too deeply")
        first = self._text[at : at + 1]
        if first in ("'", '"') and first:
            return _Found(*self._quoted(at))
        if first == "[":
            return self._array(at + 1, depth)
        if first == "{":
            return self._inline(at + 1, depth)
        for word, value in (("true", True), ("false", False)):
            if self._text.startswith(word, at):
                return _Found(value, at + len(word))
        date = _DATE.match(self._text, at)
        if date is not None:
            return _Found(date.group(), date.end())
        number = _NUMBER.match(self._text, at)
        if number is None or len(number.group()) > 24:
            raise self._error(at, "a value of a kind that is not read here")
        return _Found(int(number.group().replace("_", "")), number.end())

    def _array(self, at: int, depth: int) -> _Found:
        items: List[object] = []
        while True:
            at = self._skip(at)
            if self._text.startswith("]", at):
                return _Found(items, at + 1)
            value, at = self._value(at, depth + 1)
            items.append(value)
            at = self._skip(at)
            if self._text.startswith(",", at):
                at += 1
            elif not self._text.startswith("]", at):
                raise self._error(at, "an array that does not end")

    def _inline(self, at: int, depth: int) -> _Found:
        """Line breaks are taken here too, as TOML 1.1 has them."""
        table: Table = {}
        while True:
            at = self._skip(at)
            if self._text.startswith("}", at):
                return _Found(table, at + 1)
            at = self._skip(self._entry(table, at, depth + 1))
            if self._text.startswith(",", at):
                at += 1
            elif not self._text.startswith("}", at):
                raise self._error(at, "an inline table that does not end")

    def _quoted(self, at: int) -> "tuple[str, int]":
        if self._text.startswith(('"""', "'''"), at):
            raise self._error(at, "a text of several lines")
        found = _LITERAL.match(self._text, at)
        if found is not None:
            return found.group(1), found.end()
        found = _BASIC.match(self._text, at)
        if found is None:
            raise self._error(at, "a text that does not end")
        text = found.group(1)
        return (self._unescaped(text, at) if "\\" in text else text), found.end()

    def _unescaped(self, text: str, at: int) -> str:
        def char(found: "re.Match[str]") -> str:
            word = found.group(1)
            if word in _ESCAPED:
                return _ESCAPED[word]
            code = int(word[1:], 16) if len(word) > 1 else -1
            if not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise self._error(at, "an escape that stands for nothing")
            return chr(code)

        return _ESCAPE.sub(char, text)

    # -- places

    def _space(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return at if found is None else found.end()

    def _skip(self, at: int) -> int:
        """Past spaces, line breaks and comments."""
        found = _BLANKS.match(self._text, at)
        return at if found is None else found.end()

    def _expect(self, word: str, at: int) -> int:
        at = self._space(at)
        if not self._text.startswith(word, at):
            raise self._error(at, f"no `{word}`")
        return at + len(word)

    def _line_end(self, at: int) -> int:
        at = self._space(at)
        if at < len(self._text) and self._text[at] not in "#\n":
            raise self._error(at, "more than one thing in a line")
        return self._skip(at)

    def _count(self, at: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(at, f"more than {MAX_VALUES} values")

    def _error(self, at: int, problem: str) -> ParseError:
        line = self._text.count("\n", 0, at) + 1
        return ParseError(f"{self._what} has {problem} in line {line}")
