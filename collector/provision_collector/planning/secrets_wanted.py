"""Which secrets a plan wants: those that are not set, and the default ones that may go somewhere. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_parts import SecretRule
from provision_agent.contract.source_kinds import host_of

from .answers import Source, Survey


@dataclass(frozen=True)
class Secret:
    """A secret that is wanted and not set, and whom it would be sent to."""

    name: str
    aliases: tuple[str, ...]
    hosts: tuple[str, ...]
    files: tuple[str, ...]
    """Those that were refused for want of it, as far as anybody asked."""


@dataclass(frozen=True)
class Token:
    """A default secret that is set, and whom it may be sent to."""

    name: str
    hosts: tuple[str, ...]
    taken_from: str
    """The variable or the file that holds it."""
    is_wanted: bool | None
    """Something was refused without it; None: nobody was asked."""


def default_tokens(
    rules: Iterable[SecretRule],
    known: frozenset[str],
    taken_from: Mapping[str, str],
    surveyed: Survey | None,
) -> Iterable[Token]:
    """Which default secrets are set, and where they may go.

    Args:
        known: The names of those that are set.
        taken_from: What holds the value, by name.
    """
    for rule in rules:
        if rule.is_default and rule.name in known:
            is_wanted = rule.name in surveyed.secrets_wanted if surveyed else None
            yield Token(rule.name, rule.hosts, taken_from.get(rule.name, ""), is_wanted)


def secrets_missing(
    rules: Iterable[SecretRule], known: frozenset[str], plan: Plan, surveyed: Survey | None
) -> Iterable[Secret]:
    """Which secrets are not set and wanted.

    Args:
        known: The names of those that are set.
    """
    for rule in rules:
        if rule.name in known or (
            rule.is_default and (not surveyed or rule.name not in surveyed.secrets_wanted)
        ):
            continue
        refused = [
            item.label
            for item, sources in zip(plan.downloads, surveyed.downloads if surveyed else (), strict=False)
            if any(_wants_secret(source) and host_of(source.url) in rule.hosts for source in sources)
            and not any(source.is_ok for source in sources)
        ]
        yield Secret(rule.name, rule.aliases, rule.hosts, tuple(refused))


def _wants_secret(source: Source) -> bool:
    return source.failure is not None and source.failure.next == "fix_credentials"
