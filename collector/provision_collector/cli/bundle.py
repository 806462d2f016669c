"""``provision bundle``: one file that a provider's start command runs, so that a run begins with nobody there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from ..errors import UsageError
from . import completing
from .options import profile_option, variables_option, workflow_option
from .output import say, say_json, tell
from .run_options import PlanOptions, locked_option, offline_option, plan_options, prepared

if TYPE_CHECKING:
    from ..planning.prepare import Prepared

MODE = 0o755


@click.command("bundle")
@click.argument("name", shell_complete=completing.profiles, metavar="[PROFILE]", required=False)
@profile_option("The same as the argument.")
@variables_option
@workflow_option
@locked_option
@plan_options
@offline_option
@click.option("--output", "-o", required=True, metavar="FILE", help="The file that is made.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *,
    name: str | None,
    profile: str | None,
    variables: tuple[tuple[str, str], ...],
    workflows: tuple[str, ...],
    locked: bool,
    labels: tuple[tuple[str, str], ...],
    offline: bool,
    output: str,
    as_json: bool,
    **options: Unpack[PlanOptions],
) -> None:
    """Make FILE: agent and plan of PROFILE in one Python file, which an image or a provider's start command runs.

    On the instance `python3 FILE` begins the run, or goes on with it, and leaves it running; secrets are taken from the
    instance's environment, and none is in FILE. `provision attach --host …` shows the run later from its first byte; the
    same profile and options with `provision up` join it.
    """
    from ..console.units import size
    from ..planning.boot_file import boot_file
    from ..storage import write_atomically
    from .check import one_profile, print_warnings

    wanted = prepared(
        one_profile("bundle", name, profile),
        dict(variables),
        options,
        workflows=workflows,
        is_locked=locked,
        lists_files=False,
    )
    _refuse_secrets(wanted)
    data = boot_file(wanted.plan, labels=dict(labels), replace=options["replace"], offline=offline)
    warnings = (*wanted.lasting, *wanted.unresolved, *_what_waits(wanted))
    print_warnings(warnings)
    write_atomically(Path(output), data, mode=MODE)
    secrets = [rule.name for rule in wanted.plan.secrets]
    if as_json:
        say_json(
            {
                "bundle": output,
                "bytes": len(data),
                "plan_hash": wanted.plan.hash,
                "secrets": secrets,
                "warnings": list(warnings),
            }
        )
        return
    say(f"{output}: {size(len(data))}, the agent and the plan of `{wanted.plan.name}`; no secret is in it")
    on = f"{' '.join(f'{each}=…' for each in secrets)} " if secrets else ""
    tell(f"  next: on the instance, `{on}python3 {os.path.basename(output)}`")


def _refuse_secrets(wanted: Prepared) -> None:
    from ..planning.boot_file import secrets_within

    found = secrets_within(wanted.plan, {**wanted.bucket_values, **wanted.secrets})
    if found:
        raise UsageError(
            "; ".join(found),
            hint="declare it under `secrets:` of the profile, without its value: the instance's environment gives it",
        )


def _what_waits(wanted: Prepared) -> list[str]:
    """What the run cannot get before somebody here joins it."""
    waits = []
    if wanted.uploads:
        waits.append(
            "the uploads lie on this machine: their run waits 15 minutes for the same profile with `provision up`"
        )
    sources = wanted.buckets.sources
    if sources:
        shown = ", ".join(f"`{source.url}`" for source in sources[:3])
        waits.append(
            f"the keys of buckets stay on this machine: {shown} waits until the same profile with `provision up` joins"
        )
    return waits
