"""A shell script as words and operators; quotes, here-documents and arrays are whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLANKS = " \t\r"
_ENDS = " \t\r\n;&|()<>"
_OPERATORS = (
    ";;",
    "&&",
    "||",
    "<<<",
    "<<-",
    "<<",
    ">>",
    "&>",
    ">&",
    "<&",
    ";",
    "&",
    "|",
    "(",
    ")",
    "<",
    ">",
    "\n",
)
_BEGINNINGS = frozenset(operator[0] for operator in _OPERATORS)
_ARRAY = re.compile(r"([A-Za-z_]\w*)(\+?)=$")


@dataclass(frozen=True)
class Token:
    """A word as it is written, an operator, or an array's literal (`text` is its name, `words` its entries)."""

    kind: str
    text: str
    line: int
    words: tuple[str, ...] = ()
    is_added: bool = False
    """An array's entries are added to those that it has."""


class Lexer:
    """Cuts *text*; what has no end ends with it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self.documents: dict[int, str] = {}
        """Text of here-documents, by the number of the token that says their end."""
        self.broken: list[str] = []

    def tokens(self) -> Iterator[Token]:
        """Every word and operator, in order."""
        text, count, waiting = self._text, 0, []  # type: str, int, list[tuple[int, str, bool]]
        previous = ""
        while self._at < len(text):
            here = text[self._at]
            if here in _BLANKS:
                self._at += 1
                continue
            if text.startswith("\\\n", self._at):
                self._at, self._line = self._at + 2, self._line + 1
                continue
            if here == "#":
                self._at = _or_end(text.find("\n", self._at), text)
                continue
            operator = (
                next((each for each in _OPERATORS if text.startswith(each, self._at)), None)
                if here in _BEGINNINGS
                else None
            )
            line = self._line
            if operator is not None:
                self._at += len(operator)
                token = Token("op", operator, line)
                if operator == "\n":
                    self._line += 1
                    for number, end, is_indented in waiting:
                        self.documents[number] = self._document(end, is_indented)
                    waiting = []
            else:
                token = self._word()
                if previous in ("<<", "<<-"):
                    waiting.append((count, token.text.strip("\"'").replace("\\", ""), previous == "<<-"))
            previous = token.text if token.kind == "op" else ""
            yield token
            count += 1

    def _document(self, end: str, is_indented: bool) -> str:
        lines = []
        while self._at < len(self._text):
            stop = _or_end(self._text.find("\n", self._at), self._text)
            line = self._text[self._at : stop]
            self._at, self._line = stop + 1, self._line + 1
            if (line.strip() if is_indented else line) == end:
                break
            lines.append(line.lstrip("\t") if is_indented else line)
        return "".join(f"{line}\n" for line in lines)

    def _word(self) -> Token:
        start, line = self._at, self._line
        while self._at < len(self._text) and self._text[self._at] not in _ENDS:
            self._at = self._piece(self._at)
        word = self._text[start : self._at]
        self._line += word.count("\n")
        found = _ARRAY.match(word)
        if found and self._text.startswith("(", self._at):
            return self._array(found[1], line, is_added=bool(found[2]))
        return Token("word", word, line)

    def _array(self, name: str, line: int, *, is_added: bool) -> Token:
        """The entries after `NAME=(`, to the closing parenthesis; one without an end is broken and nothing of it is taken."""
        text, begun, words = self._text, self._at, []  # type: str, int, list[str]
        self._at += 1
        while self._at < len(text):
            here = text[self._at]
            if here == ")":
                self._at += 1
                self._line += text.count("\n", begun, self._at)
                return Token("array", name, line, tuple(words), is_added)
            if here in " \t\r\n":
                self._at += 1
            elif here == "#":
                self._at = _or_end(text.find("\n", self._at), text)
            else:
                start = self._at
                while self._at < len(text) and text[self._at] not in " \t\r\n()":
                    self._at = self._piece(self._at)
                if self._at == start:
                    break
                words.append(text[start : self._at])
        self.broken.append(name)
        self._at = _or_end(text.find("\n", begun), text)
        return Token("array", name, line, (), is_added)

    def _piece(self, at: int) -> int:
        """Where the piece of a word that begins at *at* ends: a quoted part, a substitution, or one character."""
        text = self._text
        if text[at] == "\\":
            return min(at + 2, len(text))
        if text[at] == "'":
            return _or_end(text.find("'", at + 1), text, 1)
        if text[at] == '"':
            at += 1
            while at < len(text) and text[at] != '"':
                at = self._piece(at) if text[at] in "\\$`" else at + 1
            return min(at + 1, len(text))
        if text[at] == "`":
            return _or_end(text.find("`", at + 1), text, 1)
        if text.startswith(("$(", "${"), at):
            return balanced(text, at + 1)
        return at + 1


def balanced(text: str, at: int) -> int:
    """Where the parenthesis or brace at *at* is closed; the end of *text* when it is not."""
    opening, closing = text[at], ")" if text[at] == "(" else "}"
    depth, quote = 0, ""
    while at < len(text):
        here = text[at]
        if here == "\\":
            at += 1
        elif quote:
            quote = "" if here == quote else quote
        elif here in "\"'":
            quote = here
        elif here == opening:
            depth += 1
        elif here == closing:
            depth -= 1
            if not depth:
                return at + 1
        at += 1
    return len(text)


def _or_end(found: int, text: str, more: int = 0) -> int:
    return len(text) if found < 0 else found + more
