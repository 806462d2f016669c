"""Walk through a shell script as it would go, without running anything: functions with their arguments, loops over arrays, branches.

Of an `if` with several branches that bring something, the first is taken, and what the others would bring is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from .documents import Item
from .shell_lexer import Token
from .shell_values import MOST_CHARS, Values
from .shell_words import Branches, Function, Loop, Script, Simple, Statement, Subshell

MOST_STEPS = 20_000
MOST_ENTRIES = 4000
"""Of all arrays together."""
MOST_CALLS = 40
"""Functions within functions."""


class Found(NamedTuple):
    """What a line brings."""

    kind: str
    """`download`, `repo`, `apt`, `packages`, `requirements`, `ref`, `file`, `move`, `unpack`; `entry` of an array; `open`, what is no item and
    has to be said; or `left`, a command that brings nothing and does something."""
    item: Item
    line: int

    @property
    def shown(self) -> str:
        """In a sentence."""
        if self.kind == "entry":
            return str(self.item["text"])
        words = (self.item.get(key) for key in ("url", "name", "path", "text"))
        return str(next((word for word in words if word), self.kind))


@dataclass
class Walk:
    """A walk so far. *on_command* makes of one command what it brings."""

    on_command: Callable[[list[str], Simple, Values], list[Found]]
    values: Values = field(default_factory=Values)
    found: list[Found] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """Sentences about branches that were not taken."""
    is_cut: bool = False
    """It was longer than anybody follows."""
    _functions: dict[str, Function] = field(default_factory=dict)
    _called: set[str] = field(default_factory=set)
    _steps: int = 0
    _entries_seen: int = 0
    _calls: int = 0
    _is_uncalled: bool = False
    """In a function that no line calls: its words are not known, so an empty list of them means nothing."""

    def through(self, script: Script) -> None:
        """Go through all of *script*; what no line calls is looked at last, with no arguments."""
        self.statements(script.body)
        for name, function in list(self._functions.items()):
            if name not in self._called:
                before = len(self.found)
                self._is_uncalled = True
                self._call(function, [])
                self._is_uncalled = False
                # what hangs on words that nobody gives it, it does not bring
                self.found[before:] = [
                    each
                    for each in self.found[before:]
                    if each.kind not in ("open", "left")
                    or (each.kind == "open" and "$" not in str(each.item["text"]))
                ]

    def statements(self, body: list[Statement]) -> None:
        """One after the other."""
        for statement in body:
            self._steps += 1
            if self._steps > MOST_STEPS:
                self.is_cut = True
                return
            if isinstance(statement, Simple):
                self._simple(statement)
            elif isinstance(statement, Branches):
                self._branches(statement)
            elif isinstance(statement, Loop):
                self._loop(statement)
            elif isinstance(statement, Function):
                self._functions[statement.name] = statement
            elif isinstance(statement, Subshell):
                folder = self.values.folder
                self.statements(statement.body)
                self.values.folder = folder

    def _simple(self, command: Simple) -> None:
        words: list[str] = []
        for token in command.words:
            if token.kind == "array":
                entries = self._entries(token)
                before = self.values.arrays.get(token.text, []) if token.is_added else []
                self.values.arrays[token.text] = [*before, *entries]
                room = max(MOST_ENTRIES - self._entries_seen, 0)
                self._entries_seen += len(entries)
                self.is_cut = self.is_cut or len(entries) > room
                for entry in entries[:room]:
                    self.found.append(Found("entry", {"name": token.text, "text": entry}, token.line))
                continue
            name, equals, value = token.text.partition("=")
            if equals and name.rstrip("+").isidentifier() and (not words or words[0] in _DECLARING):
                text = self.values.text(value)
                if "-n" in words[1:2]:
                    self.values.rename(text, name)
                    continue
                before_ = self.values.scalars.get(name.rstrip("+"), "") if name.endswith("+") else ""
                self.values.scalars[name.rstrip("+")] = (before_ + text)[:MOST_CHARS]
                self.values.arrays.pop(name, None)
                continue
            words += self.values.words(token.text)
        if words and words[0] in _DECLARING and "-n" in words[1:2]:  # another name of what is there
            return
        words = [word for word in words if word]
        if not words:
            return
        if words[0] in ("mapfile", "readarray") or (words[0] == "read" and command.string is None):
            for name in words[1:]:  # what it reads is not known
                self.values.arrays.pop(name, None)
        if words[0] == "read" and command.string is not None:
            read_into(words[1:], self.values.text(command.string), self.values)
        elif words[0] == "shift":
            count = int(words[1]) if len(words) > 1 and words[1].isdigit() else 1
            del self.values.arguments[:count]
        elif words[0] in self._functions:
            self._call(self._functions[words[0]], words[1:])
        else:
            self.found += self.on_command(words, command, self.values)

    def _entries(self, token: Token) -> list[str]:
        """The entries of an array's literal; of an associative one its values, and it is remembered by its keys."""
        pairs = [_PAIR.match(word) for word in token.words]
        if not token.words or not all(pairs):
            return [entry for word in token.words for entry in self.values.words(word)]
        known = self.values.maps.get(token.text, {}) if token.is_added else {}
        made = {self.values.text(pair[1]): self.values.text(pair[2]) for pair in pairs if pair is not None}
        self.values.maps[token.text] = {**known, **made}
        return list(made.values())

    def _call(self, function: Function, arguments: list[str]) -> None:
        self._called.add(function.name)
        if self._calls >= MOST_CALLS:
            return
        before, self.values.arguments = self.values.arguments, arguments
        self._calls += 1
        self.statements(function.body)
        self._calls -= 1
        self.values.arguments = before

    def _loop(self, loop: Loop) -> None:
        if loop.text is None and loop.condition:
            loop.text = self.values.written.get(self.values.text(loop.file)) if loop.file else None
            loop.text = loop.text or "\n".join(self.values.piped) or None
        names = re.search(r"\bread\b((?: -\w+)*(?: [A-Za-z_]\w*)+)", loop.condition)
        if loop.text is not None and names is not None:
            separator = re.search(r"IFS=(\S*)", loop.condition)
            for line in filter(str.strip, loop.text.splitlines()):
                self.values.scalars["IFS"] = self.values.text(separator[1]) if separator else " "
                read_into(names[1].split(), self.values.text(f'"{line}"'), self.values)
                self.statements(loop.body)
            return
        self.statements(loop.asked)
        words = [each for word in loop.words for each in self.values.words(word)]
        if not loop.name or not words:
            if not (loop.name and self._are_empty(loop.words)):
                self.statements(loop.body)
            return
        for word in words:
            if self.is_cut:
                return
            self.values.scalars[loop.name] = word
            self.statements(loop.body)
        self.values.scalars.pop(loop.name, None)

    def _are_empty(self, words: list[str]) -> bool:
        """Are *words* lists that are known to hold nothing, so that a loop over them does nothing?"""
        has_words = not self._is_uncalled and self._calls > 0
        return bool(words) and all(self.values.is_empty_list(word, has_words=has_words) for word in words)

    def _branches(self, branches: Branches) -> None:
        self.statements(branches.asked)
        begun, kept = self.values, self.found
        ways: list[tuple[str, list[Found], Values]] = []
        for condition, body in branches.branches:
            self.values, self.found = begun.copy(), []
            self.statements(body)
            ways.append((condition, self.found, self.values))
        if len(ways) > 1 and _THERE.search(ways[0][0]):
            ways = [*ways[1:], ways[0]]  # on a new instance nothing is there yet
            is_new = True
        else:
            is_new = False
        taken = next(
            (way for way in ways if any(each.kind in _BRINGING for each in way[1])), ways[0] if ways else None
        )
        self.values, self.found = begun, kept
        if taken is None:
            return
        self.found += taken[1]
        brought = {each.shown for each in taken[1]}
        for way in ways:
            left = (
                []
                if way is taken
                else [each for each in way[1] if each.kind in _BRINGING and each.shown not in brought]
            )
            if left and not is_new:
                shown = ", ".join(f"`{each.shown}`" for each in left[:20])
                which = f"`{way[0][:80]}`" if way[0] else "`else`"
                self.said.append(
                    f"line {branches.line}: of the branches of an `if` the one for `{taken[0][:80] or 'else'}` is taken; "
                    f"{which} would bring {shown}: put them in its place if you want them"
                )
        # what the others say besides stays: nothing may be lost in silence
        self.found += [each for way in ways if way is not taken for each in way[1] if each.kind == "open"]
        self.values = taken[2]


def read_into(words: list[str], text: str, values: Values) -> None:
    """What `read NAME …` does with *text*, by the separator that is set for it."""
    names = [word for word in words if word.isidentifier()]
    separator = values.scalars.pop("IFS", "").replace("\\n", "").strip() or None
    parts = text.strip().split(separator[0] if separator else None, max(len(names) - 1, 0))
    is_array = any(word.startswith("-") and "a" in word for word in words)
    if is_array and names:
        values.arrays[names[0]] = [
            part.strip() for part in text.strip().split(separator[0] if separator else None)
        ]
        return
    for number, name in enumerate(names):
        values.scalars[name] = parts[number].strip() if number < len(parts) else ""


_PAIR = re.compile(r"\[((?:\"[^\"]*\"|'[^']*'|[^\]])+)\]=(.*)", re.S)
_THERE = re.compile(r"^(?:\[\[?|test)\s+-[defs]\s")
"""A condition that asks whether a file or folder is there."""
_DECLARING = ("export", "local", "declare", "readonly", "typeset")
_BRINGING = ("download", "repo", "apt", "packages", "requirements", "file", "entry")
