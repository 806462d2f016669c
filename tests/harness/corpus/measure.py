"""What the converters make of the corpus: of everything that an entry holds, is it an item of the profile, listed as open, or lost?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provision_agent.contract.plan import Plan
from provision_collector.convert import Converted, from_file, from_workflows
from provision_collector.convert.node_list import NodeList
from provision_collector.profile import Profile, compile_plan

from . import KINDS, NODE_MAP, Entry

_PLACE = re.compile(r"line \d|node \d|`[^`]+`|\.(json|png|webp):")
"""How a sentence about something open says where that was."""
OF_THE_BASE = re.compile(r"https?://github\.com/(comfyanonymous|Comfy-Org)/ComfyUI(-Manager)?(\.git)?$")


@dataclass(frozen=True)
class Result:
    """One entry's conversion."""

    entry: Entry
    made: Converted
    plan: Plan
    items: tuple[str, ...]
    opened: tuple[str, ...]
    lost: tuple[str, ...]
    without_place: tuple[str, ...]


def convert(entry: Entry, folder: Path) -> Converted:
    """The profile of *entry*, as the commands make it; the list of nodes is the corpus's own."""
    path = entry.write(folder)
    known = NodeList.of(NODE_MAP)
    if entry.kind == "workflow":
        return from_workflows([path], node_list=lambda: known)
    return from_file(path, node_list=lambda: known)


def measured(entry: Entry, folder: Path) -> Result:
    """Convert *entry*, whose file goes into *folder*, and look for everything that it holds."""
    made = convert(entry, folder)
    plan = compile_plan(Profile.from_text(made.to_yaml(comment="corpus"), name=entry.name))
    has = brought(plan)
    found: dict[str, list[str]] = {"item": [], "open": [], "lost": [], "no place": []}
    for held in entry.holds:
        kind, _, what = held.partition(":")
        if _key(kind, what) in has:
            found["item"].append(held)
            continue
        sentences = [each for each in made.unresolved if _names(each, kind, what)]
        found["open" if sentences else "lost"].append(held)
        if sentences and not any(_PLACE.search(each) for each in sentences):
            found["no place"].append(held)
    return Result(entry, made, plan, *(tuple(each) for each in found.values()))


def brought(plan: Plan) -> set[str]:
    """What a plan brings, by the keys of what is held."""
    found: set[str] = {f"apt:{name}" for name in plan.apt}
    for item in plan.downloads:
        addresses = [item.url, *item.mirrors, *([item.substitute.url] if item.substitute else [])]
        found |= {_key("url", url) for url in addresses}
    found |= {_key("repo", url) for repo in plan.repos for url in (repo.url, *repo.mirrors)}
    for layer in plan.python.layers if plan.python is not None else ():
        for package in map(str, layer.packages):
            name, _, address = package.partition(" @ ")
            found |= {_key("pip", name), _key("url", address)}
        if layer.torch is not None:
            found |= {_key("pip", name) for name in ("torch", *layer.torch.extras)}
    return found


def _key(kind: str, what: str) -> str:
    """The same for every way to write the same thing."""
    if kind == "pip":
        return f"pip:{re.split(r'[=<>~!@ ;[]', what)[0].lower().replace('_', '-')}"
    what = re.sub(
        r"^hf://([^/]+/[^/@]+)(?:@([^/]+))?/(.+)$", r"https://huggingface.co/\1/resolve/main/\3", what
    )
    what = re.sub(r"^hf://", "https://huggingface.co/", what)
    return f"{kind}:{what.split('?download')[0].rstrip('/').removesuffix('.git')}"


def _names(sentence: str, kind: str, what: str) -> bool:
    if kind in ("url", "repo"):
        return what in sentence or what.removesuffix(".git") in sentence
    name = re.split(r"[=<>~!@ ;[]", what)[0] if kind == "pip" else what
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", sentence) is not None


def table(results: Sequence[Result]) -> str:
    """By kind: what is held, and what became of it, as a table of Markdown."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for result in results:
        count = counts[result.entry.kind]
        count["files"] += 1
        for name, held in (("items", result.items), ("open", result.opened), ("lost", result.lost)):
            for each in held:
                kind = each.partition(":")[0]
                if kind != "named":
                    count[name] += 1
                    count[f"{name} {kind}"] += 1
    lines = [
        "| | files | addresses | repositories | packages | items | open, with their place | lost |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    whole: Counter[str] = Counter()
    for kind, count in counts.items():
        whole += count
        lines.append(_row(f"{kind}s", count))
    return "\n".join([*lines, _row("all", whole)])


def _row(name: str, count: Counter[str]) -> str:
    def both(*kinds: str) -> str:
        items = sum(count[f"items {kind}"] for kind in kinds)
        return (
            f"{items} of {items + sum(count[f'{how} {kind}'] for how in ('open', 'lost') for kind in kinds)}"
        )

    held = count["items"] + count["open"] + count["lost"]
    share = f"{count['items'] / held:.1%}" if held else "-"
    return (
        f"| {name} | {count['files']} | {both('url')} | {both('repo')} | {both('pip', 'apt')} | "
        f"{share} | {count['open']} | {count['lost']} |"
    )


def report(results: Sequence[Result]) -> str:
    """The table, and under it what is not an item."""
    lines = [table(results), ""]
    for result in results:
        for how, held in (("lost", result.lost), ("open", result.opened)):
            lines += [
                f"{how}: {result.entry.name}: {each}"
                for each in held
                if how == "lost" or not each.startswith("named:")
            ]
    return "\n".join(lines)
