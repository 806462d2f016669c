"""Checkouts that a script makes with git."""

from __future__ import annotations

import posixpath

from .converted import COMFYUI, hub_repository, repo_path
from .documents import Item
from .shell_options import joined, last, left_open, left_out, parsed, place_of
from .shell_values import Values
from .shell_walk import Found
from .shell_words import Simple

_CLONE_LONG = (
    "--branch",
    "--depth",
    "--revision",
    "--jobs",
    "--filter",
    "--reference",
    "--config",
    "--origin",
    "--shallow-since",
    "--separate-git-dir",
)


def git(words: list[str], command: Simple, values: Values) -> list[Found]:
    """`git clone`, and what later puts a checkout to a commit or fetches its submodules."""
    rest, folder = words[1:], values.folder
    while len(rest) > 1 and rest[0] in ("-C", "-c"):
        if rest[0] == "-C":
            folder = joined(folder, rest[1])
        rest = rest[2:]
    if rest[:1] == ["clone"]:
        return [_clone(rest[1:], command, folder)]
    here = place_of(".", folder)
    if here is None or not rest:
        return []
    here = here.rstrip("/")
    if rest[0] in ("checkout", "switch", "reset"):
        refs = [word for word in rest[1:] if not word.startswith("-") and word not in (".", "HEAD")]
        if refs and "$" not in refs[-1] and not refs[-1].startswith("origin/HEAD"):
            ref = refs[-1].removeprefix("origin/").removeprefix("tags/")
            return [Found("ref", {"path": here, "ref": ref}, command.line)]
    if rest[:2] == ["submodule", "update"]:
        return [Found("ref", {"path": here, "submodules": True}, command.line)]
    return []


def _clone(words: list[str], command: Simple, folder: str | None) -> Found:
    options, rest = parsed(words, _CLONE_LONG, "bcjuo")
    if not rest or "$" in rest[0]:
        return left_open(
            f"`git clone {' '.join(words)[:120]}` names no repository that can be told without running the script",
            command,
        )
    url = rest[0]
    base = posixpath.basename(url.rstrip("/")).removesuffix(".git")
    target = rest[1] if len(rest) > 1 else base
    if folder is None and len(rest) == 1:
        is_node = "comfyui" in base.lower() and base.lower() != "comfyui"
        path: str | None = COMFYUI if base.lower() == "comfyui" else repo_path(url) if is_node else base
    else:
        path = place_of(target, folder)
    if path is None:
        return left_out(f"the clone of {url}", target, command, "repos")
    repository = hub_repository(url)
    if repository is not None:  # a checkout would hold pointers in place of the models
        return Found("download", {"url": repository, "path": f"{path.rstrip('/')}/"}, command.line)
    item: Item = {"url": url, "path": path.rstrip("/")}
    ref = last(options, "-b", "--branch", "--revision")
    if ref and "$" not in ref:
        item["ref"] = ref
    if "--recursive" in options or any(name.startswith("--recurse-submodules") for name in options):
        item["submodules"] = True
    return Found("repo", item, command.line)
