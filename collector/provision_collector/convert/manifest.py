"""Vast.ai's provisioning manifests (``version: 1`` YAML) as profiles. Every key without a counterpart is named."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping

from provision_agent.contract.source_kinds import SOURCE_KINDS

from .converted import COMFYUI, HUB_CACHE, Converted, hub_repository, inside_workspace, name_of
from .documents import Item, mapping, text
from .manifest_parts import argv, listed
from .shell_commands import on_command
from .shell_packages import APT_NAME
from .shell_urls import URL, file_of
from .shell_values import Values
from .shell_walk import Walk
from .shell_words import Simple, read

HOSTS = {
    service: SOURCE_KINDS[kind].hosts[0]
    for service, kind in (("huggingface", "hugging_face"), ("civitai", "civitai"))
}
"""The services that a manifest knows, and the host of each, with the usual name of its token."""
CONDITIONS = {"hf_token_valid": "huggingface", "civitai_token_valid": "civitai"}
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::[-=]([^}]*))?\}")
_INSTALLING = frozenset(("pip", "pip3", "uv", "python", "python3", "apt", "apt-get", "sudo", "cd", "export"))
_TORCH = re.compile(r"(torch|torchvision|torchaudio|xformers|triton)\b")


def from_manifest(data: Mapping[str, object], name: str) -> Converted:
    """Make a profile of a manifest.

    Args:
        data: Its YAML values.
        name: What it is called: the profile's name, and in messages.
    """
    return _Manifest(data, name).convert()


class _Manifest:
    def __init__(self, data: Mapping[str, object], name: str) -> None:
        self._made = Converted({"version": 1, "name": name_of(name), "description": f"From {name}"})
        self._data = mapping(self._expanded(data))
        self._secrets: dict[str, str] = {}

    def convert(self) -> Converted:
        known: dict[str, Callable[[object], None]] = {
            "version": lambda value: None,
            "settings": self._settings,
            "auth": self._auth,
            "apt_packages": self._apt,
            "pip_packages": self._pip,
            "conda_packages": self._conda,
            "extensions": self._extensions,
            "git_repos": self._repos,
            "downloads": self._downloads,
            "conditional_downloads": self._conditional,
            "services": self._services,
            "write_files": self._files,
            "write_files_late": self._files,
            "post_commands": lambda commands: self._commands(commands, "post_commands", "."),
            "env_merge": self._env_merge,
        }
        for key in ("auth", *(key for key in self._data if key != "auth")):
            value = self._data.get(key)
            if value and key in known:
                known[key](value)
            elif value:
                self._open(f"`{key}`", value)
        self._install_with_repos()
        return self._made

    def _install_with_repos(self) -> None:
        """A requirements file inside a checkout is installed when that is there, not before."""
        if "python" not in self._made.profile:
            return
        layers = self._made.layers()
        for repo in self._made.listed("repos"):
            folder = f"{repo['path']}/"
            inside = [
                layer for layer in layers if text(mapping(layer).get("requirements")).startswith(folder)
            ]
            if len(inside) == 1:
                layers.remove(inside[0])
                repo["install"] = text(mapping(inside[0])["requirements"]).removeprefix(folder)

    def _expanded(self, value: object) -> object:
        """*value* with ``${VAR:-default}`` as its default: whose environment it would come from is not known here."""
        if isinstance(value, dict):
            return {key: self._expanded(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._expanded(item) for item in value]
        if not isinstance(value, str):
            return value

        def fill(match: re.Match[str]) -> str:
            name, default = match[1], match[2]
            if name in ("WORKSPACE", "DATA_DIRECTORY"):
                return "/workspace"
            if default is not None:
                self._made.unresolve(f"`{match[0]}` is taken as its default, `{default}`")
                return default
            self._made.unresolve(f"`{match[0]}` has no default: write its value into the profile")
            return match[0]

        return _VARIABLE.sub(fill, value)

    # -- the parts

    def _settings(self, settings: object) -> None:
        for key, value in self._keys(settings, "settings"):
            if key == "venv":
                self._made.part("python")["venv"] = inside_workspace(text(value)) or text(value)
            elif key == "retry" and isinstance(value, dict):
                if isinstance(value.get("max_attempts"), int):
                    self._made.part("limits")["attempts"] = value["max_attempts"]
                self._rest("settings.retry", value, {"max_attempts"})
            elif key == "concurrency" and isinstance(value, dict):
                if isinstance(value.get("hf_downloads"), int):
                    self._made.part("limits")["hosts"] = {
                        HOSTS["huggingface"].name: {"files": value["hf_downloads"]}
                    }
                self._rest("settings.concurrency", value, {"hf_downloads"})
            else:
                self._open(f"`settings.{key}`", value)

    def _auth(self, auth: object) -> None:
        for service, about in self._keys(auth, "auth"):
            name = text(mapping(about).get("token_env"))
            if service not in HOSTS or not name:
                self._open(f"`auth.{service}`", about)
                continue
            self._secret(service, name)
            self._rest(f"auth.{service}", mapping(about), {"token_env"})

    def _apt(self, packages: object) -> None:
        for package in listed(packages):
            if APT_NAME.fullmatch(str(package)):
                self._made.add("apt", str(package))
            else:
                self._open("`apt_packages`", package)

    def _pip(self, blocks: object) -> None:
        single = ({"packages": [block]} if isinstance(block, str) else block for block in listed(blocks))
        for number, block in self._blocks(list(single), "pip_packages"):
            layers = self._made.layers()
            if block.get("packages"):
                packages = [str(package) for package in listed(block["packages"])]
                known = [
                    package
                    for package in packages
                    if re.match(r"[A-Za-z0-9]", package) and not re.search(r"[$`\n]", package)
                ]
                for package in packages:
                    if package not in known:
                        self._open(f"`pip_packages[{number}].packages`", package)
                if known:
                    layers.append(known)
            for file in listed(block.get("requirements")):
                path = inside_workspace(str(file))
                if path is None:
                    self._open(f"`pip_packages[{number}].requirements`", file)
                else:
                    layers.append({"requirements": path})
            if block.get("venv"):
                venv = text(block["venv"])
                venv = inside_workspace(venv) or venv
                if self._made.part("python").setdefault("venv", venv) != venv:
                    self._made.unresolve(
                        f"`pip_packages[{number}].venv`: a profile has one environment: what was for `{venv}` is put into that"
                    )
            used = {"packages", "requirements", "tool", "venv"}
            if re.fullmatch(r"--torch-backend[= ]auto", " ".join(map(str, listed(block.get("args"))))):
                used.add("args")  # torch is taken in the build that fits the card, always
            self._rest(f"pip_packages[{number}]", block, used)

    def _conda(self, blocks: object) -> None:
        several = [blocks] if isinstance(blocks, dict) else blocks
        for number, block in self._blocks(several, "conda_packages"):
            names = ", ".join(f"`{package}`" for package in listed(block.get("packages")))
            self._made.unresolve(
                f"`conda_packages[{number}]`: {names} would come from conda: add to `python.layers` or `apt` what you need of them"
            )
            self._rest(f"conda_packages[{number}]", block, {"packages"})

    def _extensions(self, blocks: object) -> None:
        for number, block in self._blocks(blocks, "extensions"):
            if block.get("enabled") is False:
                continue
            config = mapping(block.get("config"))
            home = inside_workspace(text(config.get("comfyui_dir")) or COMFYUI) or COMFYUI
            for workflow in map(str, listed(config.get("workflows"))):
                name = file_of(workflow)
                if "://" in workflow and name:
                    self._made.add_download(
                        {"url": workflow, "path": f"{home}/user/default/workflows/{name}"}
                    )
                self._made.unresolve(
                    f"`extensions[{number}]`: models and nodes of the workflow {workflow} are found out by the extension: get the file, and give "
                    "it to `provision profiles from-workflow`"
                )
            if not config.get("workflows"):
                self._open(f"`extensions[{number}]`", block)

    def _repos(self, repos: object) -> None:
        for number, repo in self._blocks(repos, "git_repos"):
            path = inside_workspace(str(repo.get("dest", "")))
            if path is None or not repo.get("url"):
                self._open(f"`git_repos[{number}]`", repo)
                continue
            made: Item = {"url": str(repo["url"]), "path": path}
            if repo.get("ref"):
                made["ref"] = str(repo["ref"])
            if repo.get("recursive", True):
                made["submodules"] = True
            self._made.add_repo(made)
            self._commands(listed(repo.get("post_commands")), f"git_repos[{number}].post_commands", path)
            used = {"url", "dest", "ref", "recursive", "post_commands", "pull_if_exists"}
            self._rest(f"git_repos[{number}]", repo, used)

    def _downloads(self, items: object) -> None:
        for number, item in enumerate(listed(items)):
            self._download(item, f"downloads[{number}]")

    def _download(self, item: object, where: str, **more: object) -> None:
        wanted = mapping(item)
        url, dest = str(wanted.get("url") or ""), str(wanted.get("dest") or "")
        path = inside_workspace(dest)
        if (
            repository := hub_repository(url)
        ) is not None:  # a whole one: into a folder, or into the hub's own cache
            url, path = repository, f"{path.rstrip('/')}/" if path is not None else None
            if not dest:
                path, more = HUB_CACHE, {**more, "layout": "hub"}
        if path is None or not url:
            self._open(f"`{where}`", item)
            return
        self._made.add_download({"url": url, "path": path, **more})
        self._rest(where, wanted, {"url", "dest"})

    def _conditional(self, blocks: object) -> None:
        for number, block in self._blocks(blocks, "conditional_downloads"):
            where = f"conditional_downloads[{number}]"
            service = CONDITIONS.get(str(block.get("when")))
            wanted, instead = listed(block.get("downloads")), listed(block.get("else_downloads"))
            if service is None:
                self._open(f"`{where}`", block)
                continue
            secret = self._secret(service)
            others = [mapping(item) for item in instead]
            is_paired = len(wanted) == len(others) and all(
                other.get("url") and inside_workspace(str(other.get("dest", ""))) for other in others
            )
            for number_, item in enumerate(wanted):
                if is_paired:  # a token that does not open the source is what a substitute is for
                    other = others[number_]
                    there = {"url": str(other["url"]), "path": inside_workspace(str(other["dest"]))}
                    self._download(item, where, substitute=there)
                else:
                    self._download(item, where, when={"secret": secret})
            if instead and not is_paired:
                self._open(f"`{where}.else_downloads`", instead)
            self._rest(where, block, {"when", "downloads", "else_downloads"})

    def _services(self, services: object) -> None:
        for number, service in self._blocks(services, "services"):
            where = f"services[{number}]"
            if not service.get("name") or not service.get("command"):
                self._open(f"`{where}`", service)
                continue
            directory = inside_workspace(str(service.get("workdir") or "/workspace"))
            made: Item = {
                "name": str(service["name"]),
                "run": argv(str(service["command"]), listed(service.get("pre_commands"))),
                "directory": directory or str(service["workdir"]),
                "restart": "on_failure",
                "start": "complete" if service.get("wait_for_provisioning", True) else "usable",
            }
            if service.get("environment"):
                pairs = self._keys(service["environment"], f"{where}.environment")
                made["environment"] = {key: str(value) for key, value in pairs}
            self._made.add("services", made)
            used = {"name", "command", "workdir", "environment", "wait_for_provisioning", "pre_commands"}
            self._rest(where, service, used)

    def _files(self, files: object) -> None:
        for _, file in self._blocks(files, "write_files"):
            path = inside_workspace(str(file.get("path", "")))
            if path is None:
                self._open("`write_files` outside the workspace", file.get("path"))
                continue
            made: Item = {"path": path, "content": str(file.get("content", ""))}
            if file.get("permissions"):
                made["mode"] = str(file["permissions"])
            self._made.add("files", made)
            self._rest("write_files", file, {"path", "content", "permissions"})

    def _commands(self, commands: object, where: str, directory: str) -> None:
        for number, command in enumerate(listed(commands)):
            if self._takes_as_items(str(command), directory):
                continue
            made: Item = {"name": f"{where} {number + 1}", "run": ["bash", "-c", str(command)]}
            if directory != ".":
                made["directory"] = directory
            self._made.add("commands", made)

    def _takes_as_items(self, command: str, directory: str) -> bool:
        """A command that only installs packages becomes what a profile has for that; False for any other."""
        script = read(command)
        walk = Walk(
            on_command, Values({"WORKSPACE": "/workspace"}, folder=posixpath.join("/workspace", directory))
        )
        walk.through(script)
        programs = {
            statement.words[0].text
            for statement in script.body
            if isinstance(statement, Simple) and statement.words
        }
        is_plain = all(isinstance(statement, Simple) for statement in script.body) and programs <= _INSTALLING
        kinds = {found.kind for found in walk.found}
        if not is_plain or not kinds or not kinds <= {"packages", "requirements", "apt"}:
            return False
        if any(
            _TORCH.match(text(each)) for found in walk.found for each in listed(found.item.get("packages"))
        ):
            return False  # which build it is to be, is the command's own matter
        for found in walk.found:
            if found.kind == "apt":
                self._made.add("apt", text(found.item["name"]))
            elif found.kind == "requirements":
                self._made.layers().append({"requirements": found.item["path"]})
            else:
                self._made.layers().append([*listed(found.item["options"]), *listed(found.item["packages"])])
        return True

    def _env_merge(self, names: object) -> None:
        for name, target in self._keys(names, "env_merge"):
            self._made.unresolve(
                f"`env_merge`: `${name}` would add to `{target}` when the instance starts: write its entries into the profile"
            )

    # -- help

    def _blocks(self, value: object, where: str) -> Iterator[tuple[int, Mapping[str, object]]]:
        """The mappings of a list, numbered; what is none is reported."""
        for number, block in enumerate(listed(value)):
            if isinstance(block, dict):
                yield number, block
            else:
                self._open(f"`{where}[{number}]`", block)

    def _keys(self, value: object, where: str) -> Iterator[tuple[str, object]]:
        if isinstance(value, dict):
            yield from ((str(key), item) for key, item in value.items())
        else:
            self._open(f"`{where}`", value)

    def _secret(self, service: str, name: str | None = None) -> str:
        """The secret that opens *service*; declared once."""
        if service not in self._secrets:
            self._secrets[service] = name or HOSTS[service].wants
            self._made.add_secret(self._secrets[service], HOSTS[service].name)
        return self._secrets[service]

    def _rest(self, where: str, block: Mapping[str, object], used: set[str]) -> None:
        for key, value in block.items():
            if key not in used and value not in (None, "", [], {}, False):
                self._open(f"`{where}.{key}`", value)

    def _open(self, what: str, value: object) -> None:
        told = str(value)
        shown = told if len(told) <= 120 else told[:117] + "…"
        lost = [url for url in URL.findall(told) if url not in shown]
        shown += f" (it names {', '.join(dict.fromkeys(lost))})" if lost else ""
        self._made.unresolve(f"{what} has no counterpart: {shown}")
