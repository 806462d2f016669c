"""What a running service itself says of what the plan wants: its log of nodes and failures, its classes, its models.

Nothing here believes what an installer or an import said before: the service that people will use decides.
"""

from __future__ import annotations

import http.client
import os
import re
from typing import Dict, Iterable, List, Optional, Sequence

from ..contract.failures import Failure
from ..contract.plan import Check, Ready, Repo, Service
from ..run.context import Context
from ..steps import nodes
from ..steps.checks import Found
from . import comfyui, log
from .files import ADOPTED, ServiceFiles
from .wait_ready import address_of

_MOST_NAMED = 8


def loads(service: Service, repo: Repo, context: Context) -> bool:
    """True when *repo* is a node that *service*, a ComfyUI, looks for: it lies in its folder of nodes."""
    folder, name = os.path.split(os.path.dirname(_path(context, repo.path)))
    if name != comfyui.FOLDER:
        return False
    return os.path.realpath(folder) == os.path.realpath(nodes.folder_of(service, context))


def lines_of(service: Service, context: Context) -> List[str]:
    """What *service* has said since its start; of one that somebody else started, what it tells itself."""
    files = ServiceFiles(service.name, context)
    if files.status().state != ADOPTED:
        return list(log.since_start(files.log_path))
    ready = address_of(service, files.status())
    return comfyui.said(comfyui.base_of(ready)) if ready is not None else []


def failed_nodes(service: Service, repos: Iterable[Repo], context: Context) -> Dict[str, Optional[Failure]]:
    """What the log of *service* says of each of *repos*, by path: why it did not load, or None when it did.

    A repository that the log does not speak of is left out.
    """
    files = ServiceFiles(service.name, context)
    imports = comfyui.imports_of(lines_of(service, context))
    found: Dict[str, Optional[Failure]] = {}
    for repo in repos:
        reason = imports.reason(_path(context, repo.path))
        if reason is not None:
            message = f"`{service.name}` did not load this node: {reason}"
            about = {"path": files.log_path}
            found[repo.path] = Failure("node_import", message, case="node_log", about=about, reason=reason)
        elif imports.has_loaded(_path(context, repo.path)):
            found[repo.path] = None
    return found


def require_clean_log(service: Service, context: Context) -> None:
    """Raises Failure: `service_log` when the log of *service* has a line that one of its `log_failures` finds."""
    patterns = [(text, _compiled(text)) for text in service.log_failures]
    if not patterns:
        return
    for line in lines_of(service, context):
        for text, pattern in patterns:
            if pattern.search(line):
                files = ServiceFiles(service.name, context)
                said = context.redact(line.strip())[:500]
                message = f"`{service.name}` says in its log: {said} (`log_failures`: `{text}`)"
                about = {"path": files.log_path}
                raise Failure("service_log", message, case="service_log", about=about, tail=files.tail())


def run_check(check: Check, services: Sequence[Service], context: Context) -> Found:
    """Ask the service of *check* for what that wants, and report ``check_passed`` or ``check_failed``.

    Returns:
        How many classes and models it offers of those, and the modules of the classes.

    Raises:
        Failure: `missing`; `found` is in its facts.
    """
    service = next((each for each in services if each.name == check.service), None)
    try:
        found = _look(check, service, context)
    except Failure as failure:
        failure.facts.setdefault("found", "nothing")
        context.report("check_failed", item=check.name, level=check.level, **failure.as_fields())
        failure.is_reported = True
        raise
    context.report("check_passed", item=check.name, level=check.level, found=found)
    return found


def _look(check: Check, service: Optional[Service], context: Context) -> str:
    name = check.service
    if service is None or service.ready is None:
        raise Failure("missing", f"nobody says where `{name}` answers", case="no_ready")
    status = ServiceFiles(service.name, context).status()
    ready = address_of(service, status)
    if not status.is_running or ready is None:
        raise Failure(
            "missing",
            f"`{name}` does not run, so nobody can be asked",
            case="service_down",
            found="no service",
        )
    base = comfyui.base_of(ready)
    try:
        classes = comfyui.classes(base, check.nodes)
    except (OSError, http.client.HTTPException) as error:
        raise Failure(
            "missing", f"`{name}` does not say what it offers: {error}", found="no answer"
        ) from None
    problems = []
    if classes.missing:
        problems.append(
            f"`{name}` does not offer {_named(classes.missing, 'class', 'classes')} in /object_info"
        )
    missing = [path for path in check.models if not _lists(path, service, ready, context)]
    if missing:
        problems.append(f"`{name}` does not list {_named(missing, 'model', 'models')}")
    if problems:
        few = len(classes.missing) + len(missing)
        all_ = len(check.nodes) + len(check.models)
        raise Failure("missing", "; ".join(problems), case="not_offered", found=f"{all_ - few} of {all_}")
    counted = [
        f"{len(names)} {what}"
        for names, what in ((check.nodes, "classes"), (check.models, "models"))
        if names
    ]
    return ", ".join(counted) + (f" of {', '.join(classes.modules)}" if classes.modules else "")


def _lists(path: str, service: Service, ready: Ready, context: Context) -> bool:
    """Does it list the model *path*, a file of its own folder of models, or a folder's name and a file in that?"""
    own = os.path.relpath(_path(context, path), os.path.join(nodes.folder_of(service, context), "models"))
    below = own
    if own.startswith(".."):
        below = os.path.normpath(path).rpartition("/models/")[2]
    folder, _, name = below.partition("/")
    listed = comfyui.models(comfyui.base_of(ready), folder)
    return listed is not None and name in listed


def _named(names: Sequence[str], one: str, many: str) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"the {one if len(names) == 1 else many} {shown}{more}"


def _compiled(text: str) -> "re.Pattern[str]":
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return re.compile(re.escape(text))


def _path(context: Context, path: str) -> str:
    return os.path.normpath(os.path.join(context.workspace, path))
