"""`provision check`: is this profile valid, every problem as ``file:line:column: message``; and are its sources there?"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypedDict

import click

from ..errors import ProfileError, UsageError
from . import completing
from .last_word import LAST_WORD
from .options import profile_option, variables_option, workflow_option
from .output import say, say_json, tell
from .run_options import default_secrets_option

if TYPE_CHECKING:
    from provision_agent.contract.plan import Plan

    from ..files import Listing
    from ..planning.prepare import Prepared
    from ..planning.sources import Row
    from ..planning.token_owner import TokenOwner
    from ..profile import Profile


class Counts(TypedDict):
    """What a profile asks for, in numbers, as `check --json` and `profiles list --json` print it."""

    name: str
    downloads: int
    bytes: int
    uploads: int
    upload_files: int | None
    """Of this machine; None: nobody looked."""
    upload_bytes: int | None
    unknown_sizes: int
    repos: int
    checks: int
    services: int
    jobs: int
    critical: int
    secrets: list[str]
    plan_hash: str


@click.command("check")
@click.argument("name", shell_complete=completing.profiles, metavar="[PROFILE]", required=False)
@profile_option("The same as the argument.")
@variables_option
@workflow_option
@click.option("--online", is_flag=True, help="Ask every source about every file; ends with 0, 1 or 5.")
@default_secrets_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    name: str | None,
    profile: str | None,
    variables: tuple[tuple[str, str], ...],
    workflows: tuple[str, ...],
    online: bool,
    default_secrets: bool,
    as_json: bool,
) -> None:
    """Is PROFILE (a built-in name or a file) valid? With --online: does every source have what it promises?

    A lock beside it that does not fit it any more is a warning.
    """
    from dataclasses import asdict

    from ..planning.lock import lock_problems
    from ..planning.prepare import prepare
    from ..planning.sources import exit_code, rows_of, seen_from_here

    wanted = one_profile("check", name, profile)
    try:
        prepared = prepare(
            wanted,
            overrides=dict(variables),
            workflows=workflows,
            default_secrets=default_secrets,
            lists_files=True,
        )
    except ProfileError as error:
        if as_json:
            _say_problems(wanted, error)
        raise
    facts = counts(prepared.profile, prepared.plan, prepared.listings)
    locked = None if workflows else lock_problems(wanted, prepared.plan)
    code = 0
    rows: list[Row] = []
    owners: list[TokenOwner] = []
    print_warnings(prepared.warnings)
    if online:
        rows = seen_from_here(rows_of(prepared.plan, prepared.ask()))
        code = exit_code(rows)
        owners = _owners(prepared)
    if as_json:
        more: dict[str, object] = {"unresolved": list(prepared.unresolved)} if workflows else {}
        if locked is not None:
            more["lock"] = {"path": str(locked[0]), "fits": not locked[1], "problems": locked[1]}
        tokens = [asdict(owner) for owner in owners]
        asked = {"sources": [row.to_json() for row in rows], "tokens": tokens} if online else {}
        say_json({"valid": True, **facts, **more, **asked})
    else:
        say(sentence(facts))
        _print_sources(rows)
        _print_tokens(owners)
        print_warnings(locked[1] if locked is not None else ())
        for open_ in prepared.unresolved:
            tell(f"open: {open_}")
    sys.exit(code)


def _say_problems(wanted: str, error: ProfileError) -> None:
    problems = [as_fields(problem) for problem in error.problems]
    say_json({"valid": False, "profile": wanted, "problems": problems})
    LAST_WORD.is_said = True


def one_profile(command: str, name: str | None, profile: str | None) -> str:
    """The profile that the argument or ``--profile`` names.

    Raises:
        UsageError: neither does, or they disagree.
    """
    wanted = name or profile
    if wanted is None or (name and profile and name != profile):
        raise UsageError(f"`provision {command}` takes one profile", hint=f"provision {command} comfyui")
    return wanted


def print_warnings(warnings: Iterable[str]) -> None:
    """Say on stderr what is not as it should be and stops nothing."""
    for warning in warnings:
        tell(f"provision: warning: {warning}")


def _print_sources(rows: list[Row]) -> None:
    if not rows:
        return
    from ..console.text import harmless

    state = max(len(row.state) for row in rows)
    host = max(len(row.host) for row in rows)
    say(f"\n{'STATE':{state}}  {'LEVEL':8}  {'SOURCE':{host}}  ITEM")
    for row in rows:
        why = f"\n{'':{state}}  {row.message}; {row.hint}" if row.message else ""
        role = "" if row.role == "url" else f"  ({row.role})"
        say(
            harmless(
                f"{row.state:{state}}  {row.level:8}  {row.host:{host}}  {row.item}{role}{why}",
                keep="\n",
            )
        )


def _owners(prepared: Prepared) -> list[TokenOwner]:
    """Whom the hub's tokens belong to, asked from this machine."""
    import asyncio

    from ..planning.token_owner import token_owners

    return asyncio.run(token_owners(prepared.plan.secrets, prepared.secrets))


