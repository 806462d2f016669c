"""A profile and its lock from what already runs on an instance."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from provision_agent.contract.findings import CaptureAnswer, CapturedModel, CapturedRepo
from provision_agent.contract.messages import CaptureRequest
from provision_agent.contract.parsing import to_json
from provision_agent.contract.plan import Check
from provision_agent.contract.source_kinds import SOURCE_KINDS

from ..errors import UsageError
from ..instance import Instance, as_answer
from ..instance.query import ask
from .converted import Converted, name_of
from .documents import Item
from .snapshot import add_packages

WITHIN_S = 1900.0
CATALOGUE = SOURCE_KINDS["civitai"].endpoint({})
"""Knows models by their hashes."""
_PORT = re.compile(r"[0-9]{1,5}")


async def capture(
    instance: Instance, *, comfyui: str | None = None, catalogue: str = CATALOGUE
) -> CaptureAnswer:
    """Look at the ComfyUI on *instance*: repos, models with their hashes, packages, the running service.

    Args:
        comfyui: Its folder there; else the usual places.
        catalogue: A server that speaks Civitai's API, asked where a model with that hash can be had; empty: nobody.

    Raises:
        UsageError: there is none.
    """
    request = CaptureRequest(comfyui=comfyui, catalogue=catalogue)
    found = await ask(instance, "capture", request, as_answer(CaptureAnswer), timeout_s=WITHIN_S)
    if found.comfyui is None:
        raise UsageError(
            f"there is no ComfyUI on {instance} in {', '.join(found.looked_at)}",
            hint="give its folder with `--comfyui`",
        )
    return found


def from_capture(found: CaptureAnswer, name: str) -> Converted:
    """Make a profile of what `capture` found: every commit pinned, every model with size and hash.

    Args:
        found: The instance's answer.
        name: What it is called: the profile's name, and in its description.
    """
    made = Converted(
        {
            "version": 1,
            "name": name_of(name),
            "description": f"Captured from {name}",
            "workspace": found.workspace,
        },
        is_foreign=False,
    )
    for repo in found.repos:
        _add_repo(repo, made, has_packages=bool(found.packages))
    for path in found.loose:
        made.unresolve(f"`{path}` is no git checkout: copy it yourself, or add its repository under `repos:`")
    has_torch = any(each.lower().startswith("torch==") for each in found.packages)
    add_packages(found.packages, made, has_torch_layer=has_torch)
    _add_torch(found.packages, made)
    for package in found.apt:
        made.add("apt", package)
    for model in found.models:
        _add_model(model, made)
    _add_service(found.service or (), found.comfyui or "ComfyUI", made)
    services = {str(each["name"]) for each in made.listed("services")}
    for check in found.checks:
        if check.service is None or check.service in services:
            made.add("checks", _check(check))
    return made


def _check(check: Check) -> Item:
    """A check of a plan as an item of a profile; what is as it is without a word is left out."""
    told: Item = {
        name: value
        for name, value in to_json(check).items()
        if value not in (None, [], {}) and name not in ("min_size_bytes", "when")
    }
    if check.min_size_bytes:
        told["min_size"] = check.min_size_bytes
    unsaid = {"level": "required", "min_count": 1}
    return {name: value for name, value in told.items() if unsaid.get(name) != value}


def _add_repo(repo: CapturedRepo, made: Converted, *, has_packages: bool) -> None:
    """One checkout; what it requires is in the packages already, if those could be listed."""
    if not repo.url or not repo.commit:
        made.unresolve(f"`{repo.path}` has no remote or no commit: add its repository under `repos:`")
        return
    item: Item = {"url": repo.url, "path": repo.path, "ref": repo.commit}
    if repo.has_submodules:
        item["submodules"] = True
    if repo.has_requirements and not has_packages:
        item["install"] = "requirements.txt"
    made.add_repo(item)
    if repo.is_changed:
        made.unresolve(f"`{repo.path}` has changes of its own: the profile brings the commit without them")


def _add_torch(packages: Sequence[str], made: Converted) -> None:
    """torch depends on the card: its version is kept, its build is chosen on the new instance."""
    versions = {
        name.lower(): version.partition("+")[0]
        for name, _, version in (each.partition("==") for each in packages)
    }
    if "torch" not in versions:
        return
    others = [f"{name}=={versions[name]}" for name in ("torchvision", "torchaudio") if name in versions]
    torch: Item = {"version": versions["torch"], **({"with": others} if others else {})}
    made.layers().insert(0, {"torch": torch})


def _add_model(model: CapturedModel, made: Converted) -> None:
    if not model.url:
        made.unresolve(
            f"the model `{model.path}` ({model.size_bytes} bytes, sha256 {model.sha256}) has no known source: "
            "add it under `downloads:`"
        )
        return
    item: Item = {"url": model.url, "path": model.path, "size": model.size_bytes, "sha256": model.sha256}
    if model.mirrors:
        item["mirrors"] = list(model.mirrors)
    if model.level != "required":
        item["level"] = model.level
    made.add_download(item)


def _add_service(words: Sequence[str], directory: str, made: Converted) -> None:
    """The service by the words of its process; `main.py` is found by its name, wherever it was started."""
    script = next((number for number, word in enumerate(words) if word.rpartition("/")[2] == "main.py"), None)
    if script is None:
        made.unresolve("ComfyUI does not run there: its service is not in the profile")
        return
    arguments = [*words[:script], "main.py", *words[script + 1 :]]
    given = dict(pairwise(arguments)).get("--port", "")
    port = given if _PORT.fullmatch(given) else "8188"
    made.add(
        "services",
        {
            "name": "comfyui",
            "run": ["python", *arguments],
            "directory": directory,
            "ready": {"url": f"http://127.0.0.1:{port}/system_stats", "within": "10m"},
            "restart": "on_failure",
            "level": "critical",
        },
    )
