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
    profile_option,
    variables_option,
    workflow_option,
)
from .output import say, say_json, tell
from .run_options import default_secrets_option
from .target_options import TargetWords, target_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..planning.lock import Lock, Unpinned


@click.command("lock")
@click.argument("name", shell_complete=completing.profiles, metavar="[PROFILE]", required=False)
@connection_options
@profile_option("The same as the argument.")
@variables_option
@workflow_option
@target_options
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
    words: TargetWords,
    workspace: str | None,
    output: str | None,
    default_secrets: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Pin PROFILE: ask every source for size, hash and commit, and write them to a lock that `up --locked` obeys.

    Packages are pinned as wheels with their hashes, for one Python, platform and accelerator: those of the instance with
    --host, else those that --python, --platform and --accelerator name; without either they are not pinned.
    With --host what stands on the instance counts first: the files that a run has verified, the commits that are checked
    out, the versions that are installed; what no source tells the hash of is read there. An optional item that cannot be
    pinned is left out of the lock, and named; with anything else that cannot be pinned nothing is written.
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
    target = words.target(prepared.plan, host=str(instance) if instance else None)
    surveyed = prepared.ask(instance=instance, packages=True, pin=True, target=target)
    lock, unpinned = make_lock(prepared.plan, surveyed)
    path = Path(output) if output else lock_path(wanted)
    refused = [item for item in unpinned if not item.is_optional]
    if not refused:
        path.write_text(lock.to_text(), encoding="utf-8")
    if as_json:
        _say_json(None if refused else path, lock, unpinned)
    elif not refused:
        _say(path, lock, knows_packages=prepared.plan.python is None or bool(lock.packages))
    for item in unpinned:
        what = "warning: leaves out" if item.is_optional else "cannot pin"
        tell(f"provision: {what} `{harmless(item.item)}`: {harmless(item.message)}")
    if refused:
        tell("  next: mend the lines above; no lock was written")
        sys.exit(1)


def _say_json(path: Path | None, lock: Lock, unpinned: Sequence[Unpinned]) -> None:
    """What was pinned, for programs."""
    say_json(
        {
            "lock": None if path is None else str(path),
            "downloads": len(lock.downloads),
            "repos": len(lock.repos),
            "packages": len(lock.packages),
            "wheels": None if lock.environment is None else len(lock.environment.wheels),
            "unpinned": [
                {"item": item.item, "level": item.level, "message": item.message} for item in unpinned
            ],
        }
    )


def _say(path: Path, lock: Lock, *, knows_packages: bool) -> None:
    """What was pinned, for people."""
    from ..console.text import harmless
    from ..console.units import counted, size

    total = size(sum(file.size for file in lock.downloads))
    files, commits = counted(len(lock.downloads), "file"), counted(len(lock.repos), "commit")
    packages, wheels = counted(len(lock.packages), "package"), lock.environment
    if wheels is not None:
        bytes_ = size(sum(wheel.size or 0 for wheel in wheels.wheels))
        accelerator = "" if wheels.accelerator == "none" else f", {wheels.accelerator}"
        machine = f"Python {wheels.python}, {wheels.platform}{accelerator}"
        packages = f"{counted(len(wheels.wheels), 'wheel')} ({bytes_}; {machine})"
    say(f"{path}: {files} ({total}), {commits}, {packages}; `provision up --locked` brings nothing else")
    for each in lock.left_out:
        if each.kind == "requirement":
            tell(
                f"provision: warning: leaves out `{harmless(each.asked)}` ({harmless(each.path)}): {harmless(each.message)}"
            )
    if not knows_packages:
        tell(
            "provision: warning: the Python packages are not pinned: they depend on the machine\n"
            "  next: the same command with `--host`, or with `--python 3.11 --platform linux-x86_64 --accelerator cu128`"
        )