def _print_tokens(owners: list[TokenOwner]) -> None:
    from ..console.text import harmless

    for owner in owners:
        say(harmless(f"token  {owner.message}"))
        if owner.hint:
            say(harmless(f"  next: {owner.hint}"))


def as_fields(problem: str) -> dict[str, object]:
    """A problem's line for programs: `file line column message`."""
    match = re.fullmatch(r"(?s)(.*?):(\d+):(\d+): (.*)", problem)
    assert match is not None
    return {"file": match[1], "line": int(match[2]), "column": int(match[3]), "message": match[4]}


def counts(profile: Profile, plan: Plan, listings: Sequence[Listing] | None = None) -> Counts:
    """What *profile* asks for, in numbers; *listings* are its uploads, where somebody looked at them."""
    from ..planning.steps import items_of

    levels = [getattr(item, "level", "") for step in plan.steps for item in items_of(plan, step)]
    sizes = [item.size_bytes for item in plan.downloads]
    return {
        "name": profile.name,
        "downloads": len(plan.downloads),
        "bytes": sum(size for size in sizes if size is not None),
        "uploads": len(plan.uploads),
        "upload_files": None if listings is None else sum(each.count for each in listings),
        "upload_bytes": None if listings is None else sum(each.bytes for each in listings),
        "unknown_sizes": sizes.count(None),
        "repos": len(plan.repos),
        "checks": len(plan.checks),
        "services": len(plan.services),
        "jobs": len(plan.jobs),
        "critical": levels.count("critical"),
        "secrets": [rule.name for rule in plan.secrets],
        "plan_hash": plan.hash,
    }


def sentence(facts: Counts) -> str:
    """*facts* on one line for people."""
    from ..console.units import counted
    from ..profile.units import as_text

    known = f"{as_text(facts['bytes'])} known" if facts["bytes"] or not facts["unknown_sizes"] else ""
    unknown = f"{facts['unknown_sizes']} of unknown size" if facts["unknown_sizes"] else ""
    sizes = ", ".join(filter(None, (known, unknown)))
    return (
        f"{facts['name']} is valid: {counted(facts['downloads'], 'download')} ({sizes}), "
        f"{_uploads(facts)}{counted(facts['repos'], 'repo')}, "
        f"{counted(facts['checks'], 'check')}, {counted(facts['services'], 'service')}"
        f"{', ' + counted(facts['jobs'], 'job') if facts['jobs'] else ''}; "
        f"{counted(facts['critical'], 'critical item')}"
    )


def _uploads(facts: Counts) -> str:
    from ..console.units import counted
    from ..profile.units import as_text

    if not facts["uploads"]:
        return ""
    files = facts["upload_files"]
    known = "" if files is None else f" ({counted(files, 'file')}, {as_text(facts['upload_bytes'] or 0)})"
    return f"{counted(facts['uploads'], 'upload')}{known}, "
