"""YAML text as a tree of plain values, each with the line and column where it stands.

The tree means the same to every YAML reader: scalars that YAML 1.1 and 1.2 read differently (`0644`, `1:30`,
`1_000`) become an `Oddity`, which no field of a profile accepts. Reading is bounded: a file of at most
1 MiB, nested at most 50 deep, at most 50 000 values after 10 000 aliases are followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_VALUES = 50_000
MAX_ALIASES = 10_000

_TAG = "tag:yaml.org,2002:"
_PLAIN_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


class Mark(NamedTuple):
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int


class Problem(NamedTuple):
    """Something wrong with a profile, and where."""

    mark: Mark
    message: str

    def __str__(self) -> str:
        return f"{self.mark.file}:{self.mark.line}:{self.mark.column}: {self.message}"


@dataclass(frozen=True)
class Oddity:
    """An unquoted scalar that readers of YAML disagree about; `meaning` is what YAML 1.1 takes it for."""

    meaning: str


Scalar: TypeAlias = str | int | float | bool | Oddity | None
Value: TypeAlias = "Scalar | list[Node] | dict[str, Node]"


@dataclass(frozen=True)
class Node:
    """One value, and where it stands."""

    value: Value
    mark: Mark
    raw: str = ""
    """A scalar as it is written."""
    key_mark: Mark | None = None
    """Where the key of this value stands, if it is in a mapping."""

    def data(self) -> object:
        """The plain values, without marks."""
        if isinstance(self.value, dict):
            return {key: node.data() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.data() for node in self.value]
        return self.value

    def get(self, key: str) -> Node | None:
        """The value under *key*; None if this is no mapping or has no such key."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def items(self) -> list[Node]:
        """The items of a list; empty for anything else."""
        return list(self.value) if isinstance(self.value, list) else []

    def entries(self) -> list[Node]:
        """The values of a mapping; empty for anything else."""
        return list(self.value.values()) if isinstance(self.value, dict) else []

    def text(self, key: str) -> str | None:
        """The string under *key*, or None."""
        node = self.get(key)
        return node.value if node is not None and isinstance(node.value, str) else None

    def section(self, key: str) -> list[Node]:
        """The items of the list under *key*."""
        node = self.get(key)
        return node.items() if node is not None else []

    def mark_of(self, key: str) -> Mark:
        """Where the value under *key* stands, or else this mapping."""
        node = self.get(key)
        return node.mark if node is not None else self.mark


