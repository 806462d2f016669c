"""What pydantic finds, in our words and at the place in the YAML where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from .model import Document
from .notes import fields_of
from .tree import Mark, Node, Oddity, Problem, quoted
from .variables import suggestion

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping (`key: value`)",
    "model_type": "a mapping (`key: value`)",
    "tuple_type": "a list",
    "string_type": "a string",
    "int_type": "a whole number",
}


def problems_of(errors: Sequence[ErrorDetails], document: Node) -> list[Problem]:
    """The problems in *document* that pydantic found.

    Args:
        errors: What pydantic reported of its values.
        document: The tree, which knows lines and columns.
    """
    return [_problem(error, document) for error in errors if not _is_echo(error, document)]


def _is_echo(error: ErrorDetails, document: Node) -> bool:
    """A list that is too short only because its items are wrong, which is said of each."""
    return error["type"] == "too_short" and bool(_walk(document, error["loc"]).items())


def _problem(error: ErrorDetails, document: Node) -> Problem:
    kind, loc, context = error["type"], error["loc"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(_key_mark(document, loc), _unknown_key(loc))
    node = _walk(document, loc)
    if kind == "missing":
        start = ": a profile starts with `version: 1`" if loc == ("version",) else ""
        return Problem(node.mark, f"`{loc[-1]}` is missing{start}")
    if kind == "value_error":
        of_key = loc and loc[-1] == "[key]"
        return Problem(_key_mark(document, loc) if of_key else node.mark, str(context["error"]))
    return Problem(node.mark, _type_or_range(kind, context, _key_name(loc), node))


def _type_or_range(kind: str, context: Mapping[str, object], key: str, node: Node) -> str:
    if kind == "wrong_type" or kind in _EXPECTED:
        expected = str(context["expected"]) if kind == "wrong_type" else _EXPECTED[kind]
        return f"{key} must be {expected}, not {_described(node, expected)}"
    if kind == "literal_error":
        return _not_one_of(str(context["expected"]), key, node)
    if kind == "too_short":
        return f"{key} must not be empty"
    if kind == "greater_than_equal":
        return f"{key} must be at least {context['ge']}, not `{node.raw}`"
    return f"{key} is not valid ({kind})"


def _described(node: Node, expected: str) -> str:
    value = node.value
    if value is None:
        return "empty: give a value or remove it"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return f"the string `{_short(value)}`"
    meaning = _meaning(value)
    if expected.startswith("a string"):
        return f"`{node.raw}`, which YAML reads as {meaning}: quote it, as {quoted(node.raw)}"
    if isinstance(value, Oddity):
        return f"`{node.raw}`, which YAML reads as {meaning}"
    return f"`{node.raw}`"


def _meaning(value: object) -> str:
    if isinstance(value, Oddity):
        return value.meaning
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    return f"the number {value}"


def _not_one_of(expected: str, key: str, node: Node) -> str:
    words = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    choice = ", ".join(words[:-1]) + " or " + words[-1] if len(words) > 1 else words[0]
    if isinstance(node.value, str):
        return f"{key} must be {choice}, not `{_short(node.value)}`{suggestion(node.value, frozenset(words))}"
    return f"{key} must be {choice}, not {_described(node, 'a string')}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "…"


def _key_name(loc: tuple[int | str, ...]) -> str:
    parts = [part for part in loc if not str(part).startswith("[")]  # what pydantic adds for itself
    names = [part for part in parts if isinstance(part, str)]
    if not names:
        return "a profile"
    return f"an item of `{names[-1]}`" if isinstance(parts[-1], int) else f"`{names[-1]}`"


def _unknown_key(loc: tuple[int | str, ...]) -> str:
    known = frozenset(_known_keys(loc[:-1]))
    near = suggestion(str(loc[-1]), known)
    return f"unknown key `{loc[-1]}`{near or '; known here: ' + ', '.join(sorted(known))}"


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Document
    for part in loc:
        found = next((field.part for field in fields_of(model) if field.key == part), None)
        model = found or model
    return [field.key for field in fields_of(model)]


def _walk(node: Node, loc: tuple[int | str, ...]) -> Node:
    """The node at *loc*, or the nearest above it; parts that pydantic adds for itself lead nowhere."""
    for part in loc:
        if isinstance(part, int) and part < len(node.items()):
            node = node.items()[part]
        elif isinstance(part, str):
            node = node.get(part) or node
    return node


def _key_mark(document: Node, loc: tuple[int | str, ...]) -> Mark:
    node = _walk(document, loc)
    return node.key_mark or node.mark
