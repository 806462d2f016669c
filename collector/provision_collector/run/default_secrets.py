"""Default secrets, which no profile asked for: they leave this machine only for a host that refuses to serve without them.

A plan's hosts are asked from here before the run is started, without any token. What cannot be asked from here the
instance asks for itself, by `secrets_needed`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from provision_agent.contract.findings import SourcesRequest, read_sources
from provision_agent.contract.plan import Download, Plan
from provision_agent.contract.plan_parts import SecretRule, repository_of
from provision_agent.contract.source_kinds import host_of

from ..errors import ProvisionError
from ..instance import ask_here

ASK_WITHIN_S = 10.0
"""An instance that waits costs money; what is not known by then it finds out itself."""
KEPT_S = 60.0
MOST_QUESTIONS = 200

_Known = tuple[float, "asyncio.Task[frozenset[str]]"]
_asked: dict[tuple[int, str, frozenset[str]], _Known] = {}


def held_back(rules: Collection[SecretRule], names: Collection[str]) -> frozenset[str]:
    """Those of the secrets *names* that are sent to nobody who has not asked for them."""
    return frozenset(rule.name for rule in rules if rule.is_default and rule.name in names)


async def refused_without(plan: Plan, values: Mapping[str, str]) -> frozenset[str]:
    """Ask the hosts of *plan*, from this machine and without a token, which default secrets they want.

    Runs of one plan that begin together ask once.

    Args:
        values: The secrets that are set; nobody is asked for the sake of another one. No value is sent anywhere.

    Returns:
        The names of those for want of which something was refused; none where nobody could be asked.
    """
    names = held_back(plan.secrets, values)
    questions = _questions(plan, names)
    if not questions:
        return frozenset()
    now, key = time.monotonic(), (id(asyncio.get_running_loop()), plan.hash, names)
    for old in [old for old, (at, _) in _asked.items() if now - at > KEPT_S]:
        del _asked[old]
    if key not in _asked:
        _asked[key] = now, asyncio.create_task(_ask(plan, questions, names))
    return await asyncio.shield(_asked[key][1])


async def _ask(plan: Plan, questions: list[Download], names: frozenset[str]) -> frozenset[str]:
    rules = tuple(rule for rule in plan.secrets if rule.name in names)
    asked = replace(plan, downloads=tuple(questions), repos=(), secrets=rules)
    request = SourcesRequest(plan=await asyncio.to_thread(asked.to_json))
    try:
        answer, _ = await ask_here("sources", request, read_sources, timeout_s=ASK_WITHIN_S)
    except (ProvisionError, OSError, RuntimeError):
        return frozenset()
    return names.intersection(answer.secrets_wanted)


def _questions(plan: Plan, names: Collection[str]) -> list[Download]:
    """One download for each place on the secrets' hosts that may be refused by itself."""
    hosts = {host for rule in plan.secrets if rule.name in names for host in rule.hosts}
    urls = [url for item in plan.chosen("downloads", plan.downloads) for url in _urls(item)]
    urls += [_refs(url) for repo in plan.chosen("repos", plan.repos) for url in (repo.url, *repo.mirrors)]
    places = {_place(url): url for url in urls if host_of(url) in hosts}
    shown = list(places.values())[:MOST_QUESTIONS]
    return [Download(url=url, path=f"{number}{_end(url)}") for number, url in enumerate(shown)]


def _urls(item: Download) -> Iterator[str]:
    yield from (item.url, *item.mirrors)
    if item.substitute is not None:
        yield item.substitute.url


def _refs(url: str) -> str:
    """What git asks the repository at *url* first (https://git-scm.com/docs/http-protocol#_smart_clients)."""
    return f"{url.rstrip('/')}/info/refs?service=git-upload-pack" if url.startswith("https:") else ""


def _place(url: str) -> str:
    """What is gated as one: a repository of the hub; elsewhere each file."""
    if host_of(url) != "huggingface.co":
        return url
    path = url.removeprefix("hf://") if url.startswith("hf://") else urlsplit(url).path.strip("/")
    parts = path.split("/")
    return "/".join(parts[: 3 if parts[0] in ("datasets", "spaces") else 2]).partition("@")[0]


def _end(url: str) -> str:
    return "/" if repository_of(url) is not None else ""
