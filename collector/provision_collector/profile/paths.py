"""Where a profile may write: below the workspace, and not over what provision keeps there for itself.

Paths are as on the instance (POSIX); a leading `${workspace}/` says the same as none.
"""

from __future__ import annotations

import posixpath
import re

WORKSPACE = "${workspace}"
DEFAULT_WORKSPACE = "/workspace"
OWN_NAMES = (".provision", "provision_core.log", "provision_errors.log")
"""What provision keeps in the workspace for itself."""


def comparable(path: str) -> str:
    """*path* without what makes no difference (``./``, ``//``, ``${workspace}/``); a trailing ``/`` stays."""
    rest = "." if path == WORKSPACE else path.removeprefix(WORKSPACE + "/")
    parts = [part for part in rest.split("/") if part not in ("", ".")]
    short = ("/" if path.startswith("/") else "") + "/".join(parts)
    return (short + "/" if parts and rest.endswith("/") else short) or "."


def inside_workspace(path: str) -> str:
    """Check a path below the workspace.

    Returns:
        The path in its shortest form, relative to the workspace.

    Raises:
        ValueError: it is empty, absolute, leaves the workspace, or is provision's own.
    """
    _readable(path)
    short = comparable(path)
    if short.startswith(("/", "~", "${home}", WORKSPACE)):
        raise ValueError(
            f"`{path}` is not below the workspace: paths are relative to it, write `{_relative(short)}`"
        )
    if ".." in short.split("/"):
        raise ValueError(f"`{path}` may not leave the workspace: write it without `..`")
    if short.split("/")[0] in OWN_NAMES:
        raise ValueError(f"`{short.split('/')[0]}` is provision's own: choose another name")
    return short


def _relative(path: str) -> str:
    """What an absolute *path* below a workspace may be, relative to it."""
    if not path.startswith("/"):
        return "ComfyUI/models/x"
    is_default = path.startswith(f"{DEFAULT_WORKSPACE}/")
    parts = path.strip("/").split("/")
    return (
        "/".join(parts[1:] if is_default else parts[-2:] if len(parts) > 2 else parts[-1:])
        or "ComfyUI/models/x"
    )


def item_path(path: str) -> str:
    """As `inside_workspace`, for something that is written: the workspace itself is no name for it."""
    short = inside_workspace(path)
    if short == ".":
        raise ValueError(f"`{path}` is the workspace itself: name something in it")
    return short


def folder_path(path: str) -> str:
    """As `item_path`, for one folder: a trailing ``/`` makes no difference."""
    return item_path(path).rstrip("/")


def file_path(path: str) -> str:
    """As `item_path`, for one file: no trailing ``/``."""
    short = item_path(path)
    if short.endswith("/"):
        raise ValueError(f"`{path}` names a folder: give the file a name")
    return short


def any_path(path: str) -> str:
    """Check a path that is only looked at: below the workspace, or absolute, or ``${home}/…``."""
    if not path.startswith(("/", "${home}/")):
        return inside_workspace(path)
    _readable(path)
    if ".." in path.split("/"):
        raise ValueError(f"`{path}`: write it without `..`")
    return path


def venv_path(path: str) -> str:
    """As `any_path`; ``~/…`` too."""
    return path if re.fullmatch(r"~/[^\\]+", path) and ".." not in path else any_path(path)


def workspace_path(path: str) -> str:
    """Check a workspace: absolute, or in the home folder (``~/…``).

    Raises:
        ValueError: anything else; a relative workspace would depend on how one logs in.
    """
    _readable(path)
    if not re.fullmatch(r"(/|~/)[^$]*", path) or ".." in path.split("/") or posixpath.normpath(path) == "/":
        raise ValueError(
            f"the workspace `{path}` must be an absolute path or `~/…`, without `..` and variables"
        )
    return posixpath.normpath(path)


def _readable(path: str) -> None:
    if not path.strip():
        raise ValueError("a path must not be empty")
    if "\\" in path:
        raise ValueError(f"`{path}`: instances are Linux: write `/`, not `\\`")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise ValueError("a path must not hold control characters")
