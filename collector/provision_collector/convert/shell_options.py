"""The words of a command taken apart, and the places in a workspace that its paths mean."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

from .converted import COMFYUI, MODELS, NODES
from .shell_walk import Found
from .shell_words import Simple

_MODEL_FOLDERS = (
    "checkpoints", "diffusion_models", "unet", "loras", "lora", "vae", "controlnet", "clip", "text_encoders", "clip_vision", "embeddings",
    "upscale_models", "style_models", "ipadapter", "sams", "ultralytics", "animatediff_models", "vae_approx", "latent_upscale_models",
)  # fmt: skip


def place_of(path: str, folder: str | None = None) -> str | None:
    """Where *path* of a script is in a workspace; None where that cannot be told.

    Args:
        path: As the script has it. folder: Where the script was at that moment.
    """
    is_folder = path.endswith(("/", "/..")) or path in (".", "..", "")
    whole = joined(folder, path)
    if whole is None or "$" in whole:
        inside = re.search(r"\$[^/]*?(?:COMFY|APP|ROOT)[^/]*/(.+)", path)
        if inside is None or "$" in inside[1]:
            return None
        whole = f"/workspace/{COMFYUI}/{inside[1]}"
    parts = [part for part in whole.split("/") if part]
    lower = [part.lower() for part in parts]
    if "comfyui" in lower:
        parts = [COMFYUI, *parts[lower.index("comfyui") + 1 :]]
    elif whole.startswith("/workspace/"):
        parts = parts[1:]
    elif "custom_nodes" in lower:
        parts = [*NODES.split("/"), *parts[lower.index("custom_nodes") + 1 :]]
    elif "models" in lower and any(part in _MODEL_FOLDERS for part in lower[lower.index("models") + 1 :]):
        parts = [*MODELS.split("/"), *parts[lower.index("models") + 1 :]]
    elif whole.startswith("/"):
        if whole.startswith(
            ("/root/", "/home/", "/opt/", "/app/", "/data/", "/runpod-volume/", "/notebooks/")
        ):
            parts = parts[1:] if not whole.startswith("/home/") else parts[2:]
        else:
            return None
    found = posixpath.normpath("/".join(parts)) if parts else ""
    if not found or found.startswith(".."):
        return None
    return f"{found}/" if is_folder else found


def joined(folder: str | None, path: str) -> str | None:
    path = re.sub(r"^~(?=/|$)", "/root", path)
    if path.startswith(("/", "$")):
        return path
    return posixpath.normpath(posixpath.join(folder, path)) if folder is not None else path


def left_open(text: str, command: Simple) -> Found:
    return Found("open", {"text": f"line {command.line}: {text}"}, command.line)


def left_out(what: str, place: str, command: Simple, key: str = "downloads") -> Found:
    """*what* of a script has no place in a workspace; it would be an item under *key*."""
    return left_open(
        f"{what} goes to `{place}`, which is outside of the workspace or not known: add it under `{key}:`",
        command,
    )


def parsed(
    words: list[str], with_value: Collection[str], letters: str
) -> tuple[dict[str, list[str]], list[str]]:
    """The options of *words* with their values, and the rest.

    Args:
        with_value: Long options that have a value. letters: Short ones that have one.
    """
    options: dict[str, list[str]] = {}
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            rest += words[at:]
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if not equals and name in with_value and at < len(words):
                value, at = words[at], at + 1
            options.setdefault(name, []).append(value)
        elif word.startswith("-") and len(word) > 1:
            for number, letter in enumerate(word[1:], 1):
                value = ""
                if letter in letters:
                    value = word[number + 1 :]
                    if not value and at < len(words):
                        value, at = words[at], at + 1
                options.setdefault(f"-{letter}", []).append(value)
                if letter in letters:
                    break
        else:
            rest.append(word)
    return options, rest


def last(options: dict[str, list[str]], *names: str) -> str | None:
    return next((options[name][-1] for name in names if name in options), None)
