"""What a conversion gives: a profile as YAML values, and everything that did not make it into the profile."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import yaml

from ..profile.paths import file_path
from ..profile.schema import for_editors
from ..profile.urls import download_url, repo_url
from .documents import Item, items, mapping

COMFYUI = "ComfyUI"
NODES = f"{COMFYUI}/custom_nodes"
MODELS = f"{COMFYUI}/models"
COMFYUI_URL = "https://github.com/comfyanonymous/ComfyUI"
BASE = "comfyui-base"
OF_THE_BASE = (COMFYUI, f"{NODES}/ComfyUI-Manager")
"""What the built-in profile `BASE` checks out itself."""
HUB_CACHE = "hub/"
"""Where the hub's own cache goes when nobody says where."""
METADATA_HOSTS = ("metadata.google.internal", "metadata", "instance-data", "instance-data.ec2.internal")


class _Dumper(yaml.SafeDumper):
    """Lists stand under their key, indented, as people write them; no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


@dataclass
class Converted:
    """A profile in the making. `add_…` refuse what no profile may hold, and say so in `unresolved`."""

    profile: Item = field(default_factory=dict)
    unresolved: list[str] = field(default_factory=list)
    """One sentence each: what is missing, where it was named, and what to write."""

    notes: list[str] = field(default_factory=list)
    """One sentence each: what was read, is no item of its own, and is nothing to be done about."""

    addresses: list[str] = field(default_factory=list)
    """Of the downloads and repos that were added, with their mirrors, in the order in which they came."""

    is_foreign: bool = True
    """It was made of what somebody else wrote; not so of an instance of the user's own."""

    def part(self, key: str) -> Item:
        """The mapping of the profile under *key*, made if there is none."""
        part = self.profile.setdefault(key, {})
        assert isinstance(part, dict)
        return part

    def listed(self, key: str) -> list[Item]:
        """The items of the profile under *key*, such as ``downloads``; `add` adds one."""
        listed = self.profile.get(key, [])
        assert isinstance(listed, list)
        return listed

    def layers(self) -> list[object]:
        """The layers of the environment."""
        layers = self.part("python").setdefault("layers", [])
        assert isinstance(layers, list)
        return layers

    def add_secret(self, name: str, host: str) -> None:
        """Declare the secret *name*, which *host* gets."""
        hosts = mapping(self.part("secrets").setdefault(name, {"hosts": []}))["hosts"]
        assert isinstance(hosts, list)
        if host not in hosts:
            hosts.append(host)

    def unresolve(self, sentence: str) -> None:
        """Remember what could not be converted; the same sentence once."""
        if sentence not in self.unresolved:
            self.unresolved.append(sentence)

    def note(self, sentence: str) -> None:
        """Remember what needs nothing to be done; the same sentence once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @property
    def is_empty(self) -> bool:
        """Nothing that was read became an item, or is in the base already."""
        return not self.notes and not any(isinstance(part, (list, dict)) for part in self.profile.values())

    def add_download(self, item: Item) -> None:
        """Add a download. A second one of the same path gives its URL as a mirror, unless the two are known to differ."""
        try:
            path = str(item["path"])
            item = {**item, "url": download_url(str(item["url"]))}
            if not path.endswith("/"):
                item["path"] = file_path(path)
            self._require_elsewhere(str(item["url"]))
        except ValueError as error:
            return self.unresolve(f"the download of `{item['path']}`: {error}")
        known = next((each for each in self.listed("downloads") if each["path"] == item["path"]), None)
        if known is None or path.endswith("/"):
            self.add("downloads", item)
            self._note_addresses(item)
            return None
        return self._merge(known, item)

    def add_repo(self, repo: Item) -> None:
        """Add a checkout; of two at one path the first stays."""
        try:
            repo = {**repo, "url": repo_url(str(repo["url"])), "path": file_path(str(repo["path"]))}
            self._require_elsewhere(str(repo["url"]))
        except ValueError as error:
            return self.unresolve(f"the repo `{repo['path']}`: {error}")
        if self.profile.get("extends") == BASE and repo["path"] in OF_THE_BASE:
            if "ref" not in repo:
                self.note(f"`{repo['path']}` is no item of its own: `{BASE}` brings it")
                return None
            repo = {**repo, "install": repo.get("install", "requirements.txt"), "level": "critical"}
        known = next((each for each in self.listed("repos") if each["path"] == repo["path"]), None)
        if known is None:
            self.add("repos", repo)
            self._note_addresses(repo)
        elif known != repo:
            self.unresolve(
                f"`{repo['path']}` is wanted as {_shown(known)} and as {_shown(repo)}: the first is taken"
            )
        return None

    def add(self, key: str, item: Item | str) -> None:
        """Add to any other list of the profile, once."""
        listed: list[object] = [*self.listed(key)]
        if item not in listed:
            self.profile[key] = [*listed, item]

    def to_yaml(self, *, comment: str) -> str:
        """The profile as a file, what is unresolved in comments on top."""
        notes = (f"note: {sentence}" for sentence in self.notes)
        lines = [comment, *notes, *(f"open: {sentence}" for sentence in self.unresolved)]
        head = "".join(f"# {_visible(line)}\n" for text in lines for line in text.splitlines())
        body = yaml.dump(
            literal(self.profile), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110
        )
        return for_editors(head + body)

    def _require_elsewhere(self, url: str) -> None:
        if self.is_foreign:
            require_elsewhere(url)

    def _merge(self, known: Item, item: Item) -> None:
        hashes = {known.get("sha256"), item.get("sha256")} - {None}
        if len(hashes) > 1:
            self.unresolve(
                f"`{item['path']}` is wanted with two contents, from {known['url']} and {item['url']}: the first is taken"
            )
            return
        if hashes:
            known["sha256"] = hashes.pop()
        mirrors = items(known.get("mirrors"))
        if item["url"] not in (known["url"], *mirrors):
            known["mirrors"] = [*mirrors, item["url"]]
            self.addresses.append(str(item["url"]))

    def _note_addresses(self, item: Item) -> None:
        self.addresses += map(str, (item["url"], *items(item.get("mirrors"))))


def require_elsewhere(url: str) -> None:
    """Let *url* pass if it leads neither into the instance's own disk nor to its provider's service of credentials.

    What was shared by a stranger may name them; who means that writes it into the profile by hand.

    Raises:
        ValueError: it leads there; the text says where.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme == "file":
        raise ValueError(
            f"`{url}` is a file of the instance itself: write it into the profile if you mean that"
        )
    if host in METADATA_HOSTS or _is_within(
        host, "169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32"
    ):
        raise ValueError(f"`{url}` is where a provider gives out the credentials of its machines")


