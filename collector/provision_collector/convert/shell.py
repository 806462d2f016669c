"""Provisioning scripts as profiles: arrays of addresses, and the clones, downloads and packages of their commands.

The script is walked through as it would go (`shell_walk`); nothing of it is run. What does not become an item is said, each address of it
at least.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from provision_agent.contract.source_kinds import SOURCE_KINDS, forms, host_of

from ..profile.urls import SECRET_PARAMETERS
from .converted import BASE, COMFYUI, MODELS, NODES, OF_THE_BASE, Converted, name_of, repo_path
from .documents import Item, items
from .shell_commands import on_command
from .shell_options import place_of
from .shell_values import Values
from .shell_walk import Found, Walk
from .shell_words import Simple, read

FOLDERS = {
    "CHECKPOINT": "checkpoints", "UNET": "diffusion_models", "DIFFUSION": "diffusion_models", "LORA": "loras",
    "VAE": "vae", "ESRGAN": "upscale_models", "UPSCALE": "upscale_models", "UPSCALER": "upscale_models",
    "CONTROLNET": "controlnet", "CLIP": "text_encoders", "TEXT_ENCODER": "text_encoders", "CLIP_VISION": "clip_vision",
    "ANIMATEDIFF": "animatediff_models", "EMBEDDING": "embeddings", "IPADAPTER": "ipadapter", "SAM": "sams",
    "STYLE": "style_models", "LATENT_UPSCALE": "latent_upscale_models", "AUDIO_ENCODER": "audio_encoders",
    "ULTRALYTICS_BBOX": "ultralytics/bbox", "ULTRALYTICS_SEGM": "ultralytics/segm",
}  # fmt: skip
"""By an array's name without ``_MODELS``, the folder under ComfyUI/models."""
OTHER_FOLDERS = {"WORKFLOWS": f"{COMFYUI}/user/default/workflows", "INPUT": f"{COMFYUI}/input"}

_ADDRESS = re.compile(rf"({'|'.join(forms())}|git|ssh)[:@]")
_URL = re.compile(r"(?:https?|git|ssh)://[^\s\"'`|<>;)(\\]+")
_HERE = re.compile(r"https?://(localhost|127\.|0\.0\.0\.0|\[::1\])")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+$")
_TORCH = re.compile(r"(torch|torchvision|torchaudio)([=<>!~].*)?$")
_WORKSPACE = {"WORKSPACE": "/workspace", "DATA_DIRECTORY": "/workspace", "HOME": "/root", "USER": "root"}
_MOST_OPEN = 200


def from_script(text: str, name: str) -> Converted:
    """Make a profile of a shell script.

    Args:
        text: The script; nothing of it is run.
        name: What it is called: the profile's name, and in messages.
    """
    made = Converted({"version": 1, "name": name_of(name), "description": f"From {name}", "extends": BASE})
    script = read(text)
    walk = Walk(on_command, Values(dict(_WORKSPACE), folder="/workspace"))
    walk.through(script)
    for array in script.broken:
        made.unresolve(f"the array `{array}` has no end")
    if walk.is_cut:
        made.unresolve(
            "the script goes on for longer than anybody follows: what its end brings is not in the profile"
        )
    _Making(walk, made).make()
    for sentence in walk.said:
        made.unresolve(_without_tokens(sentence))
    _ask_for_tokens(made)
    _say_other_addresses(text, walk.values, made)
    made.unresolve(
        "only the script's arrays, clones, downloads and packages were read: what its code does besides is not in the profile"
    )
    return made


