"""Whatever file people have: what it is, and who reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..errors import ProfileError, UsageError
from .converted import Converted
from .documents import check_size, mapping, read_document
from .manifest import from_manifest
from .manifest_parts import is_manifest
from .node_list import NodeList
from .shell import from_script
from .snapshot import from_cpack, from_snapshot

MOST_BYTES = 32 << 20
MOST_SCRIPT_BYTES = 2 << 20


def from_file(path: Path, *, node_list: Callable[[], NodeList | None] = lambda: None) -> Converted:
    """Make a profile of a provisioning manifest, a provisioning script, a snapshot of ComfyUI-Manager or a comfy-pack.

    Args:
        path: Of the file.
        node_list: Called when a snapshot has nodes of ComfyUI's registry whose repository is not known.

    Raises:
        UsageError: it cannot be read, or is none of these.
        ProfileError: it is a manifest that is no YAML, or beyond all bounds; with the place.
    """
    try:
        with path.open("rb") as file:
            head = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}", hint="give the path of a file") from None
    if head.startswith(b"PK"):
        return from_cpack(path)
    text = head.decode("utf-8-sig", "replace")
    if len(head) > MOST_BYTES or "\0" in text:
        raise _unknown(path)
    if path.suffix in (".sh", ".bash") or text.startswith("#!"):
        if len(head) > MOST_SCRIPT_BYTES:
            raise ProfileError([f"{path}:1:1: more than {MOST_SCRIPT_BYTES >> 20} MiB of a script"])
        return from_script(text, path.stem)
    try:
        data = mapping(read_document(text, str(path)))
    except ProfileError:
        if re.search(r"^version:", text, re.MULTILINE):
            raise
        raise _unknown(path) from None
    check_size(data, str(path))
    if {"git_custom_nodes", "cnr_custom_nodes"} & data.keys():
        return from_snapshot(data, path.stem, node_list=node_list)
    if str(data.get("version", 1)) == "1" and is_manifest(data):
        return from_manifest(data, path.stem)
    raise _unknown(path)


def _unknown(path: Path) -> UsageError:
    return UsageError(
        f"`{path}` is no manifest (YAML, `version: 1`), no script (`.sh`), no snapshot.json and no `.cpack.zip`",
        hint="a workflow is read by `provision profiles from-workflow`; a profile needs no import",
    )
