"""What already runs here: ComfyUI and its nodes with their commits, models with their hashes, packages, the service.

Reads only. Where a model came from is told by the plans of earlier runs, or by a public catalogue that knows its hash.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Dict, Iterator, List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from ..contract.failures import Failure
from ..contract.findings import CaptureAnswer, CapturedModel, CapturedRepo
from ..contract.messages import CaptureRequest
from ..contract.plan import Check, Download, Plan
from ..contract.redaction import public_url
from ..downloads import Sources, existing, verify
from ..host import process
from ..host.detach import argv_of, processes
from ..host.environments import interpreter_of
from ..run.answering import answer
from ..run.context import Context
from ..run.record import plan_of
from ..run.workspace import Workspace, known_workspaces
from ..steps import apt
from ..steps.git import Git
from .audit import HASHES_AT_ONCE, MODEL_SUFFIXES
from .query import quiet_context

WITHIN_S = 1800.0
LOOKUP_S = 10.0
_CONTAINER = "/.dockerenv"
_MAX_HISTORY_BYTES = 8 << 20
_FREEZE = """
import importlib.metadata, json
def line(found):
    direct = found.read_text("direct_url.json")
    where = " @ " + json.loads(direct)["url"] if direct else "==" + found.version
    return found.metadata["Name"] + where
found = [each for each in importlib.metadata.distributions() if each.metadata["Name"] and not each.read_text("HELD_BY")]
print(json.dumps(sorted(map(line, found))))
"""
"""Lists what an environment holds; what came from no index, with the address that it came from."""


def capture_main(argv: List[str]) -> int:
    """``capture``: the ComfyUI that is here, as a `CaptureAnswer`."""
    return answer(CaptureRequest, _capture)


def _capture(request: CaptureRequest) -> CaptureAnswer:
    looked_at = tuple([request.comfyui] if request.comfyui else _places())
    found = next((path for path in looked_at if os.path.isfile(os.path.join(path, "main.py"))), None)
    if found is None:
        return CaptureAnswer(None, looked_at)
    comfyui = os.path.realpath(found)
    root = os.path.dirname(comfyui)
    context = quiet_context(root, within_s=WITHIN_S)
    running = _running(comfyui)
    python = _interpreter(root, running)
    repos, loose = _repos(comfyui, context)
    return CaptureAnswer(
        comfyui=os.path.basename(comfyui),
        looked_at=looked_at,
        workspace=root,
        repos=tuple(repos),
        loose=tuple(loose),
        models=tuple(_models(comfyui, context, request.catalogue)),
        python=python,
        packages=tuple(_packages(python, context)),
        service=tuple(running[1:]) if running else None,
        apt=tuple(_apt(root)),
        checks=_checks(root),
    )


def _plans(root: str) -> List[Plan]:
    """What was run in the workspace *root*, the newest last."""
    workspace = Workspace(root)
    plans = [plan_of(workspace, run) for run in workspace.run_ids()]
    return [
        plan.bind(workspace=root, home=os.path.expanduser("~"), run_id="")
        for plan in plans
        if plan is not None
    ]


def _checks(root: str) -> Tuple[Check, ...]:
    plans = _plans(root)
    return plans[-1].checks if plans else ()


def _apt(root: str) -> List[str]:
    """The system's packages that plans asked for, and whoever asked apt itself since the container was made."""
    asked = [name for plan in _plans(root) for name in plan.system_packages]
    try:
        with open(apt.HISTORY, encoding="utf-8", errors="replace") as file:
            asked += apt.asked_for(file.read(_MAX_HISTORY_BYTES), since_unix=_made_unix())
    except OSError:
        pass  # no apt here, or an image that keeps no history
    return sorted(set(asked))


def _made_unix() -> float:
    """When this container was made: what is older came with its image. 0 on a machine that is none."""
    try:
        return os.stat(_CONTAINER).st_mtime
    except OSError:
        return 0.0


def _places() -> Iterator[str]:
    for root in [
        *known_workspaces(),
        "/workspace",
        os.path.expanduser("~/workspace"),
        os.path.expanduser("~"),
        "/opt",
        "/root",
    ]:
        yield os.path.join(root, "ComfyUI")


def _running(comfyui: str) -> Optional[List[str]]:
    """The words of the process that serves this ComfyUI, its interpreter first; None when it does not run."""
    for pid in processes():
        words = argv_of(pid)
        scripts = [word for word in words[1:] if os.path.basename(word) == "main.py"]
        try:
            folder = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            continue  # it ended meanwhile, or is another user's
        if scripts and os.path.realpath(os.path.join(folder, os.path.dirname(scripts[0]))) == comfyui:
            return [word.encode("utf-8", "replace").decode() for word in words]
    return None


