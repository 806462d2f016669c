"""What ComfyUI workflows need: models and custom nodes, from the files that people share.

Both formats are read: the editor's (nodes, subgraphs, `properties.models`) and the API's (inputs by node id).
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from ..errors import UsageError
from ..profile.paths import file_path
from .converted import BASE, MODELS, Converted, name_of, repo_path
from .documents import Item, check_size, items, mapping, read_json
from .image import embedded, is_picture
from .known_nodes import CORE_CLASSES, FOLDERS
from .node_list import NodeList, repository_of

MODEL_FILE = re.compile(r"[^\n\r:*?\"<>|]{1,240}\.(safetensors|sft|ckpt|pt|pth|gguf|onnx|bin)", re.I)
_OWNED = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_OF_THE_PAGE = frozenset(("Note", "MarkdownNote", "Reroute", "PrimitiveNode", "GroupNode"))
"""Nodes that ComfyUI's page has by itself."""
_CORE = ("comfy-core", "comfyui-core")


def from_workflows(
    paths: Sequence[Path], *, node_list: Callable[[], NodeList | None] = lambda: None
) -> Converted:
    """Make a profile of everything that the workflows in *paths* need.

    Args:
        paths: Of the workflows.
        node_list: Called, once, when a workflow does not say where a class of its nodes comes from.

    Returns:
        A profile that extends `comfyui-base`. Models that no workflow gives a source for, and nodes whose repository
        is not known, are in `unresolved`.

    Raises:
        UsageError: a file that cannot be read or is no workflow.
    """
    converted = Converted(
        {
            "version": 1,
            "name": name_of(paths[0].stem) if paths else "workflow",
            "description": f"What {', '.join(path.name for path in paths)} needs",
            "extends": BASE,
        }
    )
    wanted: list[tuple[str, str, str]] = []
    known = cache(node_list)
    for path in paths:
        workflow = _Workflow(_read(path), path.name)
        workflow.add_models(converted)
        workflow.add_nodes(converted, known)
        wanted += workflow.named_files()
    _settle(converted, wanted)
    return converted


class _Workflow:
    """One workflow of either format."""

    def __init__(self, data: Mapping[str, object], name: str) -> None:
        self._data = data
        self._name = name
        self._nodes = list(_editor_nodes(data))
        self._calls = [] if self._nodes else list(_api_nodes(data))

    def add_models(self, converted: Converted) -> None:
        """Every model entry with a URL becomes a download."""
        for model in items(self._data.get("models")):
            self._add_model(model, None, converted)
        for node in self._nodes:
            for model in items(mapping(node.get("properties")).get("models")):
                self._add_model(model, str(node.get("type")), converted, _values(node.get("widgets_values")))

    def add_nodes(self, converted: Converted, node_list: Callable[[], NodeList | None]) -> None:
        """Every custom node whose repository is told or known becomes a repo."""
        offered: dict[tuple[str, str, str], list[str]] = {}
        for node in self._nodes:
            properties = mapping(node.get("properties"))
            cnr, aux = _origin(properties)
            if cnr not in _CORE and (cnr or aux):
                offered.setdefault((cnr, aux, str(properties.get("ver") or "")), []).append(
                    str(node.get("type"))
                )
        for (name, owner, version), of_it in offered.items():
            self._add_node(name, owner, version, converted, node_list, of_it)
        versions = mapping(mapping(self._data.get("extra")).get("node_versions"))
        for folder, told in versions.items():
            if folder not in _CORE:
                self._add_node(folder.strip("/"), "", str(told or ""), converted, node_list, ())
        if classes := sorted(self._classes_of_nobody() - CORE_CLASSES):
            self._add_classes(classes, node_list(), converted)

    def _classes_of_nobody(self) -> set[str]:
        """Classes of nodes that do not say where they come from: those of an API-format workflow, or of one before 2025."""
        subgraphs = {
            str(mapping(each).get("id"))
            for each in items(mapping(self._data.get("definitions")).get("subgraphs"))
        }
        found = {str(call.get("class_type")) for call in self._calls}
        for node in self._nodes:
            properties, kind = mapping(node.get("properties")), node.get("type")
            if (
                isinstance(kind, str)
                and not any(_origin(properties))
                and kind not in subgraphs
                and not _UUID.fullmatch(kind)
            ):
                found.add(kind)
        return found - _OF_THE_PAGE

    def _add_classes(self, classes: Sequence[str], known: NodeList | None, converted: Converted) -> None:
        unknown: list[str] = []
        for name in classes:
            repositories = known.repositories.get(name, ()) if known is not None else ()
            if known is not None and name in known.core:
                continue
            if len(repositories) == 1:
                converted.add_repo(
                    {"url": repositories[0], "path": repo_path(repositories[0]), "install": "if_present"}
                )
            elif repositories:
                converted.unresolve(
                    f"{self._name}: the node `{name}` is in several repositories, add the right one under `repos:`: "
                    f"{', '.join(repositories[:5])}"
                )
            else:
                unknown.append(name)
        if unknown:
            converted.unresolve(
                f"{self._name}: it does not say where these nodes come from; those that are not ComfyUI's own are custom nodes, "
                f"add their repositories under `repos:`: {', '.join(unknown)}"
            )

    def named_files(self) -> Iterator[tuple[str, str, str]]:
        """Model files that widgets or inputs name: the file, the node's class, where it was."""
        for node in self._nodes:
            for value in _values(node.get("widgets_values")):
                yield value, str(node.get("type")), f"{self._name}, node {node.get('id')}"
        for call in self._calls:
            for value in _values(call.get("inputs")):
                yield value, str(call.get("class_type")), f"{self._name}, node {call['id']}"

    def _add_model(
        self, model: object, node_type: str | None, converted: Converted, chosen: Iterable[str] = ()
    ) -> None:
        entry = mapping(model)
        name, url = str(entry.get("name") or ""), str(entry.get("url") or "")
        folder = str(entry.get("directory") or FOLDERS.get(node_type or "", ""))
        if not name or not url or not folder:
            missing = next(
                key for key, value in (("name", name), ("url", url), ("directory", folder)) if not value
            )
            converted.unresolve(f"{self._name}: the model `{name or url or entry}` has no {missing}")
            return
        below = (
            each.replace("\\", "/") for each in chosen
        )  # the node looks for it in a folder of that folder
        name = next((each for each in below if each.endswith(f"/{name}")), name)
        path = f"{MODELS}/{folder}/{name}".replace("\\", "/")
        item: Item = {"url": url.removesuffix("?download=true"), "path": path}
        if str(entry.get("hash_type", "")).upper() == "SHA256" and entry.get("hash"):
            item["sha256"] = str(entry["hash"]).lower()
        converted.add_download(item)

    def _add_node(
        self,
        cnr: str,
        aux: str,
        version: str,
        converted: Converted,
        node_list: Callable[[], NodeList | None],
        classes: Iterable[str],
    ) -> None:
        if aux:
            url: str | None = f"https://github.com/{aux}"
        else:
            url = repository_of(cnr, node_list, classes)
        if url is None or not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
            converted.unresolve(
                f"{self._name}: the custom node `{aux or cnr}`{f' {version}' if version else ''} has no known repository: look it up "
                f"at https://registry.comfy.org/nodes/{cnr or aux} and add it under `repos:`"
            )
            return
        repo: Item = {"url": url, "path": repo_path(url), "install": "if_present"}
        if _COMMIT.fullmatch(version):
            repo["ref"] = version
        converted.add_repo(repo)


