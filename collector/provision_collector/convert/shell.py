"""The arrays of provisioning scripts (``CHECKPOINT_MODELS=( "url|fallback|name" … )``) as profiles.

Only arrays and plain assignments are read; nothing of a script is run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from provision_agent.contract.source_kinds import SOURCE_KINDS, forms, host_of

from ..profile.urls import SECRET_PARAMETERS
from .converted import BASE, COMFYUI, MODELS, Converted, name_of, repo_path
from .documents import Item, items

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
_ARRAY = re.compile(r"^[ \t]*(?:declare -a |local -a |export )?([A-Za-z_]\w*)\+?=\(", re.M)
_SCALAR = re.compile(
    r"^[ \t]*(?:export |readonly |local )?([A-Za-z_]\w*)=(\"[^\"\n]*\"|'[^'\n]*'|[^\s();&|\"']*)[ \t]*(?:#.*)?$",
    re.M,
)
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::?[-=]([^}]*))?\}|\$([A-Za-z_]\w*)")


def from_script(text: str, name: str) -> Converted:
    """Make a profile of the arrays in a shell script.

    Args:
        text: The script; nothing of it is run.
        name: What it is called: the profile's name, and in messages.
    """
    made = Converted({"version": 1, "name": name_of(name), "description": f"From {name}", "extends": BASE})
    text = text.replace("\r\n", "\n")
    values = {match[1]: match[2].strip("\"'") for match in _SCALAR.finditer(text)}
    for array, entries in _arrays(text, made):
        for entry in entries:
            _add(array, _expanded(entry, values), made)
    asked = {host_of(str(item["url"])) for item in made.listed("downloads")}
    for host in (host for kind in SOURCE_KINDS.values() for host in kind.hosts):
        if host.wants and host.name in asked:
            made.add_secret(host.wants, host.name)
    made.unresolve("only the script's arrays were read: what its code does besides is not in the profile")
    return made


def _arrays(text: str, made: Converted) -> Iterator[tuple[str, list[str]]]:
    for match in _ARRAY.finditer(text):
        body = _body(text, match.end())
        if body is None:
            made.unresolve(f"the array `{match[1]}` has no end")
            continue
        try:
            yield match[1], shlex.split(body, comments=True)
        except ValueError as error:
            made.unresolve(f"the array `{match[1]}` cannot be read: {str(error).lower()}")


def _body(text: str, start: int) -> str | None:
    """What stands between the parentheses; quotes and comments may hold a closing one."""
    quote, position = "", start
    while position < len(text):
        character = text[position]
        if quote:
            if character == "\\" and quote == '"':
                position += 1
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character == "#" and text[position - 1].isspace():
            position = text.find("\n", position)
            if position < 0:
                return None
        elif character == ")":
            return text[start:position]
        position += 1
    return None


def _expanded(entry: str, values: dict[str, str], depth: int = 0) -> str:
    """*entry* with the variables that the script itself sets; others stay, to be reported."""

    def fill(match: re.Match[str]) -> str:
        name, default = match[1] or match[3], match[2]
        value = values.get(name, default)
        return match[0] if value is None else _expanded(value, values, depth + 1) if depth < 5 else value

    return _VARIABLE.sub(fill, entry)


def _add(array: str, entry: str, made: Converted) -> None:
    parts = [part.strip() for part in entry.split("|")]
    urls = [_without_token(part) for part in parts if _ADDRESS.match(part)]
    names = [part for part in parts if part and not _ADDRESS.match(part)]
    folder = FOLDERS.get(re.sub(r"_?(MODELS?|FILES?)$|S$", "", array.upper())) or FOLDERS.get(
        re.sub(r"S$", "", re.sub(r"_?MODELS?$", "", array.upper()))
    )
    if array.upper() in ("NODES", "CUSTOM_NODES") and urls:
        made.add_repo(
            {
                "url": urls[0],
                "path": repo_path(urls[0]),
                "install": "requirements.txt",
                **({"mirrors": urls[1:]} if urls[1:] else {}),
            }
        )
    elif array.upper() == "APT_PACKAGES":
        made.add("apt", entry)
    elif array.upper() == "PIP_PACKAGES":
        packages = made.layers()[0] if made.layers() else []
        made.part("python")["layers"] = [[*items(packages), entry]]
    elif not urls or "$" in "".join(urls):
        made.unresolve(
            f"`{array}`: `{_shown(entry)}` is no address that can be told without running the script"
        )
    elif folder or array.upper() in OTHER_FOLDERS:
        place = f"{MODELS}/{folder}" if folder else OTHER_FOLDERS[array.upper()]
        item: Item = {"url": urls[0], "path": f"{place}/{names[-1] if names else _file_of(urls[0])}"}
        made.add_download({**item, **({"mirrors": urls[1:]} if urls[1:] else {})})
    else:
        made.unresolve(f"`{array}` is no array whose folder is known: `{_shown(entry)}` is left out")


def _file_of(url: str) -> str:
    """The name in the URL; nothing where the server must give it, so that the path names a folder."""
    name = unquote(urlsplit(url).path.rpartition("/")[2])
    return name if re.fullmatch(r"[^/\\]+\.\w{2,12}", name) else ""


def _without_token(url: str) -> str:
    """*url* without its token: that belongs into the environment, and the profile names it there."""
    parts = urlsplit(url)
    kept = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name.lower() not in SECRET_PARAMETERS
    ]
    return urlunsplit(parts._replace(query=urlencode(kept))) if parts.query else url


def _shown(entry: str) -> str:
    return "|".join(_without_token(part) for part in entry.split("|"))
