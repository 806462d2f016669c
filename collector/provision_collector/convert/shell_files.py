"""What single commands of a script do with files besides fetching them over the web: moved, unpacked, out of buckets, with Python."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Iterator

from .shell_options import last, left_open, left_out, parsed, place_of
from .shell_values import Values
from .shell_walk import Found
from .shell_words import Simple

MOST_PYTHON_CHARS = 1 << 18
_HUB = ("hf_hub_download", "snapshot_download")


def mv(words: list[str], command: Simple, values: Values) -> list[Found]:
    """`mv OLD NEW`: what came to OLD is wanted at NEW."""
    options, rest = parsed(words[1:], ("--target-directory", "--suffix"), "tS")
    folder = last(options, "-t", "--target-directory")
    if len(rest) != (1 if folder else 2):
        return []
    old, new = place_of(rest[0], values.folder), place_of(f"{folder}/" if folder else rest[1], values.folder)
    if rest[-1] in (".", "./"):
        new = place_of("./", values.folder)
    return [Found("move", {"path": old, "to": new}, command.line)] if old and new else []


def unzip(words: list[str], command: Simple, values: Values) -> list[Found]:
    """`unzip FILE -d FOLDER`."""
    options, rest = parsed(words[1:], (), "dxP")
    return _unpacked(rest[0], last(options, "-d"), command, values) if rest else []


def tar(words: list[str], command: Simple, values: Values) -> list[Found]:
    """`tar -xf FILE -C FOLDER`."""
    if words[1:] and re.fullmatch(r"[a-zA-Z]*x[a-zA-Z]*", words[1]):
        words = [words[0], f"-{words[1]}", *words[2:]]
    options, rest = parsed(words[1:], ("--file", "--directory", "--strip-components"), "fC")
    file = last(options, "-f", "--file")
    is_unpacked = "-x" in options or "--extract" in options
    if not is_unpacked or not file or "--strip-components" in options or rest:
        return []
    return _unpacked(file, last(options, "-C", "--directory"), command, values)


def _unpacked(file: str, folder: str | None, command: Simple, values: Values) -> list[Found]:
    archive, to = place_of(file, values.folder), place_of(f"{folder or '.'}/", values.folder)
    return [Found("unpack", {"path": archive, "to": to}, command.line)] if archive and to else []


def bucket(words: list[str], command: Simple, values: Values) -> list[Found]:
    """`aws s3 cp s3://… PATH`, and the same of `gsutil` and `gcloud storage`."""
    _, rest = parsed(words[1:], ("--endpoint-url", "--region", "--profile", "--exclude", "--include"), "o")
    rest = [word for word in rest if word not in ("s3", "storage", "cp", "sync", "rsync", "mv")]
    if len(rest) != 2 or not re.match(r"(s3|gs)://[^$]+$", rest[0]):
        return [
            left_open(f"`{' '.join(words)[:160]}`: add what it brings under `downloads:`", command)
            for word in rest[:-1]
            if "://" in word
        ]
    url, where = rest[0], place_of(rest[1], values.folder)
    if where is None:
        return [left_out(f"`{url}`", rest[1], command)]
    is_prefix = "sync" in words or "rsync" in words or "--recursive" in words or url.endswith("/")
    if is_prefix:
        return [
            Found("download", {"url": f"{url.rstrip('/')}/", "path": f"{where.rstrip('/')}/"}, command.line)
        ]
    path = f"{where}{posixpath.basename(url)}" if where.endswith("/") else where
    return [Found("download", {"url": url, "path": path}, command.line)]


def gdown(words: list[str], command: Simple, values: Values) -> list[Found]:
    """`gdown ID|URL -O PATH` of Google Drive."""
    options, rest = parsed(words[1:], ("--id", "--output", "--proxy", "--format"), "O")
    wanted = last(options, "--id") or (rest[0] if rest else "")
    is_folder = "--folder" in options or "/folders/" in wanted
    if not wanted or "$" in wanted or is_folder:
        return [left_open(f"`{' '.join(words)[:160]}`: add its files under `downloads:`", command)]
    url = wanted if "://" in wanted else f"https://drive.google.com/uc?id={wanted}"
    where = place_of(last(options, "-O", "--output") or "./", values.folder)
    if where is None:
        return [left_open(f"`{url}` goes to a place that is not known: add it under `downloads:`", command)]
    return [Found("download", {"url": url, "path": where}, command.line)]


def python(
    words: list[str], command: Simple, values: Values, hub: Callable[[list[str], Simple, Values], list[Found]]
) -> list[Found]:
    """Downloads of the model hub in a program that stands in the script: `python -c …` or a here-document. It is read, never run.

    Args:
        hub: Reads a command of the hub's program.
    """
    at = words.index("-c") + 1 if "-c" in words else len(words)
    program = words[at] if at < len(words) else command.text or ""
    if "huggingface_hub" not in program or len(program) > MOST_PYTHON_CHARS:
        return []
    try:
        tree = ast.parse(values.text('"' + program.replace("\\", "\\\\").replace('"', '\\"') + '"'))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [
            left_open(
                "a program in Python asks the model hub: add what it brings under `downloads:`", command
            )
        ]
    found: list[Found] = []
    for call in _calls(tree):
        said = {key.arg: _texts(key.value) for key in call.keywords if key.arg}
        names = ("repo_id", "filename") if _name_of(call) == "hf_hub_download" else ("repo_id",)
        said.update(zip(names, map(_texts, call.args), strict=False))
        line: list[str] = ["hf", "download", *said.get("repo_id", ["$"]), *said.get("filename", [])]
        for key, option in (
            ("local_dir", "--local-dir"),
            ("revision", "--revision"),
            ("repo_type", "--repo-type"),
        ):
            line += [word for text in said.get(key, []) for word in (option, text)]
        for key, option in (("allow_patterns", "--include"), ("ignore_patterns", "--exclude")):
            line += [word for text in said.get(key, []) for word in (option, text)]
        found += hub(line, command, values)
    return found


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name_of(node) in _HUB:
            yield node


def _name_of(call: ast.Call) -> str:
    function = call.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _texts(value: ast.expr) -> list[str]:
    """The texts that *value* is written as; `$` for what only the program knows."""
    if isinstance(value, ast.Constant):
        return [value.value] if isinstance(value.value, str) else []
    if isinstance(value, (ast.List, ast.Tuple)):
        return [text for each in value.elts for text in _texts(each)]
    return ["$"]
