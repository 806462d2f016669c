"""ComfyUI-Manager's snapshots and comfy-pack's archives as profiles: commits, packages, models with their hashes."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .converted import BASE, COMFYUI, Converted, name_of, repo_path
from .known_nodes import REPOSITORIES, WITHOUT_REQUIREMENTS

COMFYUI_URL = "https://github.com/comfyanonymous/ComfyUI"
MOST_BYTES = 32 << 20
_PIN = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?==[\w.!-]+")
_TOOLS = re.compile(r"(pip|setuptools|wheel|uv)==", re.I)
_OF_THE_CARD = re.compile(
    r"(torch|torchvision|torchaudio|triton|xformers|nvidia-.*|pytorch-triton.*)(\[.*)?==", re.I
)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def from_snapshot(data: Mapping[str, Any], name: str) -> Converted:
    """Make a profile of a ``snapshot.json`` of ComfyUI-Manager."""
    made = _base(name)
    commit = data.get("comfyui")
    _add_comfyui(commit.get("commit") or commit.get("hash") if isinstance(commit, dict) else commit, made)
    for url, about in (data.get("git_custom_nodes") or {}).items():
        if about.get("disabled"):
            made.unresolve(f"the custom node {url} is disabled in the snapshot: left out")
        else:
            _add_node(url, str(about.get("hash") or ""), made)
    for node, version in (data.get("cnr_custom_nodes") or {}).items():
        url = REPOSITORIES.get(str(node).lower())
        if url is None:
            made.unresolve(
                f"the custom node `{node}` {version} comes from ComfyUI's registry: look its repository up at "
                f"https://registry.comfy.org/nodes/{node} and add it under `repos:`"
            )
        else:
            _add_node(url, "", made)
            made.unresolve(
                f"the custom node `{node}` was at {version}: the profile takes its newest; pin it with `ref:`"
            )
    for file in data.get("file_custom_nodes") or []:
        made.unresolve(
            f"the custom node `{file.get('filename')}` is a single file of its own: copy it under `files:`"
        )
    pips = data.get("pips") or {}
    add_packages(
        (f"{key}=={value}" if value and "==" not in key else key for key, value in pips.items()), made
    )
    _name_the_rest(
        data, {"comfyui", "git_custom_nodes", "cnr_custom_nodes", "file_custom_nodes", "pips"}, made
    )
    return made


def from_cpack(path: Path) -> Converted:
    """Make a profile of a ``.cpack.zip`` of comfy-pack.

    Raises:
        UsageError: it is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(_member(archive, "snapshot.json"))
            names = archive.namelist()
            packages = (
                _member(archive, "requirements.txt").decode("utf-8", "replace")
                if "requirements.txt" in names
                else ""
            )
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UsageError(
            f"`{path}` is no archive of comfy-pack: {error}", hint="give a `.cpack.zip`"
        ) from None
    made = _base(path.name.removesuffix(".zip").removesuffix(".cpack"))
    _add_comfyui(data.get("comfyui"), made)
    for node in data.get("custom_nodes") or []:
        if node.get("disabled"):
            made.unresolve(f"the custom node {node.get('url')} is disabled in the archive: left out")
        else:
            _add_node(str(node.get("url")), str(node.get("commit_hash") or ""), made)
    for model in data.get("models") or []:
        _add_model(model, made)
    add_packages((line.partition(" ;")[0].strip() for line in packages.splitlines() if line.strip()), made)
    inputs = [name for name in names if name.startswith("input/") and not name.endswith("/")]
    if inputs:
        made.unresolve(
            f"the archive holds {len(inputs)} input file(s), such as `{inputs[0]}`: copy them yourself"
        )
    if data.get("python"):
        made.unresolve(f"it was made with Python {data['python']}: the instance's own is taken")
    _name_the_rest(data, {"comfyui", "custom_nodes", "models", "python"}, made)
    return made


def _base(name: str) -> Converted:
    return Converted({"version": 1, "name": name_of(name), "description": f"From {name}", "extends": BASE})


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"`{name}` is larger than {MOST_BYTES} bytes")
    return data


def _add_comfyui(commit: Any, made: Converted) -> None:
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        made.unresolve("it does not say which commit of ComfyUI it had")
        return
    made.add_repo(
        {
            "url": COMFYUI_URL,
            "path": COMFYUI,
            "ref": commit,
            "install": "requirements.txt",
        }
    )


def _add_node(url: str, commit: str, made: Converted) -> None:
    repo: dict[str, Any] = {"url": url, "path": repo_path(url)}
    if _COMMIT.fullmatch(commit):
        repo["ref"] = commit
    if repo["path"].rpartition("/")[2] not in WITHOUT_REQUIREMENTS:
        repo["install"] = "requirements.txt"
    made.add_repo(repo)


def _add_model(model: Mapping[str, Any], made: Converted) -> None:
    file, sha256 = str(model.get("filename") or "").replace("\\", "/"), str(model.get("sha256") or "").lower()
    source = model.get("source")
    url = source.get("download_url") if isinstance(source, dict) else source
    if not url:
        made.unresolve(
            f"the model `{file}` (sha256 {sha256}) has no source: find it by that hash and add it under `downloads:`"
        )
        return
    item: dict[str, Any] = {"url": url, "path": f"{COMFYUI}/{file}"}
    if re.fullmatch(r"[0-9a-f]{64}", sha256):
        item["sha256"] = sha256
    if isinstance(model.get("size"), int):
        item["size"] = model["size"]
    if model.get("disabled"):
        item["level"] = "optional"
    made.add_download(item)


def add_packages(lines: Iterable[str], made: Converted) -> None:
    """Add the exact versions in *lines* as one layer; what the card decides, or what has none, is named."""
    pinned = []
    for line in lines:
        if _OF_THE_CARD.match(line):
            made.unresolve(f"`{line}` depends on driver and card: the profile's `torch:` layer chooses it")
        elif _TOOLS.match(line):
            continue  # every environment has its own
        elif _PIN.fullmatch(line):
            pinned.append(line)
        elif not line.startswith("#"):
            made.unresolve(
                f"the package `{line}` has no exact version that an index knows: add it to `python.layers` by hand"
            )
    if pinned:
        made.profile["python"] = {"layers": [pinned]}


def _name_the_rest(data: Mapping[str, Any], used: set[str], made: Converted) -> None:
    for key, value in data.items():
        if key not in used and value:
            made.unresolve(f"`{key}` has no counterpart: {str(value)[:120]}")
