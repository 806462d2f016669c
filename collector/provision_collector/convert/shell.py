"""Provisioning scripts as profiles: arrays of addresses, and the clones, downloads and packages of their commands.

The script is walked through as it would go (`shell_walk`); nothing of it is run. What does not become an item is said, each address of it
at least.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from provision_agent.contract.source_kinds import SOURCE_KINDS, host_of

from .converted import BASE, COMFYUI, NODES, OF_THE_BASE, Converted, name_of, repo_path
from .documents import Item, items
from .shell_commands import on_command
from .shell_items import Making
from .shell_urls import URL, plain, shown, without_tokens
from .shell_values import Values
from .shell_walk import Walk
from .shell_words import read

_HERE = re.compile(r"https?://(localhost|127\.|0\.0\.0\.0|\[::1\])")
_ASKS_ABOUT_A_TOKEN = re.compile(
    r"https://(huggingface\.co/api/whoami|civitai\.com/api/v1/models\?(hidden|limit)=)"
)
"""Nothing comes from there."""
_WORKSPACE = {"WORKSPACE": "/workspace", "DATA_DIRECTORY": "/workspace", "HOME": "/root", "USER": "root"}
_MOST_OPEN = 200
_MOST_LEFT = 30
_LEFT_CHARS = 120


def from_script(text: str, name: str) -> Converted:
    """Make a profile of a shell script.

    Args:
        text: The script; nothing of it is run.
        name: What it is called: the profile's name, and in messages.
    """
    script = read(text)
    walk = Walk(on_command, Values(dict(_WORKSPACE), folder="/workspace"))
    walk.through(script)
    made = _made_of(walk, name, {"extends": BASE})
    if not _concerns_comfyui(text, made):
        made = _made_of(walk, name, {})
    for array in script.broken:
        made.unresolve(f"the array `{array}` has no end")
    if walk.is_cut:
        made.unresolve(
            "the script goes on for longer than anybody follows: what its end brings is not in the profile"
        )
    _ask_for_tokens(made)
    _say_other_addresses(text, walk.values, made)
    _say_what_was_left(walk, made)
    return made


def _made_of(walk: Walk, name: str, more: Item) -> Converted:
    made = Converted({"version": 1, "name": name_of(name), "description": f"From {name}", **more})
    Making(walk, made).make()
    for sentence in walk.said:
        made.unresolve(without_tokens(sentence))
    return made


def _concerns_comfyui(text: str, made: Converted) -> bool:
    """Is the script about a ComfyUI, so that the profile has to bring one?"""
    placed = (item for key in ("downloads", "repos", "files") for item in made.listed(key))
    return "comfyui" in text.lower() or any(str(item["path"]).startswith(f"{COMFYUI}/") for item in placed)


def _ask_for_tokens(made: Converted) -> None:
    asked = {host_of(str(item["url"])) for item in made.listed("downloads")}
    for host in (host for kind in SOURCE_KINDS.values() for host in kind.hosts):
        if host.wants and host.name in asked:
            made.add_secret(host.wants, host.name)


def _say_other_addresses(text: str, values: Values, made: Converted) -> None:
    """No address of the script is lost in silence."""
    said = " ".join(made.unresolved)
    known = {
        plain(str(url))
        for item in (*made.listed("downloads"), *made.listed("repos"))
        for url in (item["url"], *items(item.get("mirrors")))
    }
    texts = [
        str(entry) for layer in (made.layers() if "python" in made.profile else []) for entry in items(layer)
    ]
    seen: set[str] = set()
    for number, line in _lines(text):
        for match in URL.finditer(values.text(line.replace('"', " ").replace("'", " "))):
            url = match[0].rstrip(".,}]")
            told = shown(url)
            if (
                _HERE.match(url)
                or _ASKS_ABOUT_A_TOKEN.match(url)
                or plain(url) in known
                or told in said
                or any(url in each for each in texts)
            ):
                continue
            is_base = repo_path(url) in (*OF_THE_BASE, f"{NODES}/{COMFYUI}")
            if is_base or plain(url) in seen or any(each.startswith(plain(url)) for each in known):
                continue
            seen.add(plain(url))
            if len(seen) <= _MOST_OPEN:
                made.unresolve(f"line {number}: {told} is named, and nothing of the profile takes it")


def _say_what_was_left(walk: Walk, made: Converted) -> None:
    """Name the commands that bring nothing and do something, each with its line, a bounded number of them."""
    left = dict.fromkeys(
        f"line {found.line}: `{without_tokens(_one_line(str(found.item['text'])))}`"
        for found in sorted(walk.found, key=lambda found: found.line)
        if found.kind == "left"
    )
    for sentence in list(left)[:_MOST_LEFT]:
        made.unresolve(f"{sentence} is not in the profile: if you need it, write it under `commands:`")
    if len(left) > _MOST_LEFT:
        made.unresolve(f"and {len(left) - _MOST_LEFT} more commands of the script are not in the profile")
    made.unresolve("only the script's arrays, clones, downloads and packages become items of the profile")


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LEFT_CHARS else f"{text[:_LEFT_CHARS]}…"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("#"):
            yield number, re.sub(r"\s#\s.*", "", line)
