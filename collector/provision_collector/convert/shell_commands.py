"""What single commands of a script bring: clones, downloads, packages. Each becomes an item, or a sentence that says what is open."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from .converted import COMFYUI, HUB_CACHE, repo_path
from .documents import Item
from .node_list import repository_of
from .shell_files import bucket, gdown, mv, python, tar, unzip
from .shell_git import git
from .shell_left import LOOKING, left
from .shell_lists import FILTERS, for_each, said
from .shell_options import joined, last, left_open, left_out, parsed, place_of
from .shell_packages import apt, pip
from .shell_values import Values
from .shell_walk import Found
from .shell_words import Simple

Command = Callable[[list[str], Simple, Values], list[Found]]
_ADDRESS = re.compile(r"(https?|hf|s3|gs|ftp)://|git@|ssh://")
_VERSION = re.compile(r"[\d.]*$")
_PREFIXES = (
    "sudo",
    "env",
    "exec",
    "command",
    "nohup",
    "time",
    "then",
    "do",
    "else",
    "!",
    "nice",
    "eval",
    "builtin",
)
_WITH_TIME = ("timeout", "retry")


def on_command(words: list[str], command: Simple, values: Values) -> list[Found]:
    """What one command brings, its words expanded."""
    while words and (words[0] in _PREFIXES or re.fullmatch(r"[A-Za-z_]\w*=.*", words[0], re.S)):
        words = words[1:]
    if len(words) > 2 and posixpath.basename(words[0]) in _WITH_TIME:
        words = words[2:]
    if not words:
        return []
    name = posixpath.basename(words[0])
    lines, values.piped = values.piped, []
    if name in ("echo", "printf"):
        return said(name, words[1:], command, values)
    if name in ("xargs", "parallel"):
        return for_each(
            words, lines or (command.text or "").splitlines(), lambda each: on_command(each, command, values)
        )
    if name in FILTERS and command.is_piped:
        values.piped = lines
        return []
    if name == "popd" and values.left:
        values.folder = values.left.pop()
        return []
    if name in ("cd", "pushd") and len(words) > 1:
        if name == "pushd":
            values.left.append(values.folder)
        values.folder = joined(values.folder, words[-1])
        return []
    if name == "set" and "--" in words:
        values.arguments = words[words.index("--") + 1 :]
        return []
    if re.match(r"python[\d.]*$|\$\{?PY", name) and words[1:3] == ["-m", "pip"]:
        return pip(["pip", *words[3:]], command, values)
    if re.match(r"python[\d.]*$|\$\{?PY", name):
        return python(words, command, values, _hf) or left(words, command)
    if name == "uv" and words[1:2] == ["pip"]:
        return pip(["pip", *words[2:]], command, values)
    if re.fullmatch(r"pip[\d.]*", name) or re.match(r"\$\{?\w*PIP\w*\}?$", name):
        return pip(words, command, values)
    known = _COMMANDS.get(name)
    if known is not None:
        return known(words, command, values)
    if (name in _INSTALLERS and _INSTALLING.intersection(words[1:4])) or tuple(words[:2]) in _BRINGING:
        return [
            left_open(
                f"`{' '.join(words)[:160]}` installs what no step of a profile does: write it as a command",
                command,
            )
        ]
    return [] if name in LOOKING else left(words, command)


# -- files


def _download(
    url: str, path: str | None, command: Simple, values: Values, *, folder: str | None = None
) -> Found:
    """A download of *url* to *path*, or into *folder*; what cannot be told is open."""
    if "$" in url.split("?")[0]:
        return left_open(f"`{url}` is no address that can be told without running the script", command)
    name = posixpath.basename(urlsplit(url).path)
    wanted = path if path else posixpath.join(folder or ".", name if re.search(r"\.\w{2,12}$", name) else "")
    where = place_of(wanted, values.folder)
    if where is None:
        return left_out(f"`{url}`", wanted or name, command)
    if where.endswith("/") and path and not path.endswith("/"):
        where = where.rstrip("/")
    return Found("download", {"url": url, "path": where}, command.line)


def _is_address(word: str) -> bool:
    return _ADDRESS.match(word) is not None or word.startswith(("$", "www."))


def _into_a_program(words: list[str], command: Simple, urls: list[str]) -> list[Found]:
    what = f"what `{' '.join(words)[:120]}` brings goes into another program: do that with a command"
    return [left_open(what, command)] if urls else []


def _wget(words: list[str], command: Simple, values: Values) -> list[Found]:
    options, rest = parsed(words[1:], _WGET_LONG, "OPotTUeiABDlQwS")
    path = last(options, "-O", "--output-document")
    if path == "-" and command.into and not command.is_piped:
        path = command.into
    folder = last(options, "-P", "--directory-prefix")
    listed = _listed(last(options, "-i", "--input-file"), command, values)
    urls = [word for word in (*rest, *listed.split()) if _is_address(word)]
    if path == "/dev/null" or "--spider" in options:
        return []  # it is asked whether it is there
    if path == "-" or command.is_piped:
        return _into_a_program(words, command, urls)
    if path:
        path = values.text(path)
    return [_download(url, path if len(urls) == 1 else None, command, values, folder=folder) for url in urls]


def _curl(words: list[str], command: Simple, values: Values) -> list[Found]:
    options, rest = parsed(words[1:], _CURL_LONG, "oHduXAbemTCrwxKFYyEt")
    folder = last(options, "--output-dir")
    paths = [*options.get("-o", []), *options.get("--output", [])]
    urls = [word for word in [*rest, *options.get("--url", [])] if _is_address(word)]
    if not paths and command.into and not command.is_piped:
        paths = [values.text(command.into)]
    if paths == ["/dev/null"] or "-I" in options or "--head" in options:
        return []  # it is asked whether it is there
    if command.is_piped or paths == ["-"]:
        return _into_a_program(words, command, urls)
    has_names = "-O" in options or "--remote-name" in options or "--remote-name-all" in options
    found = []
    for number, url in enumerate(urls):
        path = paths[number] if number < len(paths) else None
        if path is None and not has_names:
            found.append(left_open(f"`{url}` is asked, and its answer is kept nowhere", command))
        else:
            found.append(
                _download(
                    url,
                    posixpath.join(folder, path) if folder and path else path,
                    command,
                    values,
                    folder=folder,
                )
            )
    return found


def _aria2c(words: list[str], command: Simple, values: Values) -> list[Found]:
    options, rest = parsed(words[1:], _ARIA_LONG, "odxskjmtil")
    folder, name = last(options, "-d", "--dir"), last(options, "-o", "--out")
    urls = [word for word in rest if _is_address(word)]
    if not urls:
        return _aria2c_list(
            _listed(last(options, "-i", "--input-file"), command, values), command, values, folder
        )
    path = posixpath.join(folder or "", name) if name else None
    found = _download(urls[0], path, command, values, folder=folder)
    if found.kind == "download" and urls[1:]:
        found = Found("download", {**found.item, "mirrors": urls[1:]}, found.line)
    return [found]


def _listed(file: str | None, command: Simple, values: Values) -> str:
    """The text of the list *file*, if the script writes it itself."""
    if file is None:
        return ""
    return values.text(f'"{command.text}"') if command.text else values.written.get(file, "")


def _aria2c_list(text: str, command: Simple, values: Values, folder: str | None) -> list[Found]:
    """The addresses of a list that aria2c reads: each with its options in the lines after it."""
    found: list[Found] = []
    blocks = re.split(r"\n(?=\S)", text) if text else ()
    for block in blocks:
        url, *options = [line.strip() for line in block.strip().splitlines()] or [""]
        told = dict(option.partition("=")[::2] for option in options)
        where, name = told.get("dir", folder), told.get("out")
        if _is_address(url):
            path = posixpath.join(where or "", name) if name else None
            found.append(_download(url.split("\t")[0], path, command, values, folder=where))
    return found


def _hf(words: list[str], command: Simple, values: Values) -> list[Found]:
    if "download" not in words[1:3]:
        return []
    options, rest = parsed(words[words.index("download") + 1 :], _HF_LONG, "")
    if rest and rest[0].startswith(("hf://", "https://huggingface.co/")):
        owner, _, inside = re.sub(r"^(hf:/|https://huggingface\.co)/", "", rest[0]).partition("/")
        name, _, file = inside.partition("/")
        rest = [f"{owner}/{name}", *([re.sub(r"^(resolve|blob)/[^/]+/", "", file)] if file else rest[1:])]
    if not rest or "$" in rest[0] or not re.fullmatch(r"[\w.-]+/[\w.-]+", rest[0]):
        return [
            left_open(
                f"`{' '.join(words)[:160]}` names no repository that can be told without running the script",
                command,
            )
        ]
    repository, files = rest[0], rest[1:]
    if last(options, "--repo-type") not in (None, "", "model"):
        return [
            left_open(
                f"`{repository}` is a {last(options, '--repo-type')} of Hugging Face: add its files under `downloads:`",
                command,
            )
        ]
    revision = last(options, "--revision")
    base = f"hf://{repository}" + (f"@{revision}" if revision and revision != "main" else "")
    wanted = last(options, "--local-dir")
    folder = place_of(f"{wanted.rstrip('/')}/", values.folder) if wanted else f"{COMFYUI}/models/hub/"
    if wanted and folder is None:
        return [left_out(f"`{base}`", wanted, command)]
    if files:
        return [
            Found("download", {"url": f"{base}/{file}", "path": f"{folder}{file}"}, command.line)
            for file in files
        ]
    item: Item = {"url": base, "path": folder if wanted else HUB_CACHE}
    if not wanted:
        item["layout"] = "hub"
    for option, key in (("--include", "include"), ("--exclude", "exclude")):
        if options.get(option):
            item[key] = options[option]
    return [Found("download", item, command.line)]


def _comfy(words: list[str], command: Simple, values: Values) -> list[Found]:
    """`comfy model download` and `comfy node install`."""
    options, rest = parsed(words[1:], ("--url", "--relative-path", "--filename", "--workspace"), "")
    url = last(options, "--url")
    if rest[:2] == ["model", "download"] and url:
        place = posixpath.join("/workspace", COMFYUI, last(options, "--relative-path") or "models")
        name = last(options, "--filename")
        return [_download(url, posixpath.join(place, name) if name else None, command, values, folder=place)]
    if rest[:2] == ["node", "install"]:
        known = [url for name in rest[2:] if (url := repository_of(name))]
        found = [Found("repo", {"url": url, "path": repo_path(url)}, command.line) for url in known]
        names = ", ".join(f"`{name}`" for name in rest[2:] if repository_of(name) is None)
        if not names:
            return found
        return [
            *found,
            left_open(
                f"the nodes {names} come from ComfyUI's registry: add their repositories under `repos:`",
                command,
            ),
        ]
    return []


def _cat(words: list[str], command: Simple, values: Values) -> list[Found]:
    if command.text is None or command.into is None:
        return []
    file, content = values.text(command.into), values.text('"' + command.text.replace('"', '\\"') + '"')
    values.write(file, content)
    where = place_of(file, values.folder)
    if where is None or where.endswith("/"):
        return [
            left_open(
                f"a text is written to `{command.into}`, which is outside of the workspace or not known",
                command,
            )
        ]
    return [Found("file", {"path": where, "content": content}, command.line)]


_COMMANDS: dict[str, Command] = {
    "wget": _wget, "wget2": _wget, "curl": _curl, "aria2c": _aria2c, "hf": _hf, "huggingface-cli": _hf, "git": git,
    "apt": apt, "apt-get": apt, "cat": _cat, "comfy": _comfy, "comfy-cli": _comfy,
    "mv": mv, "unzip": unzip, "tar": tar, "aws": bucket, "gsutil": bucket, "gcloud": bucket, "gdown": gdown,
}  # fmt: skip
_INSTALLERS = (
    "conda",
    "mamba",
    "micromamba",
    "npm",
    "yarn",
    "pnpm",
    "cargo",
    "go",
    "snap",
    "brew",
    "dnf",
    "yum",
    "apk",
    "gem",
    "pipx",
    "poetry",
)
_INSTALLING = frozenset(("install", "create", "add", "ci", "sync", "env"))
_BRINGING = (
    ("uv", "sync"),
    ("uv", "add"),
    ("ollama", "pull"),
    ("add-apt-repository", "-y"),
    ("dpkg", "-i"),
    ("gh", "repo"),
)
"""Commands that bring something for which a profile has no items."""
_WGET_LONG = (
    "--output-document", "--directory-prefix", "--header", "--tries", "--timeout", "--user-agent", "--output-file", "--post-data",
    "--user", "--password", "--limit-rate", "--wait", "--waitretry", "--read-timeout", "--progress", "--input-file", "--execute",
)  # fmt: skip
_CURL_LONG = (
    "--output", "--output-dir", "--header", "--data", "--request", "--user-agent", "--retry", "--retry-delay", "--max-time",
    "--connect-timeout", "--user", "--url", "--write-out", "--proxy", "--form", "--cookie", "--referer", "--range", "--speed-limit", "--speed-time",
)  # fmt: skip
_ARIA_LONG = (
    "--out", "--dir", "--header", "--max-connection-per-server", "--split", "--min-split-size", "--max-concurrent-downloads",
    "--timeout", "--max-tries", "--retry-wait", "--user-agent", "--input-file", "--log", "--checksum",
)  # fmt: skip
_HF_LONG = (
    "--local-dir",
    "--revision",
    "--include",
    "--exclude",
    "--repo-type",
    "--token",
    "--cache-dir",
    "--max-workers",
    "--local-dir-use-symlinks",
)
