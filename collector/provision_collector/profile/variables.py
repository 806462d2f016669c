"""`${name}` in a profile: the user's variables are filled in here, the instance's stay for the agent.

What comes out is text in the agent's own template language: `${workspace}`, `${home}` and `${run_id}` are
places to fill, `$${` is a literal `${`. A value from the command line is plain text and never expands.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from provision_agent.contract.plan_json import BUILT_IN_VARIABLES

from .model import Document
from .notes import AS_WRITTEN, fields_of
from .tree import MAX_BYTES, Mark, Node, Problem

MAX_KNOWN = 500
MAX_WORD = 200
PUBLIC = "public"
"""The one key in which ``${host}`` means something."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_AS_WRITTEN = frozenset(field.key for field in fields_of(Document) if field.has(AS_WRITTEN))


class Hole(NamedTuple):
    """A place in a text that a variable fills."""

    name: str


Pieces = list[str | Hole]

MAX_PIECES = 1000
"""Variables in variables in variables may not blow up a text."""

_BROKEN = Node("", Mark("", 1, 1))


class TemplateError(ValueError):
    """A text that the template language cannot mean."""


def split(text: str) -> Pieces:
    """Cut *text* into literal strings (``$${`` undone) and holes.

    Raises:
        TemplateError: a ``${`` that is never closed.
    """
    pieces: Pieces = []
    rest = text
    while "${" in rest:
        before, _, after = rest.partition("${")
        if before.endswith("$"):
            pieces.append(before[:-1] + "${")
            rest = after
            continue
        name, closed, rest = after.partition("}")
        if not closed:
            raise TemplateError("`${` is never closed by `}`; write `$${` for a literal `${`")
        pieces += [before, Hole(name.strip())]
    return [*pieces, rest]


def join(pieces: Pieces) -> str:
    """The text that the agent reads back as *pieces*: literals escaped, holes as ``${name}``.

    Raises:
        TemplateError: a literal ``$`` directly before a hole, which the agent's language cannot say.
    """
    out, literal = [], ""
    for piece in [*pieces, Hole("")]:
        if isinstance(piece, str):
            literal += piece
            continue
        if piece.name and literal.endswith("$"):
            raise TemplateError(f"a value that ends with `$` cannot stand before `${{{piece.name}}}`")
        out.append(literal.replace("${", "$${"))
        out.append(f"${{{piece.name}}}" if piece.name else "")
        literal = ""
    return "".join(out)


class _UnknownVariable(TemplateError):
    """A name that a missing file may declare."""


@dataclass
class Variables:
    """The user's variables of one profile, and what is wrong with their use."""

    declared: Mapping[str, Node]
    overrides: Mapping[str, str]
    secrets: frozenset[str]
    problems: list[Problem]
    may_have_more: bool = False
    """A file of the profile is missing, which may declare others: an unknown name is no mistake then."""
    used: set[str] = field(default_factory=set)
    unfilled: set[Mark] = field(default_factory=set)
    """Where an unknown name stands, as long as there may be more."""
    _broken: set[str] = field(default_factory=set)

    def expand(self, document: Node) -> Node:
        """*document* with the user's variables filled in, but for the keys that are taken as they are written."""
        if not isinstance(document.value, dict):
            return document
        values = {
            key: node if key in _AS_WRITTEN else self._expand_node(node)
            for key, node in document.value.items()
        }
        return replace(document, value=values)

    def check_overrides(self, mark: Mark) -> None:
        """Complain at *mark* about ``--set`` names that nothing declares or uses."""
        known = set(self.declared) | self.used
        for name in self.overrides:
            if not NAME.fullmatch(name):
                self.problems.append(Problem(mark, f"`--set {name}`: a variable is letters, digits and `_`"))
            elif name not in known and not self.may_have_more:
                message = f"`--set {name}`: this profile has no such variable{suggestion(name, known)}"
                self.problems.append(Problem(mark, message))

    def check_declared(self) -> None:
        """Complain about names that cannot be variables, and about values that cannot be filled in."""
        for name, node in self.declared.items():
            if not NAME.fullmatch(name):
                message = f"`{name}` cannot name a variable: letters, digits and `_` only"
                self.problems.append(Problem(node.key_mark or node.mark, message))
            elif name in BUILT_IN_VARIABLES:
                self.problems.append(
                    Problem(node.key_mark or node.mark, f"`{name}` is built in; choose another name")
                )
            elif isinstance(node.value, str) and self._expand_node(node, using=(name,)) is _BROKEN:
                self._broken.add(name)

    def _expand_node(self, node: Node, using: tuple[str, ...] = ()) -> Node:
        if isinstance(node.value, dict):
            values = {key: self._expand_node(_by_host(key, item)) for key, item in node.value.items()}
            return replace(node, value=values)
        if isinstance(node.value, list):
            return replace(node, value=[self._expand_node(item) for item in node.value])
        if not isinstance(node.value, str) or "${" not in node.value:
            return node
        try:
            return replace(node, value=join(self._fill(node.value, using)))
        except _UnknownVariable:
            self.unfilled.add(node.mark)
        except TemplateError as error:
            self.problems.append(Problem(node.mark, str(error)))
        return _BROKEN if using else node

    def _fill(self, text: str, using: tuple[str, ...]) -> Pieces:
        pieces: Pieces = []
        for piece in split(text):
            pieces += [piece] if isinstance(piece, str) else self._value(piece, using)
            if len(pieces) > MAX_PIECES or sum(len(piece) for piece in pieces) > MAX_BYTES:
                raise TemplateError("grows beyond all measure when its variables are filled in")
        return pieces

    def _value(self, hole: Hole, using: tuple[str, ...]) -> Pieces:
        name = hole.name
        self.used.add(name)
        if name in BUILT_IN_VARIABLES:
            return [hole]
        if name in self.overrides:
            return [self.overrides[name]]
        if name in using:
            raise TemplateError(
                "variables that use each other: " + " -> ".join(f"`{n}`" for n in (*using, name))
            )
        if name in self._broken and self.may_have_more:
            raise _UnknownVariable(name)
        if name in self._broken:
            return []  # said where the variable is declared
        if name in self.declared:
            node = self.declared[name]
            return self._fill(node.value if isinstance(node.value, str) else node.raw, (*using, name))
        raise (_UnknownVariable if self.may_have_more else TemplateError)(self._unknown(name))

    def _unknown(self, name: str) -> str:
        if name in self.secrets:
            return f"`{name}` is a secret and never part of a text; a command gets it by `secrets: [{name}]`"
        known = {*self.declared, *BUILT_IN_VARIABLES}
        near = suggestion(name, known)
        return f"unknown variable `{name}`{near or '; declare it under `variables`, or write `$${` for a literal `${`'}"


def _by_host(key: str, node: Node) -> Node:
    """`public` of a service names the host of its instance, which only whoever watches knows: the plan has ``{host}``."""
    if key != PUBLIC or not isinstance(node.value, str):
        return node
    return replace(node, value=node.value.replace("${host}", "{host}"))


def suggestion(word: str, known: set[str] | frozenset[str]) -> str:
    """The end of a message about *word*: ``; did you mean `x`?``, or nothing when no known word is near.

    Args:
        word: What was written.
        known: What may be written; too much of it has no near word.
    """
    if len(known) > MAX_KNOWN or len(word) > MAX_WORD:
        return ""  # it would take longer than anybody waits for advice
    by_case = {name.lower(): name for name in sorted(known)}
    near = difflib.get_close_matches(word.lower(), by_case, n=1)
    return f"; did you mean `{by_case[near[0]]}`?" if near else ""