def _interpreter(root: str, running: Optional[List[str]]) -> Optional[str]:
    """The python that runs it, else the one of an environment that stands in a usual place."""
    candidates = [running[0]] if running and os.path.isabs(running[0]) else []
    folders = [
        os.path.join(root, "venv"),
        "/venv/main",
        os.path.join(root, "ComfyUI", "venv"),
        os.path.join(root, "ComfyUI", ".venv"),
    ]
    candidates += [interpreter_of(folder) for folder in folders]
    return next((path for path in candidates if os.path.exists(path)), None)


def _packages(python: Optional[str], context: Context) -> List[str]:
    if python is None:
        return []
    lines: List[str] = []
    try:
        done = process.run(
            [python, "-I", "-c", _FREEZE],
            timeout_s=60.0,
            on_line=lines.append,
            environment=process.child_environment(),
        )
        found = [str(each).partition(" @ ") for each in json.loads(lines[-1])] if done.status == 0 else []
    except (Failure, ValueError, IndexError):
        return []
    return [name + at + (public_url(url) if at else "") for name, at, url in found]


def _repos(comfyui: str, context: Context) -> Tuple[List[CapturedRepo], List[str]]:
    """The checkouts, ComfyUI's own first, and the custom nodes that are none."""
    repos, loose = [], []
    nodes = os.path.join(comfyui, "custom_nodes")
    names = sorted(os.listdir(nodes)) if os.path.isdir(nodes) else []
    for path in [comfyui, *(os.path.join(nodes, name) for name in names)]:
        relative = os.path.relpath(path, context.workspace)
        name = os.path.basename(path)
        if os.path.exists(os.path.join(path, ".git")):
            repos.append(replace(_repo(path, context), path=relative))
        elif path == comfyui or (
            not name.startswith((".", "__"))
            and name != "example_node.py.example"
            and (os.path.isdir(path) or name.endswith(".py"))
            and name != "websocket_image_save.py"
        ):
            loose.append(relative)
    return repos, loose


def _repo(path: str, context: Context) -> CapturedRepo:
    git = Git(path, context, lambda line: None)
    changed = [line for line in git.run("status", "--porcelain", "--untracked-files=no") if line[2:3] == " "]
    return CapturedRepo(
        path=path,
        url=public_url(git.line("config", "--get", "remote.origin.url")),
        commit=git.line("rev-parse", "--verify", "--quiet", "HEAD"),
        is_changed=bool(changed),
        has_requirements=os.path.isfile(os.path.join(path, "requirements.txt")),
        has_submodules=os.path.isfile(os.path.join(path, ".gitmodules")),
    )


# -- models


def _models(comfyui: str, context: Context, catalogue: str) -> List[CapturedModel]:
    known = _known_sources(context.workspace)
    records = {}
    for item in known.values():
        record = existing.record_of(context, item)
        records[record.path] = (item, record)
    with ThreadPoolExecutor(max_workers=HASHES_AT_ONCE) as pool:
        return list(
            pool.map(
                lambda path: _model(path, context, records, known, catalogue), sorted(_model_files(comfyui))
            )
        )


def _model_files(comfyui: str) -> Iterator[str]:
    for folder, _, names in os.walk(os.path.join(comfyui, "models"), followlinks=True):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.splitext(name)[1].lower() in MODEL_SUFFIXES and os.path.isfile(path):
                yield path


def _model(
    path: str,
    context: Context,
    records: Mapping[str, Tuple[Download, existing.FileRecord]],
    known: Mapping[str, Download],
    catalogue: str,
) -> CapturedModel:
    relative = os.path.relpath(path, context.workspace)
    item, record = records.get(path, (known.get(relative), existing.FileRecord()))
    found = os.stat(path)
    recorded = record.sha256 if record.fits(found) else None
    sha256 = str(recorded or verify.sha256_of(path))
    model = CapturedModel(relative, found.st_size, sha256)
    if item is not None and item.sha256 in (None, sha256):
        return replace(model, url=item.url, mirrors=item.mirrors, level=item.level)
    return replace(model, url=_from_catalogue(catalogue, sha256)) if catalogue else model


def _known_sources(root: str) -> Dict[str, Download]:
    """By key, what the plans of the runs in this workspace had it from; the newest has the last word."""
    return {item.key: item for plan in _plans(root) for item in plan.downloads}


def _from_catalogue(catalogue: str, sha256: str) -> Optional[str]:
    """The download link that a server which speaks Civitai's API has for the file with that hash."""
    address = f"{catalogue.rstrip('/')}/api/v1/model-versions/by-hash/{sha256}"
    try:
        response, _ = Sources([], {}).open(
            address, span=None, deadline=time.monotonic() + LOOKUP_S, connect_s=5.0
        )
        try:
            files = json.loads(response.read(8 << 20, LOOKUP_S))["files"]
        finally:
            response.close()
        fitting = [file for file in files if str(file["hashes"].get("SHA256", "")).lower() == sha256]
        url = str(fitting[0]["downloadUrl"])
    except (Failure, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None
    return url if urlsplit(url).scheme in ("http", "https") else None
