"""ComfyUI-Manager's snapshots and comfy-pack's archives as profiles: commits, packages, models with their hashes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

from ..errors import UsageError
from .converted import BASE, COMFYUI, COMFYUI_URL, Converted, name_of, repo_path
from .documents import Item, check_size, items, mapping, mappings, read_json, text
from .node_list import NodeList, repository_of

MOST_BYTES = 32 << 20
_PIN = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?(==[\w.!-]+| @ (git\+)?https://[\w.~:/?=&%@#+-]+)")
"""An exact version, or the address that a package was installed from."""
_TOOLS = re.compile(r"(pip|setuptools|wheel|uv)==", re.I)
_OF_THE_CARD = re.compile(
    r"(torch|torchvision|torchaudio|triton|xformers|pytorch-triton[\w.-]*"
    r"|nvidia-[\w.-]+-cu\d+|nvidia-(cublas|cudnn|cuda|cufft|cufile|curand|cusolver|cusparse|nccl|nvjitlink|nvshmem|nvtx)[\w.-]*"
    r"|cuda-(toolkit|bindings|pathfinder))(\[.*)?==",
    re.I,
)
"""torch, and what it brings of CUDA. Other packages of NVIDIA's, such as `nvidia-ml-py`, are like anybody's."""
_OF_THE_SYSTEM = re.compile(
    r"(dbus-python|PyGObject|pycairo|python-apt|python-debian|distro-info|ubuntu-[\w.-]+|command-not-found|language-selector"
    r"|launchpadlib|lazr\.[\w.-]+|wadllib|systemd-python|ufw|unattended-upgrades|cloud-init|netplan[\w.-]*|ssh-import-id"
    r"|screen-resolution-extra|xkit|gyp)==|[\w.-]+==[\w.]*(\+ubuntu|\+deb|-?\d?ubuntu\d)",
    re.I,
)
"""What an image of Ubuntu or Debian has in its system's Python, and no index has."""
_LISTS = ("file_custom_nodes", "custom_nodes", "models")
_MAPPINGS = ("git_custom_nodes", "cnr_custom_nodes", "pips")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def from_snapshot(
    data: Mapping[str, object], name: str, *, node_list: Callable[[], NodeList | None] = lambda: None
) -> Converted:
    """Make a profile of a ``snapshot.json`` of ComfyUI-Manager.

    Args:
        data: Its JSON.
        name: What it is called: the profile's name, and in messages.
        node_list: Called, once, when the repository of a node of ComfyUI's registry is not known.
    """
    made, node_list = _base(name), cache(node_list)
    _name_odd_shapes(data, made)
    commit = data.get("comfyui")
    about = mapping(commit)
    _add_comfyui(about.get("commit") or about.get("hash") if about else commit, made)
    for url, node_ in mapping(data.get("git_custom_nodes")).items():
        about = mapping(node_)
        if about.get("disabled"):
            made.unresolve(f"the custom node {url} is disabled in the snapshot: left out")
        else:
            _add_node(url, text(about.get("hash")), made)
    for node, version in mapping(data.get("cnr_custom_nodes")).items():
        known = repository_of(node, node_list)
        if known is None:
            made.unresolve(
                f"the custom node `{node}` {version} comes from ComfyUI's registry: look its repository up at "
                f"https://registry.comfy.org/nodes/{node} and add it under `repos:`"
            )
        else:
            _add_node(known, "", made)
            made.unresolve(
                f"the custom node `{node}` was at {version}: the profile takes its newest; pin it with `ref:`"
            )
    for file in mappings(data.get("file_custom_nodes")):
        made.unresolve(
            f"the custom node `{file.get('filename')}` is a single file of its own: copy it under `files:`"
        )
    pips = mapping(data.get("pips"))
    add_packages(
        (f"{key}=={text(value)}" if value and "==" not in key else key for key, value in pips.items()), made
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
            data = mapping(read_json(_member(archive, "snapshot.json")))
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
    check_size(data, str(path))
    made = _base(path.name.removesuffix(".zip").removesuffix(".cpack"))
    _name_odd_shapes(data, made)
    _add_comfyui(data.get("comfyui"), made)
    for node in mappings(data.get("custom_nodes")):
        if node.get("disabled"):
            made.unresolve(f"the custom node {node.get('url')} is disabled in the archive: left out")
        else:
            _add_node(text(node.get("url")), text(node.get("commit_hash")), made)
    for model in mappings(data.get("models")):
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


def _add_comfyui(commit: object, made: Converted) -> None:
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
    repo: Item = {"url": url, "path": repo_path(url)}
    if _COMMIT.fullmatch(commit):
        repo["ref"] = commit
    repo["install"] = "if_present"
    made.add_repo(repo)


def _add_model(model: Mapping[str, object], made: Converted) -> None:
    file, sha256 = text(model.get("filename")).replace("\\", "/"), text(model.get("sha256")).lower()
    source = model.get("source")
    url = text(mapping(source).get("download_url") if isinstance(source, dict) else source)
    if not url:
        made.unresolve(
            f"the model `{file}` (sha256 {sha256}) has no source: find it by that hash and add it under `downloads:`"
        )
        return
    item: Item = {"url": url, "path": f"{COMFYUI}/{file}"}
    if re.fullmatch(r"[0-9a-f]{64}", sha256):
        item["sha256"] = sha256
    if isinstance(model.get("size"), int):
        item["size"] = model["size"]
    if model.get("disabled"):
        item["level"] = "optional"
    made.add_download(item)


def add_packages(lines: Iterable[str], made: Converted, *, has_torch_layer: bool = False) -> None:
    """Add the exact versions in *lines* as one layer; what the card decides, or what has none, is named, each in one line.

    Args:
        has_torch_layer: The profile has one already: what that brings is not open.
    """
    pinned, of_the_card, without, of_the_system = [], [], [], []
    for line in lines:
        if _OF_THE_CARD.match(line):
            if not has_torch_layer or line.lower().startswith("xformers"):
                of_the_card.append(line)
        elif _OF_THE_SYSTEM.match(line):
            of_the_system.append(line)
        elif _TOOLS.match(line):
            continue  # every environment has its own
        elif _PIN.fullmatch(line):
            pinned.append(line)
        elif not line.startswith("#"):
            without.append(line)
    if of_the_card:
        depend = "depends" if len(of_the_card) == 1 else "depend"
        chosen = (
            "a wheel for the new card is yours to choose" if has_torch_layer else "the `torch:` layer chooses"
        )
        made.unresolve(f"{_listed(of_the_card)} {depend} on driver and card: {chosen}")
    if of_the_system:
        come = "comes" if len(of_the_system) == 1 else "come"
        made.unresolve(
            f"{_listed(of_the_system)} {come} with the distribution's own packages and cannot be built elsewhere: left out; "
            "what needs one names its Debian package under `apt:`"
        )
    if without:
        have = "has" if len(without) == 1 else "have"
        made.unresolve(
            f"{_listed(without)} {have} no exact version that an index knows: add to `python.layers` by hand"
        )
    if pinned:
        made.part("python")["layers"] = [pinned]


def _listed(lines: list[str]) -> str:
    return ", ".join(f"`{line}`" for line in lines)


def _name_odd_shapes(data: Mapping[str, object], made: Converted) -> None:
    """Say what stands where something else is expected, for it cannot be read."""
    for key, value in data.items():
        wanted: type = list if key in _LISTS else dict
        parts = items(value) if key in _LISTS else ()
        if value and key in (*_LISTS, *_MAPPINGS) and not isinstance(value, wanted):
            made.unresolve(f"`{key}` is no {'list' if key in _LISTS else 'mapping'}: {str(value)[:120]}")
        for part in parts:
            if not isinstance(part, dict):
                made.unresolve(f"an entry of `{key}` is no mapping: {str(part)[:120]}")


def _name_the_rest(data: Mapping[str, object], used: set[str], made: Converted) -> None:
    for key, value in data.items():
        if key not in used and value:
            made.unresolve(f"`{key}` has no counterpart: {str(value)[:120]}")
