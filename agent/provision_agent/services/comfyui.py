"""What a running ComfyUI says of itself: in its log which nodes it loaded, at its addresses which classes and models it
offers and what it has to do.

Its log names every node once, in a table at the end of its start, and each failure with its reason before that:

    Cannot import /w/ComfyUI/custom_nodes/faces module for custom nodes: No module named 'insightface'
    Import times for custom nodes:
       0.1 seconds: /w/ComfyUI/custom_nodes/ComfyUI-Manager
       0.0 seconds (IMPORT FAILED): /w/ComfyUI/custom_nodes/faces

Threads of nodes write meanwhile: their lines stand between the rows of the table, and what they leave without an end stands
before a row.
"""

from __future__ import annotations

import http.client
import json
import os
import re
from dataclasses import dataclass
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple
from urllib.parse import SplitResult, quote, urlsplit

from ..contract.plan import Ready
from . import web

PROMPT_SAID = "got prompt"
"""A line of its log for every prompt that it is sent, written before it is queued."""
FOLDER = "custom_nodes"
_LISTED = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Files that ComfyUI lists in every folder of models."""
_STATS = "/system_stats"
"""The address by which a ComfyUI is known."""
_ADDRESSES = (_STATS, "/queue", "/object_info", "/prompt", "/models")
_LOGS = "/internal/logs/raw"
_CLASS_S = 30.0
"""For one class: a loader looks through the folders of models first."""
_ALL_CLASSES_S = 120.0
_ALL_CLASSES_BYTES = 128 << 20
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TABLE_ROW = re.compile(r"(?<![\d.])\d+\.\d+ seconds(?P<failed> \(IMPORT FAILED\))?: (?P<path>\S.*)$")
_REASONS = (
    re.compile(r"Cannot import (?P<path>\S.*?) module for custom nodes: (?P<why>.*)"),
    re.compile(r"(?P<why>Error while calling comfy_entrypoint) in (?P<path>\S.*?): (?P<more>.*)"),
    re.compile(r"Skip (?P<path>\S.*?) module for custom nodes (?P<why>due to .*)"),
    re.compile(r"comfy_entrypoint in (?P<path>\S.*?) (?P<why>is not callable|did not return .*?),? skipping"),
)
_TABLE = re.compile(r"(?P<name>Import|Prestartup) times for custom nodes:")
_BUILT_IN = re.compile(r"^IMPORT FAILED: (?P<name>\S+\.py)$")


@dataclass(frozen=True)
class Imports:
    """What the log says of the nodes since the start: each by its path."""

    loaded: Tuple[str, ...] = ()
    failed: Tuple[Tuple[str, str], ...] = ()
    """With the reason, as far as it is told."""
    built_in: Tuple[str, ...] = ()
    """Files of ComfyUI's own that it could not import."""

    def reason(self, folder: str) -> Optional[str]:
        """Why the node in *folder* did not load; None when the log does not say that it failed."""
        return next((why for path, why in self.failed if _is_same(path, folder)), None)

    def has_loaded(self, folder: str) -> bool:
        """Does the log say that the node in *folder* was loaded?"""
        return any(_is_same(path, folder) for path in self.loaded) and self.reason(folder) is None


def imports_of(lines: Iterable[str]) -> Imports:
    """What *lines*, a log since the start of its ComfyUI, say of its nodes."""
    loaded: List[str] = []
    reasons: Dict[str, str] = {}
    failed: Dict[str, str] = {}
    built_in: List[str] = []
    is_table = False
    for line in (_COLOUR.sub("", line).rstrip() for line in lines):
        row, table = _TABLE_ROW.search(line), _TABLE.search(line)
        if table is not None:
            is_table = table["name"] == "Import"
        elif row is not None and is_table:
            path = row["path"]
            if row["failed"]:
                failed[path] = reasons.get(path, "its log gives no reason")
            else:
                loaded.append(path)
        found = _BUILT_IN.match(line)
        if found is not None:
            built_in.append(found["name"])
        for pattern in _REASONS:
            said = pattern.search(line)
            if said is not None:
                parts = said.groupdict()
                why = ": ".join(filter(None, (parts["why"], parts.get("more"))))
                reasons[said["path"]] = why
                if pattern is _REASONS[0]:
                    failed[said["path"]] = why
    return Imports(tuple(loaded), tuple(failed.items()), tuple(built_in))


def is_meant(ready: Optional[Ready]) -> bool:
    """True when *ready* asks a ComfyUI what it is, its devices among it."""
    return ready is not None and urlsplit(ready.url).path.endswith(_STATS)


def is_one(ready: Optional[Ready]) -> bool:
    """True when the service of *ready* is a ComfyUI: by the address that is asked, or by what it answers elsewhere."""
    if ready is None:
        return False
    return is_meant(ready) or queue(base_of(ready)) is not None


def base_of(ready: Ready) -> SplitResult:
    """The address below which a ComfyUI has all its others."""
    url = urlsplit(ready.url)
    end = next((end for end in _ADDRESSES if url.path.endswith(end)), None)
    path = url.path[: -len(end)] if end is not None else ""
    return url._replace(path=path, query="", fragment="")


class Queue(NamedTuple):
    """What a ComfyUI has to do: prompts as it lists them, ``[number, id, prompt, extra, outputs]``."""

    running: Tuple[object, ...]
    pending: Tuple[object, ...]

    def __bool__(self) -> bool:
        return bool(self.running or self.pending)

    @property
    def prompts(self) -> List[object]:
        """All that it has and has not finished, in its order."""
        return [*self.running, *self.pending]