def _origin(properties: Mapping[str, object]) -> tuple[str, str]:
    """Registry's name and `owner/repository` of the node with *properties*; some editors write the node's own class there."""
    cnr, aux = str(properties.get("cnr_id") or ""), str(properties.get("aux_id") or "")
    if aux and not _OWNED.fullmatch(aux):
        is_class = "/" not in aux and aux == properties.get("Node name for S&R")
        return cnr or ("" if is_class else aux.strip("/")), ""
    return cnr, aux


def _settle(converted: Converted, wanted: Iterable[tuple[str, str, str]]) -> None:
    """Name the files that no entry gives a source for."""
    known = {str(item["path"]).rpartition("/")[2] for item in converted.listed("downloads")}
    for file, node_type, where in wanted:
        base = file.replace("\\", "/").rpartition("/")[2]
        if base not in known:
            known.add(base)
            inside = file.replace("\\", "/").lstrip("/")
            path = f"{MODELS}/{FOLDERS.get(node_type, '<folder>')}/{inside}"
            check = _require(inside, node_type, converted)
            converted.unresolve(
                f"{where} ({node_type}) wants `{file}` and says no source: add `{{url: …, path: {path}}}`{check}"
            )


def _require(file: str, node_type: str, converted: Converted) -> str:
    """Add a check of the model *file*, so that the verdict says that it is missing; words about it.

    A node that is not known to load only what is there may fetch its file itself: that is only warned of.
    """
    level = "required" if node_type in FOLDERS else "optional"
    try:
        pattern = f"{MODELS}/**/{glob.escape(file_path(file))}"
    except ValueError:
        return ""
    converted.add("checks", {"name": f"Model {file}", "glob": [pattern], "level": level})
    verdict = "a run without it is `incomplete`" if level == "required" else "a run without it warns"
    return f"; by the check `Model {file}` {verdict}"


def _read(path: Path) -> Mapping[str, object]:
    try:
        content = path.read_bytes()
        data = read_json(embedded(content) if is_picture(content) else content)
    except OSError as error:
        raise UsageError(
            f"cannot read `{path}`: {error.strerror}",
            hint="give the path of a workflow: JSON, or a picture that ComfyUI saved",
        ) from None
    except ValueError as error:
        raise UsageError(
            f"`{path}` holds no workflow: {error}", hint="in ComfyUI: Workflow → Export, or Export (API)"
        ) from None
    check_size(data, str(path))
    if not isinstance(data, dict) or not (
        any(_editor_nodes(data)) or any(_api_nodes(data)) or data.get("nodes") == []
    ):
        raise UsageError(
            f"`{path}` is JSON, but no ComfyUI workflow",
            hint="in ComfyUI: Workflow → Export, or Export (API)",
        )
    return data


def _editor_nodes(data: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """The nodes of an editor's workflow and of all its subgraphs, wherever it is wrapped."""
    pnginfo = mapping(mapping(data.get("extra_data")).get("extra_pnginfo"))
    for wrapped in filter(None, (mapping(data.get("workflow")), mapping(pnginfo.get("workflow")))):
        yield from _editor_nodes(wrapped)
    nodes = data.get("nodes")
    yield from (node for node in items(nodes) if isinstance(node, dict))
    for subgraph in items(mapping(data.get("definitions")).get("subgraphs")):
        yield from _editor_nodes(mapping(subgraph))


def _api_nodes(data: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    for number, node in mapping(data.get("prompt", data)).items():
        if isinstance(node, dict) and isinstance(node.get("class_type"), str):
            yield {**node, "id": number}


def _values(widgets: object) -> Iterator[str]:
    """The texts among a node's values that are names of model files."""
    values = widgets.values() if isinstance(widgets, dict) else widgets if isinstance(widgets, list) else ()
    for value in values:
        if isinstance(value, str) and MODEL_FILE.fullmatch(value.strip()):
            yield value.strip()
        elif isinstance(value, dict):
            yield from _values(value)
