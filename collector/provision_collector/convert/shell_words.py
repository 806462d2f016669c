"""A shell script as statements: words, arrays, branches, loops, functions. Nothing is run, and nothing in a script breaks the reading."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .shell_lexer import Lexer, Token

MOST_DEPTH = 60


@dataclass
class Simple:
    """One command: its words and arrays, where its output goes, and the text that it reads."""

    words: list[Token]
    line: int
    into: str | None = None
    """The word after `>`."""
    text: str | None = None
    """Of a here-document."""
    string: str | None = None
    """The word after `<<<`."""
    is_piped: bool = False
    """Its output is another command's input."""


@dataclass
class Branches:
    """`if` or `case`: each branch with its condition; `else` has an empty one."""

    branches: list[tuple[str, list[Statement]]]
    line: int
    asked: list[Statement] = field(default_factory=list)
    """The commands that conditions are."""


@dataclass
class Loop:
    """`for NAME in WORDS`; of `while` and `until`, NAME is empty, and there is a condition, and perhaps a text that is read."""

    name: str
    words: list[str]
    body: list[Statement]
    line: int
    condition: str = ""
    text: str | None = None
    file: str | None = None
    """The word after ``done <``."""
    asked: list[Statement] = field(default_factory=list)
    """The commands that its condition is."""


@dataclass
class Function:
    """A definition."""

    name: str
    body: list[Statement]
    line: int


@dataclass
class Subshell:
    """``( … )``: what changes in it ends with it."""

    body: list[Statement]
    line: int


Statement = Simple | Branches | Loop | Function | Subshell


@dataclass
class Script:
    """What was read."""

    body: list[Statement]
    broken: list[str] = field(default_factory=list)
    """Names of arrays that have no end."""


def read(text: str) -> Script:
    """Read *text*; what cannot be read is passed over."""
    lexer = Lexer(text.replace("\r\n", "\n"))
    tokens = list(lexer.tokens())
    reader = _Reader(tokens, lexer.documents)
    body: list[Statement] = []
    while reader.at < len(tokens):
        before = reader.at
        body += reader.statements(())
        reader.at = max(reader.at, before + 1)
    return Script(body, lexer.broken)