def read_tree(text: str, file: str, problems: list[Problem]) -> Node | None:
    """Parse *text*.

    Args:
        text: The content of a profile.
        file: Its name, for the marks.
        problems: Takes what is wrong.

    Returns:
        The document, or None if *problems* got something that leaves no tree.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "replace")) > MAX_BYTES:
        problems.append(Problem(Mark(file, 1, 1), f"more than {MAX_BYTES >> 20} MiB: this is no profile"))
        return None
    try:
        root = _composed(text, file)
        if root is None:
            raise _Unreadable(Mark(file, 1, 1), "the file is empty; a profile starts with `version: 1`")
        return _Builder(file, problems).node(root)
    except yaml.MarkedYAMLError as error:
        problems.append(_syntax_problem(error, file))
    except yaml.reader.ReaderError as error:
        problems.append(_character_problem(error, text, file))
    except RecursionError:
        problems.append(Problem(Mark(file, 1, 1), f"nested deeper than {MAX_DEPTH} levels"))
    except _Unreadable as error:
        problems.append(Problem(error.mark, error.message))
    return None


def quoted(value: str) -> str:
    """*value* in double quotes, as it can be written in YAML."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Unreadable(Exception):
    """No tree can be had from this file."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark
        self.message = message


def _composed(text: str, file: str) -> yaml.Node | None:
    loader = _Loader(text, file)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """PyYAML's, which stops where a text has more than a profile may have: whatever follows costs nothing."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self._file = file
        self._nodes_left = 2 * MAX_VALUES  # keys are nodes, too
        self._aliases_left = MAX_ALIASES
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node, and what is in it."""
        self._nodes_left -= 1
        self._aliases_left -= bool(self.check_event(yaml.AliasEvent))
        self._depth += 1
        if self._nodes_left < 0:
            raise self._too(f"more than {MAX_VALUES} values once the aliases are followed")
        if self._aliases_left < 0:
            raise self._too(f"more than {MAX_ALIASES} aliases")
        if self._depth > MAX_DEPTH + 2:  # the document itself, and a scalar in the deepest list
            raise self._too(f"nested deeper than {MAX_DEPTH} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _too(self, message: str) -> _Unreadable:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return _Unreadable(Mark(self._file, mark.line + 1, mark.column + 1), message)


class _Builder:
    """Turns PyYAML's node graph into a tree; counts, so that aliases cannot blow it up."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self._file = file
        self._problems = problems
        self._values_left = MAX_VALUES

    def node(self, node: yaml.Node, *, depth: int = 0, key_mark: Mark | None = None) -> Node:
        mark = self._mark(node)
        self._values_left -= 1
        if self._values_left < 0:
            raise _Unreadable(mark, f"more than {MAX_VALUES} values once the aliases are followed")
        if depth > MAX_DEPTH:
            raise _Unreadable(
                mark, f"nested deeper than {MAX_DEPTH} levels, or an alias that contains itself"
            )
        if node.tag not in _TAGS[type(node)]:
            self._say(node, f"the tag `{node.tag}` means nothing in a profile; remove it")
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, depth), mark, key_mark=key_mark)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.node(item, depth=depth + 1) for item in node.value], mark, key_mark=key_mark)
        return Node(_scalar(node.tag.removeprefix(_TAG), node.value), mark, raw=node.value, key_mark=key_mark)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged.update(self._merged(value_node, depth))
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._say(key_node, "a key must be a plain word; quote a value that starts with `{` or `[`")
                continue
            key, mark = key_node.value, self._mark(key_node)
            if key in own:
                first = own[key].key_mark
                assert first is not None
                self._say(key_node, f"`{key}` is given twice; first on line {first.line}")
                continue
            own[key] = self.node(value_node, depth=depth + 1, key_mark=mark)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, depth: int) -> dict[str, Node]:
        """What `<<:` brings in; of a list of mappings, the earlier ones win."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Node] = {}
        for source in reversed(sources):
            if not isinstance(source, yaml.MappingNode):
                self._say(source, "`<<` takes a mapping or a list of mappings")
                continue
            brought = self.node(source, depth=depth + 1).value
            assert isinstance(brought, dict)
            merged.update(brought)
        return merged

    def _say(self, node: yaml.Node, message: str) -> None:
        self._problems.append(Problem(self._mark(node), message))

    def _mark(self, node: yaml.Node) -> Mark:
        return Mark(self._file, node.start_mark.line + 1, node.start_mark.column + 1)


_TAGS = {
    yaml.MappingNode: (_TAG + "map",),
    yaml.SequenceNode: (_TAG + "seq",),
    yaml.ScalarNode: tuple(
        _TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "value")
    ),
}


def _scalar(kind: str, raw: str) -> Scalar:
    if kind == "null":
        return None
    if kind == "bool":
        return _BOOLEANS.get(raw.lower(), Oddity("a boolean"))
    if kind == "int":
        return int(raw) if _PLAIN_INT.fullmatch(raw) else Oddity(_odd_number(raw))
    if kind == "float":
        return _float(raw)
    return raw


def _float(raw: str) -> Scalar:
    if ":" in raw or "_" in raw:
        return Oddity(_odd_number(raw))
    try:
        return float(raw.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return Oddity("a number")


def _odd_number(raw: str) -> str:
    digits = raw.lstrip("+-")
    if ":" in digits:
        return "a number in base 60"
    if re.fullmatch(r"0[0-7_]+", digits):
        return "an octal number"
    return "a number"


_SYNTAX = (
    (r"'\\t' that cannot start", "a tab cannot indent YAML: use spaces"),
    (r"'(.)' that cannot start", "a value cannot start with `{0}`: quote it"),
    (
        "mapping values are not allowed",
        "a `:` stands where none can: quote the text, or mend the indentation",
    ),
    ("but found another document", "a second document starts here (`---`); a profile is one document"),
    ("expected <block end>", "the indentation does not fit the lines above"),
    (r"undefined alias '(.+)'", "`*{0}` has no `&{0}` above it"),
)
"""PyYAML's words, and ours for the slips that people make."""


def _syntax_problem(error: yaml.MarkedYAMLError, file: str) -> Problem:
    words = error.problem or error.context or "not YAML"
    place = error.problem_mark or error.context_mark
    if "end of stream" in words or "<stream end>" in words:
        place = error.context_mark or place
        message = "what opens here is never closed"
    else:
        message = _in_our_words(words)
    return Problem(Mark(file, place.line + 1, place.column + 1) if place else Mark(file, 1, 1), message)


def _character_problem(error: yaml.reader.ReaderError, text: str, file: str) -> Problem:
    before = text[: error.position]
    mark = Mark(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
    return Problem(
        mark, f"the character U+{int(error.character):04X} cannot stand in YAML: is this a text file?"
    )


def _in_our_words(words: str) -> str:
    for pattern, message in _SYNTAX:
        found = re.search(pattern, words)
        if found:
            return message.format(*found.groups())
    return f"not YAML: {words}"


def problem_lines(problems: list[Problem], first_file: str) -> list[str]:
    """Every problem once, in the order of the text, those of *first_file* first."""
    unique: Iterator[Problem] = iter(dict.fromkeys(problems))
    return [str(problem) for problem in sorted(unique, key=lambda p: (p.mark.file != first_file, p))]