def queue(base: SplitResult) -> Optional[Queue]:
    """What it has to do now; None when it does not say."""
    found = _json(base, "/queue", max_bytes=_ALL_CLASSES_BYTES)
    if not isinstance(found, dict):
        return None
    lists = [found.get(name) for name in ("queue_running", "queue_pending")]
    if not all(isinstance(each, list) for each in lists):
        return None
    return Queue(*(tuple(each) for each in lists if isinstance(each, list)))


def send_again(base: SplitResult, prompts: Iterable[object]) -> int:
    """Queue *prompts*, as an earlier process listed them, under the ids that their senders know.

    Returns:
        How many it took.
    """
    taken = 0
    for prompt in prompts:
        if not isinstance(prompt, list) or len(prompt) < 4 or not isinstance(prompt[3], dict):
            continue
        extra = prompt[3]
        order = {"number": prompt[0], "prompt_id": prompt[1], "prompt": prompt[2], "extra_data": extra}
        if "client_id" in extra:
            order["client_id"] = extra["client_id"]
        if len(prompt) > 4 and isinstance(prompt[4], list):
            order["partial_execution_targets"] = prompt[4]
        address = base._replace(path=f"{base.path}/prompt")
        try:
            status, _ = web.ask(address, body=json.dumps(order).encode(), within_s=_CLASS_S)
        except (OSError, http.client.HTTPException):
            continue
        taken += status == 200
    return taken


class Classes(NamedTuple):
    """Which of the classes that were asked for it offers, and the modules that they come from."""

    missing: Tuple[str, ...]
    modules: Tuple[str, ...]


def classes(base: SplitResult, names: Sequence[str]) -> Classes:
    """Which of *names* are among its classes.

    Raises:
        OSError: it does not answer.
        http.client.HTTPException: what it answers is no answer.
    """
    found: Dict[str, object] = {}
    for name in names:
        path = f"{base.path}/object_info/{quote(name, safe='')}"
        status, body = web.ask(base._replace(path=path), within_s=_CLASS_S)
        data = _parsed(body) if status == 200 else None
        if isinstance(data, dict) and name in data:
            found[name] = data[name]
        elif status == 404 or "/" in name:
            return _among_all(base, names)
    return _classes(found, names)


def _among_all(base: SplitResult, names: Sequence[str]) -> Classes:
    """As `classes`, from the list of all: for names that no address can hold, and versions without one for each."""
    address = base._replace(path=f"{base.path}/object_info")
    status, body = web.ask(address, within_s=_ALL_CLASSES_S, max_bytes=_ALL_CLASSES_BYTES)
    data = _parsed(body) if status == 200 else None
    if not isinstance(data, dict):
        raise OSError(f"{address.geturl()} answers with {status} and no list of classes")
    return _classes(data, names)


def _classes(found: Dict[str, object], names: Sequence[str]) -> Classes:
    told = [found[name] for name in names if name in found]
    modules = {
        str(each.get("python_module")) for each in told if isinstance(each, dict) and "python_module" in each
    }
    return Classes(tuple(name for name in names if name not in found), tuple(sorted(modules)))


def unlisted(base: SplitResult, files: Sequence[str]) -> str:
    """Which of the model *files*, given below its own folder, it does not offer, in words; empty when it offers all.

    It may run and look elsewhere for them. What it would not list, or a version does not know, is not asked for.
    """
    for folder, names in models_by_folder(files).items():
        listed = models(base, folder)
        for name in sorted(names.difference(listed)) if listed is not None else ():
            return f"it does not offer `{name}` under {base.path}/models/{quote(folder)}"
    return ""


def models(base: SplitResult, folder: str) -> Optional[List[str]]:
    """The models that it lists in *folder*; None when it knows no such folder, or does not answer."""
    found = _json(base, f"/models/{quote(folder)}")
    return [str(name) for name in found] if isinstance(found, list) else None


def models_by_folder(files: Iterable[str]) -> Dict[str, Set[str]]:
    """``models/vae/a/b.safetensors`` as ``a/b.safetensors`` in ``vae``; what ComfyUI would not list is left out."""
    found: Dict[str, Set[str]] = {}
    for file in files:
        top, _, rest = os.path.normpath(file).partition("/")
        folder, _, name = rest.partition("/")
        if top == "models" and name.endswith(_LISTED):
            found.setdefault(folder, set()).add(name)
    return found


def said(base: SplitResult) -> List[str]:
    """The last lines of its log as it tells them itself; none where it does not."""
    found = _json(base, _LOGS)
    entries = found.get("entries") if isinstance(found, dict) else None
    told = (each.get("m") for each in entries if isinstance(each, dict)) if isinstance(entries, list) else ()
    return "".join(str(text) for text in told).splitlines()


def _json(base: SplitResult, path: str, *, max_bytes: int = web.MAX_ANSWER_BYTES) -> object:
    """What it answers under *path*; None when that is nothing."""
    try:
        status, body = web.ask(base._replace(path=base.path + path), max_bytes=max_bytes)
    except (OSError, http.client.HTTPException):
        return None
    return _parsed(body) if status == 200 else None


def _parsed(body: bytes) -> object:
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found


def _is_same(path: str, folder: str) -> bool:
    """Both name one node; a link, or a folder that another container sees elsewhere, makes no difference."""
    ends = [tuple(os.path.normpath(each).split(os.sep)[-2:]) for each in (path, folder)]
    if ends[0] == ends[1] and ends[0][0] == FOLDER:
        return True
    return os.path.realpath(path) == os.path.realpath(folder)
