"""Lists that one command of a script hands to the next: through a pipe or a file, to `xargs` or `parallel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .shell_options import parsed
from .shell_values import Values
from .shell_walk import Found
from .shell_words import Simple

FILTERS = frozenset(("sort", "uniq", "grep", "tr", "sed", "awk", "cut", "tee", "head", "shuf"))
"""What lets lines pass; which of them is not looked at."""
MOST_LINES = 2000


def said(name: str, words: list[str], command: Simple, values: Values) -> list[Found]:
    """What `echo` or `printf` says: into a pipe or a file, or to people."""
    words = [word for word in words if not (word.startswith("-") and len(word) == 2)]
    if name == "printf" and words:
        words = words[1:] if "%" in words[0] else words
    lines = words if name == "printf" else [" ".join(words)]
    if command.is_piped:
        values.piped = [line for text in lines for line in text.splitlines()][:MOST_LINES]
    elif command.into:
        values.write(values.text(command.into), "".join(f"{line}\n" for line in lines))
    return []


def for_each(words: list[str], lines: Sequence[str], does: Callable[[list[str]], list[Found]]) -> list[Found]:
    """`xargs COMMAND` and `parallel COMMAND ::: WORDS`: the command once for each line or word."""
    if ":::" in words:
        at = words.index(":::")
        words, lines = words[:at], words[at + 1 :]
    takes = "nPIdLasE" if words[0] == "xargs" else "jIadn"
    end = 1
    while end < len(words) and words[end].startswith("-"):
        end += 2 if len(words[end]) == 2 and words[end][1] in takes else 1
    options, _ = parsed(words[1:end], (), takes)
    mark = options.get("-I", ["{}"])[0] or "{}"
    found: list[Found] = []
    for line in filter(None, map(str.strip, lines[:MOST_LINES])):
        has_mark = any(mark in word for word in words[end:])
        each = (
            [word.replace(mark, line) for word in words[end:]] if has_mark else [*words[end:], *line.split()]
        )
        if each[:1] in (["bash"], ["sh"]):
            continue
        found += does(each)
    return found
