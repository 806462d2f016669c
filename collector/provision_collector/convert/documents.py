"""Documents that others wrote (JSON, YAML), as plain values within bounds; and their parts, whatever shape they have.

A reader below asks for a mapping, a list or a text and gets an empty one where something else stands: no document can
break a conversion. What it could not use it names itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..errors import ProfileError
from ..profile.tree import MAX_BYTES, MAX_DEPTH, MAX_VALUES, Node, Oddity, Problem, problem_lines, read_tree

Item = dict[str, object]
"""A mapping of a profile in the making."""


def read_json(text: str | bytes) -> object:
    """The JSON value in *text*; NaN is taken, for ComfyUI writes it.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        value: object = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    return value


def read_document(text: str, file: str) -> object:
    """The value in *text*: JSON, or else YAML, which is bounded as a profile is.

    Args:
        text: The content of a file.
        file: Its name, for messages.

    Returns:
        Plain values; what readers of YAML disagree about (``0644``, ``1:30``) as the text that stands there.

    Raises:
        ProfileError: every reason why it is neither, with its place.
    """
    try:
        return read_json(text)
    except ValueError:
        pass
    if len(text) > MAX_BYTES:
        raise ProfileError([f"{file}:1:1: more than {MAX_BYTES >> 20} MiB of YAML"])
    problems: list[Problem] = []
    tree = read_tree(text, file, problems)
    if tree is None or problems:
        raise ProfileError(problem_lines(problems, file))
    return _plain(tree)


def check_size(value: object, file: str) -> None:
    """Refuse a document that is too large or too deep to be walked.

    Raises:
        ProfileError: it is.
    """
    level, seen = [value], 0
    for _ in range(2 * MAX_DEPTH):
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else items(each))
        ]
        seen += len(level)
        if not level:
            return
        if seen > 20 * MAX_VALUES:
            raise ProfileError([f"{file}:1:1: more than {20 * MAX_VALUES} values"])
    raise ProfileError([f"{file}:1:1: nested deeper than {2 * MAX_DEPTH} levels"])


def mapping(value: object) -> Mapping[str, object]:
    """*value* if it is a mapping."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[object]:
    """*value* if it is a list."""
    return value if isinstance(value, list) else []


def mappings(value: object) -> list[Mapping[str, object]]:
    """The mappings in the list *value*."""
    return [item for item in items(value) if isinstance(item, dict)]


def text(value: object) -> str:
    """*value* as text; nothing for what is no scalar, and for null and false."""
    return str(value) if isinstance(value, (str, int, float)) and value is not False else ""


def _plain(node: Node) -> object:
    if isinstance(node.value, dict):
        return {key: _plain(inner) for key, inner in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(inner) for inner in node.value]
    return node.raw if isinstance(node.value, Oddity) else node.value