def _is_within(host: str, *networks: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped in ipaddress.ip_network(network) for network in networks)


def _visible(text: str) -> str:
    """*text* without characters that act on a terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def literal(value: object) -> object:
    """*value* with every ``${`` escaped: what was converted means nothing but itself."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list) else value


def inside_workspace(path: str) -> str | None:
    """*path* relative to ``/workspace``, where profiles may write; None for any other place."""
    relative = path.removeprefix("/workspace").lstrip("/") if path.startswith("/workspace") else path
    return None if relative.startswith(("/", "~", "$")) or not path else relative or "."


def hub_repository(url: str) -> str | None:
    """The whole repository of models that *url* is on Hugging Face, in the form of a profile; None for any other address."""
    found = re.fullmatch(r"https://huggingface\.co/([\w.-]+/[\w.-]+?)(\.git)?/?(?:tree/([\w.-]+)/?)?", url)
    if found is None or found[1].split("/")[0] in (
        "api",
        "datasets",
        "spaces",
        "docs",
        "collections",
        "blog",
        "papers",
    ):
        return None
    return f"hf://{found[1]}" + (f"@{found[3]}" if found[3] not in (None, "main") else "")


def name_of(text: str) -> str:
    """*text* as a profile's name."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    return stem or "profile"


def repo_path(url: str) -> str:
    """Where a custom node of that repository goes."""
    return f"{NODES}/{url.rstrip('/').removesuffix('.git').rpartition('/')[2]}"


def _shown(repo: Item) -> str:
    return json.dumps({key: repo[key] for key in ("url", "ref") if key in repo})
