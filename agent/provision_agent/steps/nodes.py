"""Does a node of ComfyUI import? Asked before the service starts, instead of read from its log afterwards.

The node is imported in a child of the environment's own python, as ComfyUI would import it, within a bound, and
without a network to install or fetch anything. A missing module is an error that names the requirement; any other
trouble is a warning, since a node may need the running server.
"""

from __future__ import annotations

import glob
import json
import os
import re
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from ..contract.failures import Failure
from ..contract.plan import IF_PRESENT, Repo, Service
from ..host import answers, probe
from ..run.context import Context
from .python import requirements
from .python.venv import Venv

IMPORT_S = 60.0
ONE_MORE_S = 30.0
"""For each further node, when the first has imported what all of them need."""
FOLDER = "custom_nodes"
_OFFLINE = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
_NEEDS_THE_SERVER = re.compile(r"AttributeError: .*PromptServer")
"""What nodes that add routes say when nobody serves."""


def is_node(repo: Repo, context: Context) -> bool:
    """True when *repo* is checked out as a node, a package in ``custom_nodes``."""
    folder = _folder(repo, context)
    is_package = os.path.isfile(os.path.join(folder, "__init__.py"))
    return is_package and os.path.basename(os.path.dirname(folder)) == FOLDER


def has_requirements(repo: Repo, context: Context) -> bool:
    """True when something is to be installed for *repo*, which is checked out; a file that must be there and is not counts."""
    name = repo.requirements
    return name is not None and (
        repo.install != IF_PRESENT or os.path.isfile(os.path.join(_folder(repo, context), name))
    )


def application_of(repo: Repo, context: Context) -> str:
    """The folder of the ComfyUI that loads the node *repo*."""
    return os.path.dirname(os.path.dirname(_folder(repo, context)))


def arguments_of(service: Service) -> Tuple[str, ...]:
    """The arguments that the program of *service* gets: what follows the first file of Python among its words."""
    return tuple(service.run[_script_of(service) + 1 :])


def folder_of(service: Service, context: Context) -> str:
    """The folder of the program of *service*: where its file of Python lies, else where it runs."""
    at = _script_of(service)
    script = os.path.dirname(service.run[at]) if at < len(service.run) else ""
    return os.path.normpath(os.path.join(context.workspace, service.directory, script))


def _script_of(service: Service) -> int:
    words = enumerate(service.run)
    return next((number for number, word in words if word.endswith(".py")), len(service.run))


def by_application(
    repos: Sequence[Repo], service_of: Callable[[Repo], Optional[Service]], context: Context
) -> List[Tuple[Tuple[str, ...], List[Repo]]]:
    """*repos*, nodes that services load, in the groups that `import_all` takes, each with its arguments."""
    together: Dict[Tuple[str, Tuple[str, ...]], List[Repo]] = {}
    for repo in repos:
        service = service_of(repo)
        arguments = () if service is None else arguments_of(service)
        together.setdefault((application_of(repo, context), arguments), []).append(repo)
    return [(arguments, group) for (_, arguments), group in together.items()]


def import_all(
    repos: Sequence[Repo], venv: Venv, context: Context, arguments: Sequence[str] = ()
) -> Dict[str, answers.Node]:
    """Import *repos*, nodes of one ComfyUI, one after the other as that does, in one child of the environment's python.

    Args:
        arguments: Of the service that will load them; nodes and ComfyUI read them when they are imported.

    Returns:
        What became of each, by its path. Where the child dies of one, each is imported by itself.

    Raises:
        Failure: the run was ended.
    """
    folders = {_folder(repo, context): repo.path for repo in repos}
    try:
        answer = probe.ask(
            venv.python,
            answers.Nodes,
            application_of(repos[0], context),
            json.dumps(list(folders)),
            *arguments,
            timeout_s=context.bounded(IMPORT_S + ONE_MORE_S * (len(repos) - 1)),
            cancelled=context.cancelled,
            environment=_OFFLINE,
        )
    except Failure as failure:
        if context.cancelled.is_set():
            raise
        if len(repos) == 1:
            return {repos[0].path: answers.Node(failure.message)}
        return {repo.path: import_all([repo], venv, context, arguments)[repo.path] for repo in repos}
    unknown = answers.Node("it was not tried")
    return {path: answer.imports.get(folder, unknown) for folder, path in folders.items()}


def check(repo: Repo, answer: answers.Node, venv: Venv, context: Context, item: str) -> None:
    """Report ``package_finished`` for *item* when the node *repo* was imported; a warning does not stop that.

    Args:
        answer: What became of it, as `import_all` says.

    Raises:
        Failure: `missing` when a module is not there, with the requirement that should have brought it.
    """
    if answer.missing is not None:
        raise _missing(answer, repo, _folder(repo, context), application_of(repo, context), venv)
    if _NEEDS_THE_SERVER.match(answer.error):
        message = "it adds to the running server: whether it loads is seen when that runs"
        context.report("package_progress", item=item, level=repo.level, message=message)
    elif answer.error:
        message = f"the node {repo.path} cannot be imported by itself: {answer.error}"
        context.report("warning", message=message)
    context.report("package_finished", item=item, level=repo.level, duration_s=0.0)


def _folder(repo: Repo, context: Context) -> str:
    return os.path.normpath(os.path.join(context.workspace, repo.path))


def _missing(answer: answers.Node, repo: Repo, folder: str, application: str, venv: Venv) -> Failure:
    """The failure for a module that is not there, with what to do about it."""
    module = str(answer.missing)
    problem = f"the node cannot be imported: there is no module `{module}`"
    if answer.is_own:
        return Failure(
            "missing",
            f"{problem}, which is a file of its own",
            case="node_submodule",
        )
    if _is_of(module, application):
        return Failure(
            "missing",
            f"{problem} in this ComfyUI",
            case="node_version",
        )
    found = _requirement(module, folder, application)
    if found is None:
        return Failure(
            "missing",
            f"{problem}, and no requirements file of it asks for one",
            case="node_package",
            about={"module": module},
        )
    path, number, line = found
    name = os.path.relpath(path, folder)
    is_unasked = repo.install is None and path.startswith(folder + os.sep)
    return Failure(
        "missing",
        f"{problem}, which `{line}` brings (line {number} of {name})",
        case="node_install" if is_unasked else "node_requirement",
        about={"name": name, "python": venv.python, "line": line},
        requirement=line,
    )


def _is_of(module: str, application: str) -> bool:
    """True when *module* would be a part of ComfyUI itself."""
    top = os.path.join(application, module.split(".")[0])
    return os.path.isdir(top) or os.path.isfile(f"{top}.py")


def _requirement(module: str, folder: str, application: str) -> Optional[Tuple[str, int, str]]:
    """Path, number and text of the line that brings *module*: the node's own files first, then ComfyUI's."""
    files = sorted(glob.glob(os.path.join(glob.escape(folder), "requirements*.txt")))
    for path in [*files, os.path.join(application, "requirements.txt")]:
        found = requirements.line_for(module, path)
        if found is not None:
            return (path, *found)
    return None