class _Making:
    """What a walk has found, as items: arrays whose name says their folder first, then the commands, then other arrays."""

    def __init__(self, walk: Walk, made: Converted) -> None:
        self._walk = walk
        self._made = made
        self._known: set[str] = set()
        self._seen = 0

    def make(self) -> None:
        later: list[tuple[str, str]] = []
        for found in self._walk.found:
            if found.kind == "entry":
                array, entry = str(found.item["name"]), str(found.item["text"])
                if not self._add_entry(array, entry):
                    later.append((array, entry))
        for found in self._walk.found:
            self._add(found)
        self._add_later(later)
        self._drop_what_collides()

    def _add_later(self, later: list[tuple[str, str]]) -> None:
        for array, entry in later:
            address = next((part for part in _parts(entry) if _ADDRESS.match(part)), None)
            if address is None and not _says_repository(array, entry):
                continue
            if address is None or not self._is_known(address):
                self._add_elsewhere(array, entry)

    def _add_entry(self, array: str, entry: str) -> bool:
        """An entry of an array whose name says what is in it; False for any other."""
        kind, upper = _kind_of(array), array.upper()
        parts = _parts(entry)
        urls = [_without_token(part) for part in parts if _ADDRESS.match(part)]
        names = [part for part in parts if part and not _ADDRESS.match(part)]
        if upper in ("NODES", "CUSTOM_NODES") and urls:
            self._made.add_repo(
                {"url": urls[0], "path": repo_path(urls[0]), "install": "if_present", **_mirrors(urls)}
            )
        elif upper in ("APT_PACKAGES", "PIP_PACKAGES"):
            if "$" in entry:
                return False
            program = ["apt-get"] if upper == "APT_PACKAGES" else ["pip"]
            for found in on_command([*program, "install", *entry.split()], Simple([], 1), Values()):
                self._add(found)
        elif kind is None or (names and _is_place(names[-1])):
            return False
        elif not urls or "$" in "".join(urls):
            self._leave_out(array, entry)
        else:
            self._add_model(kind, names, urls)
        return True

    def _leave_out(self, array: str, entry: str) -> None:
        self._made.unresolve(
            f"`{array}`: `{_shown(entry)}` is no address that can be told without running the script"
        )

    def _add_model(self, folder: str, names: list[str], urls: list[str]) -> None:
        path = f"{folder}/{names[-1] if names else _file_of(urls[0])}"
        self._made.add_download({"url": urls[0], "path": path, **_mirrors(urls)})

    def _add_elsewhere(self, array: str, entry: str) -> None:
        """An entry that says itself where it goes, or that nothing of the script takes up."""
        parts = _parts(entry)
        urls = [_without_token(part) for part in parts if _ADDRESS.match(part)]
        places = [
            place
            for part in parts
            if _is_place(part) and (place := place_of(part)) is not None and not _ADDRESS.match(part)
        ]
        names = [part for part in parts if part and not _ADDRESS.match(part) and not _is_place(part)]
        if not urls and _says_repository(array, entry):
            file = next(
                (part for part in parts[1:] if re.search(r"\.\w{2,12}$", part) and "$" not in part), None
            )
            urls = [f"hf://{parts[0]}" + (f"/{file}" if file else "")]
            names = [name for name in names if name != file]
            places = [
                place for part in parts[1:] if part != file and _is_place(part) and (place := place_of(part))
            ]
        is_repo = re.search(r"REPO|NODES|EXTENSION", array.upper()) is not None or any(
            url.endswith(".git") for url in urls
        )
        if not urls or "$" in urls[0]:
            self._leave_out(array, entry)
        elif is_repo:
            place = places[0].rstrip("/") if places else repo_path(urls[0])
            ref = next((name for name in names if "$" not in name), None)
            self._made.add_repo(
                {"url": urls[0], "path": place, **({"ref": ref} if ref else {}), "install": "if_present"}
            )
        elif places:
            place = f"{places[0]}{_file_of(urls[0])}" if places[0].endswith("/") else places[0]
            if not posixpath.splitext(place)[1] and not place.endswith("/"):
                place = f"{place}/{names[-1] if names else _file_of(urls[0])}"
            self._made.add_download({"url": urls[0], "path": place, **_mirrors(urls)})
        elif (kind := _kind_of(array)) is not None:
            self._add_model(kind, names, urls)
        else:
            self._made.unresolve(
                f"`{array}` is no array whose folder is known: `{_shown(entry)}` is left out"
            )

    def _add(self, found: Found) -> None:
        item = found.item
        if found.kind == "download":
            url = _without_token(str(item["url"]))
            if not self._is_known(url):
                mirrors = [_without_token(str(mirror)) for mirror in items(item.get("mirrors"))]
                self._made.add_download({**item, "url": url, **({"mirrors": mirrors} if mirrors else {})})
        elif found.kind == "repo":
            if not self._is_known(str(item["url"])):
                self._made.add_repo(
                    {**item, **({"install": "if_present"} if "custom_nodes" in str(item["path"]) else {})}
                )
        elif found.kind == "ref":
            self._settle_repo(
                str(item["path"]), {key: item[key] for key in ("ref", "submodules") if key in item}
            )
        elif found.kind == "apt":
            self._made.add("apt", str(item["name"]))
        elif found.kind == "packages":
            self._add_packages(
                [str(each) for each in items(item["packages"])],
                [str(each) for each in items(item["options"])],
            )
        elif found.kind == "requirements":
            self._add_requirements(str(item["path"]))
        elif found.kind == "file":
            self._made.add("files", {"path": item["path"], "content": item["content"]})
        elif found.kind == "open":
            self._made.unresolve(_without_tokens(str(item["text"])))

    def _drop_what_collides(self) -> None:
        """No profile has a file where another item has a file or a folder: the first stays, the other is said."""
        repos = [*OF_THE_BASE, *(str(repo["path"]) for repo in self._made.listed("repos"))]
        folders = {each for path in repos for each in _with_parents(f"{path}/x")[1:]}
        files: set[str] = set()
        for key in ("downloads", "files"):
            kept: list[Item] = []
            for item in self._made.listed(key):
                path, *above = _with_parents(str(item["path"]))
                is_folder = path.endswith("/")
                if (not is_folder and (path in folders or path in files)) or files.intersection(above):
                    what = item.get("url") or "a text"
                    self._made.unresolve(
                        f"{what} would be put to `{path}`, where something else is: it is left out"
                    )
                    continue
                kept.append(item)
                folders.update(above)
                if not is_folder:
                    files.add(path)
            if key in self._made.profile:
                self._made.profile[key] = kept

    def _settle_repo(self, path: str, facts: Item) -> None:
        repo = next((repo for repo in self._made.listed("repos") if repo["path"] == path), None)
        if repo is not None:
            repo.update(facts)
        elif path == COMFYUI and "ref" in facts:
            self._made.unresolve(
                f"`{COMFYUI}` is put to `{facts['ref']}`: add it under `repos:` with that `ref:`"
            )

    def _add_packages(self, packages: list[str], options: list[str]) -> None:
        of_torch = [package for package in packages if _TORCH.match(package)]
        if of_torch:
            self._made.unresolve(
                f"{', '.join(f'`{each}`' for each in of_torch)} {'comes' if len(of_torch) == 1 else 'come'} with the `torch:` layer of "
                f"`{BASE}`, in the build that driver and card want"
            )
        known = (
            {str(each) for layer in self._made.layers() for each in items(layer)}
            if "python" in self._made.profile
            else set()
        )
        wanted = [package for package in packages if package not in known and package not in of_torch]
        if not wanted:
            return
        layers = self._made.layers()
        plain = next(
            (layer for layer in layers if isinstance(layer, list) and not str(layer[0]).startswith("-")), None
        )
        if options or plain is None:
            layers.append([*options, *wanted])
        else:
            plain += [package for package in wanted if package not in plain]

    def _add_requirements(self, path: str) -> None:
        repos = sorted(self._made.listed("repos"), key=lambda repo: -len(str(repo["path"])))
        repo = next((repo for repo in repos if path.startswith(f"{repo['path']}/")), None)
        if repo is not None:
            repo["install"] = path.removeprefix(f"{repo['path']}/")
        elif posixpath.dirname(path) in OF_THE_BASE:
            pass  # the base installs it
        elif "custom_nodes" in path.split("/"):
            self._made.unresolve(
                f"`{path}` is installed, and its repository is not known: add it under `repos:`"
            )
        elif {"requirements": path} not in self._made.layers():
            self._made.layers().append({"requirements": path})

    def _is_known(self, url: str) -> bool:
        new = self._made.addresses[self._seen :]
        self._seen += len(new)
        self._known.update(map(_plain, new))
        return _plain(url) in self._known


