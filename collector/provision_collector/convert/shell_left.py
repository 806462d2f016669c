"""Commands of a script that bring nothing to a profile: those that nobody misses, and those that are named."""

from __future__ import annotations

from .shell_walk import Found
from .shell_words import Simple

LOOKING = frozenset((
    "[", "[[", ":", ".", "alias", "awk", "basename", "break", "cat", "clear", "continue", "cut", "date", "declare", "df", "dirname",
    "du", "else", "done", "esac", "exit", "export", "false", "fi", "find", "free", "getopts", "grep", "hash", "head", "help",
    "hostname", "id", "in", "jobs", "let", "local", "ls", "mapfile", "mkdir", "nvidia-smi", "nproc", "popd", "ps", "pushd", "pwd",
    "cd", "read", "readarray", "readlink", "readonly", "realpath", "return", "select", "seq", "set", "shopt", "sleep", "sort",
    "source", "stat", "tail", "tee", "test", "touch", "tput", "tr", "trap", "true", "type", "typeset", "ulimit", "umask", "uname",
    "uniq", "unset", "wait", "wc", "which", "whoami", "{", "}", "apt-mark",
))  # fmt: skip
"""They only look, wait, say, or set up the shell itself."""


def left(words: list[str], command: Simple) -> list[Found]:
    """A command that is no item, and does something: the profile goes without it."""
    return [Found("left", {"text": " ".join(words)}, command.line)]
