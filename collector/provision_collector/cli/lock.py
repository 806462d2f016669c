"""`provision lock`: pin a profile to exact URLs, sizes, hashes and commits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import completing
from .options import (
    Connection,
    configure_logging,
    connection_options,
    instance_of,
    variables_option,
    workflow_option,
)
from .output import say, say_json, tell
from .run_options import default_secrets_option

if TYPE_CHECKING:
    from ..planning.lock import Lock


@click.command("lock")
@click.argument("name", shell_complete=completing.profiles, metavar="[PROFILE]", required=False)
@connection_options
@click.option(
    "--profile", shell_complete=completing.profiles, metavar="NAME|PATH", help="The same as the argument."
)
@variables_option
@workflow_option
@click.option("--workspace", metavar="PATH", help="The folder on the instance, with --host.")
@click.option("--output", "-o", metavar="FILE", help="Else PROFILE.lock.json, beside the profile's file.")
@default_secrets_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    name: str | None,
    connection: Connection,
    profile: str | None,
    variables: tuple[tuple[str, str], ...],
    workflows: tuple[str, ...],
    workspace: str | None,
    output: str | None,
    default_secrets: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Pin PROFILE: ask every source for size, hash and commit, and write them to a lock that `up --locked` obeys.

    With --host the instance is asked, and what stands there counts first: the files that a run has verified and the
    commits that are checked out; what no source tells the hash of is read there; the versions of Python packages are
    learnt from there only. An optional item that cannot be pinned is left out of the lock, and named; with anything else
    that cannot be pinned nothing is written.
    """
    configure_logging(verbose)
    from ..console.text import harmless
    from ..planning.lock import lock_path, make_lock
    from ..planning.prepare import prepare
    from .check import one_profile, print_warnings

    wanted = one_profile("lock", name, profile)
    prepared = prepare(
        wanted,
        overrides=dict(variables),
        workflows=workflows,
        workspace=workspace,
        default_secrets=default_secrets,
    )
    print_warnings(prepared.warnings)
    instance = instance_of(connection) if connection["host"] else None
    lock, unpinned = make_lock(prepared.plan, prepared.ask(instance=instance, pin=True))
    path = Path(output) if output else lock_path(wanted)
    refused = [item for item in unpinned if not item.is_optional]
    if not refused:
        path.write_text(lock.to_text(), encoding="utf-8")
    if as_json:
        facts = {
            "lock": None if refused else str(path),
            "downloads": len(lock.downloads),
            "repos": len(lock.repos),
            "packages": len(lock.packages),
            "unpinned": [
                {"item": item.item, "level": item.wanted.level, "message": item.message} for item in unpinned
            ],
        }
        say_json(facts)
    elif not refused:
        _say(path, lock, knows_packages=prepared.plan.python is None or bool(lock.packages))
    for item in unpinned:
        what = "warning: leaves out" if item.is_optional else "cannot pin"
        tell(f"provision: {what} `{harmless(item.item)}`: {harmless(item.message)}")
    if refused:
        tell("  next: mend the lines above; no lock was written")
        sys.exit(1)


def _say(path: Path, lock: Lock, *, knows_packages: bool) -> None:
    """What was pinned, for people."""
    from ..console.units import counted, size

    total = size(sum(file.size for file in lock.downloads))
    files, commits = counted(len(lock.downloads), "file"), counted(len(lock.repos), "commit")
    packages = counted(len(lock.packages), "package")
    say(f"{path}: {files} ({total}), {commits}, {packages}; `provision up --locked` brings nothing else")
    if not knows_packages:
        tell(
            "provision: warning: the versions of Python packages are not pinned: they are learnt from an instance "
            "that has them\n  next: the same command with `--host`"
        )