def _with_parents(path: str) -> list[str]:
    """*path*, and every folder that it is in."""
    parts = path.rstrip("/").split("/")
    return [path, *("/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))]


def _plain(url: str) -> str:
    return _without_token(url).split("?download=")[0].rstrip("/").removesuffix(".git")


def _parts(entry: str) -> list[str]:
    """What an entry says: `url|fallback|name`, `url | path`, or two words."""
    parts = entry.split("|") if "|" in entry else entry.split() if _ADDRESS.match(entry) else [entry]
    return [part.strip() for part in parts if part.strip()]


def _mirrors(urls: list[str]) -> Item:
    return {"mirrors": urls[1:]} if urls[1:] else {}


def _kind_of(array: str) -> str | None:
    """The folder that an array's name says."""
    upper = array.upper()
    if upper in OTHER_FOLDERS:
        return OTHER_FOLDERS[upper]
    folder = FOLDERS.get(re.sub(r"_?(MODELS?|FILES?)$|S$", "", upper)) or FOLDERS.get(
        re.sub(r"S$", "", re.sub(r"_?MODELS?$", "", upper))
    )
    return f"{MODELS}/{folder}" if folder else None


def _is_place(part: str) -> bool:
    return "/" in part and not _ADDRESS.match(part)


def _says_repository(array: str, entry: str) -> bool:
    """`owner/name|file` of Hugging Face."""
    return "HF" in array.upper() and _REPOSITORY.match(_parts(entry)[0] if _parts(entry) else "") is not None


def _ask_for_tokens(made: Converted) -> None:
    asked = {host_of(str(item["url"])) for item in made.listed("downloads")}
    for host in (host for kind in SOURCE_KINDS.values() for host in kind.hosts):
        if host.wants and host.name in asked:
            made.add_secret(host.wants, host.name)


def _say_other_addresses(text: str, values: Values, made: Converted) -> None:
    """No address of the script is lost in silence."""
    said = " ".join(made.unresolved)
    known = {
        _plain(str(url))
        for item in (*made.listed("downloads"), *made.listed("repos"))
        for url in (item["url"], *items(item.get("mirrors")))
    }
    texts = [
        str(entry) for layer in (made.layers() if "python" in made.profile else []) for entry in items(layer)
    ]
    seen: set[str] = set()
    for number, line in _lines(text):
        for match in _URL.finditer(values.text(line.replace('"', " ").replace("'", " "))):
            url = match[0].rstrip(".,}]")
            shown = _shown(url)
            if (
                _HERE.match(url)
                or _plain(url) in known
                or shown in said
                or any(url in each for each in texts)
            ):
                continue
            is_base = repo_path(url) in (*OF_THE_BASE, f"{NODES}/{COMFYUI}")
            if is_base or _plain(url) in seen or any(each.startswith(_plain(url)) for each in known):
                continue
            seen.add(_plain(url))
            if len(seen) <= _MOST_OPEN:
                made.unresolve(f"line {number}: {shown} is named, and nothing of the profile takes it")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("#"):
            yield number, re.sub(r"\s#\s.*", "", line)


def _without_tokens(sentence: str) -> str:
    return _URL.sub(lambda match: _without_token(match[0]), sentence)


def _file_of(url: str) -> str:
    """The name in the URL; nothing where the server must give it, so that the path names a folder."""
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    return name if re.fullmatch(r"[^/\\]+\.\w{2,12}", name) else ""


def _without_token(url: str) -> str:
    """*url* without its token or login: that belongs into the environment, and the profile names it there."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    if parts.scheme in ("http", "https") and "@" in parts.netloc:
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        url = urlunsplit(parts)
    kept = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name.lower() not in SECRET_PARAMETERS
    ]
    return urlunsplit(parts._replace(query=urlencode(kept))) if parts.query else url


def _shown(entry: str) -> str:
    return "|".join(_without_token(part) for part in entry.split("|"))
