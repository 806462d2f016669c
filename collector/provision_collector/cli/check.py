"""`provision check`: is this profile valid? Every problem as ``file:line:column: message``."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from ..errors import ProfileError, UsageError

if TYPE_CHECKING:
    from provision_agent.plan import Plan

    from ..profile import Profile


@click.command("check")
@click.argument("name", metavar="[PROFILE]", required=False)
@click.option("--profile", metavar="NAME|PATH", help="The same as the argument.")
@click.option("--set", "variables", metavar="NAME=VALUE", multiple=True, help="A variable of the profile.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(name: str | None, profile: str | None, variables: tuple[str, ...], as_json: bool) -> None:
    """Is PROFILE (a built-in name or a file) valid?"""
    from ..profile import compile_plan, load_profile

    wanted = name or profile
    if wanted is None or (name and profile and name != profile):
        raise UsageError("`provision check` takes one profile", hint="provision check comfyui")
    try:
        loaded = load_profile(wanted, overrides=overrides(variables))
    except ProfileError as error:
        if as_json:
            problems = [as_fields(problem) for problem in error.problems]
            click.echo(
                json.dumps({"valid": False, "profile": wanted, "problems": problems}, ensure_ascii=False)
            )
        raise
    facts = counts(loaded, compile_plan(loaded))
    click.echo(json.dumps({"valid": True, **facts}, ensure_ascii=False) if as_json else sentence(facts))


def overrides(variables: tuple[str, ...]) -> dict[str, str]:
    """The values of ``--set NAME=VALUE``; the last of a name wins.

    Raises:
        UsageError: an argument without a name or without ``=``.
    """
    pairs = [variable.partition("=") for variable in variables]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise UsageError(f"`--set {name}` is not NAME=VALUE", hint="--set comfyui_ref=v0.3.60")
    return {name: value for name, _, value in pairs}


def as_fields(problem: str) -> dict[str, Any]:
    """A problem's line for programs: `file line column message`."""
    match = re.fullmatch(r"(?s)(.*?):(\d+):(\d+): (.*)", problem)
    assert match is not None
    return {"file": match[1], "line": int(match[2]), "column": int(match[3]), "message": match[4]}


def counts(profile: Profile, plan: Plan) -> dict[str, Any]:
    """What *profile* asks for, in numbers."""
    leveled = (plan.repos, plan.downloads, plan.files, plan.commands, plan.checks, plan.services)
    sizes = [item.size_bytes for item in plan.downloads]
    return {
        "name": profile.name,
        "downloads": len(plan.downloads),
        "bytes": sum(size for size in sizes if size is not None),
        "unknown_sizes": sizes.count(None),
        "repos": len(plan.repos),
        "checks": len(plan.checks),
        "services": len(plan.services),
        "critical": sum(item.level == "critical" for items in leveled for item in items),
        "secrets": [rule.name for rule in plan.secrets],
        "plan_hash": plan.hash,
    }


def sentence(facts: dict[str, Any]) -> str:
    """*facts* on one line for people."""
    from ..profile.units import as_text

    unknown = f", {facts['unknown_sizes']} of unknown size" if facts["unknown_sizes"] else ""
    return (
        f"{facts['name']} is valid: {_some(facts['downloads'], 'download')} "
        f"({as_text(facts['bytes'])} known{unknown}), {_some(facts['repos'], 'repo')}, "
        f"{_some(facts['checks'], 'check')}, {_some(facts['services'], 'service')}; "
        f"{_some(facts['critical'], 'critical item')}"
    )


def _some(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