class _Reader:
    def __init__(self, tokens: list[Token], documents: dict[int, str], *, end: int | None = None) -> None:
        self._tokens = tokens
        self._end = len(tokens) if end is None else end
        self._documents = documents
        self._depth = 0
        self.at = 0

    def statements(self, ends: tuple[str, ...]) -> list[Statement]:
        """Until a word of *ends* stands where a command begins."""
        found: list[Statement] = []
        self._depth += 1
        while self.at < self._end and self._depth < MOST_DEPTH:
            token = self._tokens[self.at]
            if token.text in ends:
                break
            if token.kind == "op" and token.text != "(":
                self.at += 1
                continue
            before = self.at
            statement = self._statement(token)
            if statement is not None:
                found.append(statement)
            self.at = max(self.at, before + 1)
        self._depth -= 1
        return found

    def _statement(self, token: Token) -> Statement | None:
        word = token.text if token.kind == "word" else ""
        if token.text == "(" and token.kind == "op":
            self.at += 1
            body = self.statements((")",))
            self.at += 1
            return Subshell(body, token.line)
        if word in ("{", "!", "time", "then", "do", "}", "fi", "done", "esac", "else", "elif", "in"):
            self.at += 1
            return None
        if word == "if":
            return self._if(token.line)
        if word in ("for", "select", "while", "until"):
            return self._loop(word, token.line)
        if word == "case":
            return self._case(token.line)
        if word == "function" or (self._is(1, "(") and self._is(2, ")")):
            return self._function(word, token.line)
        return self._simple(token.line)

    def _is(self, further: int, text: str) -> bool:
        at = self.at + further
        return at < self._end and self._tokens[at].kind == "op" and self._tokens[at].text == text

    def _skip(self, word: str) -> bool:
        if self.at < self._end and self._tokens[self.at].text == word:
            self.at += 1
            return True
        return False

    def _text_until(self, word: str) -> str:
        begun = self.at
        while self.at < self._end and self._tokens[self.at].text != word:
            self.at += 1
        words = (token.text for token in self._tokens[begun : self.at] if token.text not in (";", "\n"))
        return " ".join(words)

    def _if(self, line: int) -> Branches:
        branches: list[tuple[str, list[Statement]]] = []
        asked: list[Statement] = []
        self.at += 1
        while True:
            begun = self.at
            condition = self._text_until("then")
            asked += self._between(begun, self.at)
            self._skip("then")
            branches.append((condition, self.statements(("elif", "else", "fi"))))
            if not self._skip("elif"):
                break
        if self._skip("else"):
            branches.append(("", self.statements(("fi",))))
        self._skip("fi")
        return Branches(branches, line, asked)

    def _between(self, begun: int, end: int) -> list[Statement]:
        """The commands of a condition; they may be what brings something."""
        reader = _Reader(self._tokens, self._documents, end=end)
        reader.at, reader._depth = begun, self._depth + 1
        return reader.statements(())

    def _case(self, line: int) -> Branches:
        self.at += 1
        word = self._text_until("in")
        self._skip("in")
        branches: list[tuple[str, list[Statement]]] = []
        while self.at < self._end and self._tokens[self.at].text != "esac":
            pattern = self._text_until(")").strip()
            self._skip(")")
            branches.append((f"{word} is {pattern}", self.statements((";;", "esac"))))
            self._skip(";;")
            while self._skip("\n"):
                pass
        self._skip("esac")
        return Branches(branches, line)

    def _loop(self, word: str, line: int) -> Loop:
        self.at += 1
        name, words = "", []  # type: str, list[str]
        if word == "for" and self._is(0, "("):
            begun = self.at
            while self.at < self._end and self._tokens[self.at].text != "do":
                self.at += 1
            name, words = _counted(" ".join(token.text for token in self._tokens[begun : self.at]))
        elif word in ("for", "select") and self.at < self._end:
            name = self._tokens[self.at].text
            self.at += 1
            words = ['"$@"']
            if self._skip("in"):
                begun = self.at
                while self.at < self._end and self._tokens[self.at].kind != "op":
                    self.at += 1
                words = [token.text for token in self._tokens[begun : self.at]]
        begun = self.at
        condition = self._text_until("do")
        asked = self._between(begun, self.at) if word in ("while", "until") else []
        self._skip("do")
        body = self.statements(("done",))
        self._skip("done")
        made = Loop(name, words, body, line, condition, asked=asked)
        if self._is(0, "<") and self.at + 1 < self._end and self._tokens[self.at + 1].kind == "word":
            made.file = self._tokens[self.at + 1].text
        if self._is(0, "<<") or self._is(0, "<<-"):
            made.text = self._documents.get(self.at + 1)
            self.at += 2
        return made

    def _function(self, word: str, line: int) -> Function | None:
        if word == "function":
            self.at += 1
            word = self._tokens[self.at].text if self.at < self._end else ""
        self.at += 1
        while self._skip("(") or self._skip(")") or self._skip("\n"):
            pass
        if not self._skip("{"):
            return None
        body = self.statements(("}",))
        self._skip("}")
        return Function(word, body, line)

    def _simple(self, line: int) -> Simple:
        made = Simple([], line)
        while self.at < self._end:
            token = self._tokens[self.at]
            if token.kind == "op" and token.text in ("<", ">", ">>", "&>", ">&", "<&", "<<", "<<-", "<<<"):
                self.at += 1
                if self.at < self._end and self._tokens[self.at].kind == "word":
                    if token.text in (">", ">>"):
                        made.into = self._tokens[self.at].text
                        if made.words and made.words[-1].text == "2":  # `2> file`
                            made.into = None
                    made.text = self._documents.get(self.at, made.text)
                    if token.text == "<<<":
                        made.string = self._tokens[self.at].text
                    self.at += 1
                continue
            if token.kind == "op":
                made.is_piped = token.text == "|"
                break
            made.words.append(token)
            self.at += 1
        return made


def _counted(text: str) -> tuple[str, list[str]]:
    """Name and words of `for ((i = 0; i < N; i++))`, where N is a number or how many entries an array has."""
    found = re.search(r"([A-Za-z_]\w*) ?= ?0 ?;.*<=? ?(?:\$\{#(\w+)\[[@*]\]\}|(\d{1,3})\b)", text)
    if found is None:
        return "", []
    return found[1], [f'"${{!{found[2]}[@]}}"'] if found[2] else list(map(str, range(int(found[3]))))
