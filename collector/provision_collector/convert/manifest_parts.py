"""What the parts of a manifest are called, and its commands as words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from .documents import mapping

_PARTS = frozenset((
    "settings", "auth", "apt_packages", "pip_packages", "conda_packages", "git_repos", "conditional_downloads", "env_merge", "extensions",
    "write_files", "write_files_late", "post_commands",
))  # fmt: skip
_SHARED = frozenset(("version", "services", "downloads", "on_failure"))
"""Parts that profiles have as well."""
_SHELL = re.compile(r"[|&;<>()$`\\*?\[\]#~%]|=")


def is_manifest(data: Mapping[str, object]) -> bool:
    """Does *data* have parts that only manifests have? Those of a profile have other names, or `path` in place of `dest`."""
    if {"nodes", "repos"} & data.keys():
        return False
    downloads = [mapping(each) for each in listed(data.get("downloads"))]
    if _PARTS & data.keys() or any("dest" in each for each in downloads):
        return True
    return "version" in data and not downloads and data.keys() <= _SHARED


def listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value] if value else []


def argv(command: str, before: Sequence[object] = ()) -> list[str]:
    """A plain command as its words; one that needs a shell, or others *before* it, with a shell."""
    if before:
        return ["bash", "-c", "\n".join(("set -e", *map(str, before), f"exec {command}"))]
    if _SHELL.search(command):
        return ["bash", "-c", command]
    try:
        return shlex.split(command)
    except ValueError:
        return ["bash", "-c", command]
