"""The values of a profile's secrets, from the caller's environment; no message ever shows one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from provision_agent.contract.plan_parts import SecretRule
from provision_agent.contract.secret_values import unset, value_told, variable_of
from provision_agent.contract.source_kinds import DEFAULT_SECRETS, host_of

if TYPE_CHECKING:
    from .load import Profile
    from .model import Document

MAX_TOKEN_BYTES = 64 * 1024


def secret_values(profile: Profile, environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """`values_of` the secrets that *profile* wants."""
    return values_of(profile.secret_rules, environ)


def values_of(rules: Iterable[SecretRule], environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Look up secrets.

    Args:
        rules: Say the names, and their aliases in order of preference.
        environ: The caller's environment.

    Returns:
        Values by the secret's own name, and warnings: unset, repaired, or a placeholder (which is not sent,
        for a host may refuse a wrong token where it would have served none).
    """
    values: dict[str, str] = {}
    warnings: list[str] = []
    for rule in rules:
        found = _found(rule, environ)
        if found is None:
            warnings += [] if rule.is_default else [unset(rule)]
            continue
        source, told = found
        value, said = value_told(rule, source, told, is_variable=source in environ)
        warnings += said
        if value is not None:
            values[rule.name] = value
    return values, warnings


def default_rules(document: Document, own: Iterable[SecretRule]) -> tuple[SecretRule, ...]:
    """The built-in rules that stand beside a profile's *own*: those on whose hosts an item of it is.

    None stands for a name or a host that the profile speaks of itself.
    """
    names = {name for rule in own for name in (rule.name, *rule.aliases)}
    hosts = {host for rule in own for host in rule.hosts}
    used = {host_of(url) for url in _urls(document) if urlsplit(url).scheme != "http"}
    return tuple(
        rule
        for rule in DEFAULT_SECRETS
        if used.intersection(rule.hosts)
        and not names.intersection((rule.name, *rule.aliases))
        and not hosts.intersection(rule.hosts)
    )


def origin_of(rule: SecretRule, environ: Mapping[str, str]) -> str | None:
    """What the value of *rule* is taken from: a variable of *environ* or a file; None when it is not set."""
    found = _found(rule, environ)
    return None if found is None else found[0]


def _urls(document: Document) -> Iterator[str]:
    for item in document.downloads:
        yield from (item.url, *item.mirrors)
        if item.substitute is not None:
            yield item.substitute.url
    for repo in document.repos:
        yield from (repo.url, *repo.mirrors)


def _found(rule: SecretRule, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Where the value of *rule* is, and the value as it stands there; None when it is nowhere."""
    name = variable_of(rule, environ)
    if name is not None:
        return name, environ[name]
    path = hub_token_path(environ) if rule.is_default and rule.name == "HF_TOKEN" else None
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8", errors="strict") as file:
            told = file.read(MAX_TOKEN_BYTES)
    except (OSError, UnicodeDecodeError):
        return None
    return (path, told) if told.strip() else None


def hub_token_path(environ: Mapping[str, str]) -> str | None:
    """Where `hf auth login` keeps its token, by the variables that it reads itself; None without a home folder."""
    if environ.get("HF_TOKEN_PATH"):
        return os.path.expanduser(environ["HF_TOKEN_PATH"])
    if environ.get("HF_HOME"):
        return os.path.join(os.path.expanduser(environ["HF_HOME"]), "token")
    home = environ.get("HOME")
    cache = environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home else None)
    return os.path.join(cache, "huggingface", "token") if cache else None
