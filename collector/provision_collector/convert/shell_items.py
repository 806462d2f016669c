"""What a walk through a script has found, as items of a profile: each once, at one place, and what cannot be one said."""

from __future__ import annotations

import posixpath
import re

from .converted import BASE, COMFYUI, COMFYUI_URL, MODELS, OF_THE_BASE, Converted, repo_path
from .documents import Item, items
from .shell_commands import on_command
from .shell_options import place_of
from .shell_urls import ADDRESS, file_of, parts_of, plain, shown, without_token, without_tokens
from .shell_values import Values
from .shell_walk import Found, Walk
from .shell_words import Simple

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


_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+$")
_TORCH = re.compile(r"(torch|torchvision|torchaudio)([=<>!~].*)?$")


class Making:
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
        for array, entry in {entry: (array, entry) for array, entry in reversed(later)}.values():
            address = next((part for part in parts_of(entry) if ADDRESS.match(part)), None)
            if address is None and not _says_repository(array, entry):
                continue
            if not self._is_known(address or f"hf://{'/'.join(parts_of(entry)[:2])}"):
                self._add_elsewhere(array, entry)

    def _add_entry(self, array: str, entry: str) -> bool:
        """An entry of an array whose name says what is in it; False for any other."""
        kind, upper = _kind_of(array), array.upper()
        parts = parts_of(entry)
        urls = [without_token(part) for part in parts if ADDRESS.match(part)]
        names = [part for part in parts if part and not ADDRESS.match(part)]
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
            f"`{array}`: `{shown(entry)}` is no address that can be told without running the script"
        )

    def _add_model(self, folder: str, names: list[str], urls: list[str]) -> None:
        path = f"{folder}/{names[-1] if names else file_of(urls[0])}"
        self._made.add_download({"url": urls[0], "path": path, **_mirrors(urls)})

    def _add_elsewhere(self, array: str, entry: str) -> None:
        """An entry that says itself where it goes, or that nothing of the script takes up."""
        parts = parts_of(entry)
        urls = [without_token(part) for part in parts if ADDRESS.match(part)]
        places = [
            place
            for part in parts
            if _is_place(part) and (place := place_of(part)) is not None and not ADDRESS.match(part)
        ]
        names = [part for part in parts if part and not ADDRESS.match(part) and not _is_place(part)]
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
            place = f"{places[0]}{file_of(urls[0])}" if places[0].endswith("/") else places[0]
            if not posixpath.splitext(place)[1] and not place.endswith("/"):
                place = f"{place}/{names[-1] if names else file_of(urls[0])}"
            self._made.add_download({"url": urls[0], "path": place, **_mirrors(urls)})
        elif (kind := _kind_of(array)) is not None:
            self._add_model(kind, names, urls)
        else:
            self._made.unresolve(f"`{array}` is no array whose folder is known: `{shown(entry)}` is left out")

    def _add(self, found: Found) -> None:
        item = found.item
        if found.kind == "download":
            url = without_token(str(item["url"]))
            if not self._is_known(url):
                mirrors = [without_token(str(mirror)) for mirror in items(item.get("mirrors"))]
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
        elif found.kind == "move":
            self._move(str(item["path"]), str(item["to"]))
        elif found.kind == "unpack":
            self._unpack(str(item["path"]), str(item["to"]))
        elif found.kind == "file":
            self._made.add("files", {"path": item["path"], "content": item["content"]})
        elif found.kind == "open":
            self._made.unresolve(without_tokens(str(item["text"])))

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
        elif path == COMFYUI and facts.get("ref") not in (None, "master", "main"):
            self._made.add_repo({"url": COMFYUI_URL, "path": COMFYUI, **facts})

    def _move(self, old: str, new: str) -> None:
        """A file or checkout that the script renames after it has come is put there at once."""
        for item in (*self._made.listed("downloads"), *self._made.listed("repos")):
            if item["path"] == old:
                is_folder = new.endswith("/") or (
                    bool(posixpath.splitext(old)[1]) and not posixpath.splitext(new)[1]
                )
                item["path"] = f"{new.rstrip('/')}/{posixpath.basename(old)}" if is_folder else new

    def _unpack(self, archive: str, folder: str) -> None:
        """An archive that the script unpacks; it is unpacked where it lies, so it is put there."""
        for item in self._made.listed("downloads"):
            if item["path"] == archive:
                item["unpack"] = True
                item["path"] = posixpath.join(folder.rstrip("/"), posixpath.basename(archive))

    def _add_packages(self, packages: list[str], options: list[str]) -> None:
        has_torch = self._made.profile.get("extends") == BASE
        of_torch = [package for package in packages if has_torch and _TORCH.match(package)]
        if of_torch:
            self._made.unresolve(
                f"{', '.join(f'`{each}`' for each in of_torch)} {'comes' if len(of_torch) == 1 else 'come'} with the `torch:` layer of "
                f"`{BASE}`, in the build that driver and card want{_not_from(options)}"
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
        self._known.update(map(plain, new))
        return plain(url) in self._known


def _not_from(options: list[str]) -> str:
    """For a sentence about torch: the index that the script takes it from."""
    urls = [url for option in options if (url := option.partition("=")[2])]
    return f", not from {' and '.join(urls)}" if urls else ""


def _with_parents(path: str) -> list[str]:
    """*path*, and every folder that it is in."""
    parts = path.rstrip("/").split("/")
    return [path, *("/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))]


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
    return "/" in part and not ADDRESS.match(part)


def _says_repository(array: str, entry: str) -> bool:
    """`owner/name|file` of Hugging Face."""
    return (
        "HF" in array.upper() and _REPOSITORY.match(parts_of(entry)[0] if parts_of(entry) else "") is not None
    )
