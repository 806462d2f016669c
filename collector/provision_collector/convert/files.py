"""Whatever file people have: what it is, and who reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError
from .converted import Converted
from .manifest import from_manifest
from .shell import from_script
from .snapshot import from_cpack, from_snapshot

MOST_BYTES = 32 << 20


def from_file(path: Path) -> Converted:
    """Make a profile of a provisioning manifest, a provisioning script, a snapshot of ComfyUI-Manager or a comfy-pack.

    Raises:
        UsageError: it cannot be read, or is none of these.
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
    data = _data(text)
    if isinstance(data, dict) and {"git_custom_nodes", "cnr_custom_nodes"} & data.keys():
        return from_snapshot(data, path.stem)
    if isinstance(data, dict) and data.get("version") == 1 and not {"nodes", "repos"} & data.keys():
        return from_manifest(data, path.stem)
    if path.suffix in (".sh", ".bash") or text.startswith("#!"):
        return from_script(text, path.stem)
    raise _unknown(path)


def _data(text: str) -> Any:
    """JSON is YAML, but for its speed and its tabs."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _unknown(path: Path) -> UsageError:
    return UsageError(
        f"`{path}` is no manifest (YAML, `version: 1`), no script (`.sh`), no snapshot.json and no `.cpack.zip`",
        hint="a workflow is read by `provision profiles from-workflow`; a profile needs no import",
    )
