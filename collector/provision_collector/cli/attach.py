"""``provision attach``: follow a run that is already going."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from . import completing
from .options import (
    Connection,
    configure_logging,
    connection_options,
    gone_check_option,
    instance_of,
    profile_option,
    variables_option,
    workspace_of,
    workspace_option,
)
from .output_options import outputs_options

if TYPE_CHECKING:
    from ..run.spec import OutputsHere


@click.command("attach")
@click.argument("run", shell_complete=completing.runs, required=False)
@connection_options
@workspace_option
@click.option("--logs-dir", default="logs", show_default=True, metavar="DIR", help="Where new mirrors go.")
@profile_option(
    "What the run was started with, if not from this machine: the secrets that may be sent and the limit."
)
@variables_option
@outputs_options
@gone_check_option
@click.option("--stop-on-exit", is_flag=True, help="Ctrl-C stops the run on the instance, too.")
@click.option("--json", "as_json", is_flag=True, help="Events and the outcome as JSON Lines on stdout.")
@click.option("--quiet", "-q", is_flag=True, help="Only what went wrong.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    run: str | None,
    connection: Connection,
    workspace: str | None,
    logs_dir: str,
    profile: str | None,
    variables: tuple[tuple[str, str], ...],
    outputs: OutputsHere | None,
    gone_check: str | None,
    stop_on_exit: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Follow RUN to its end, or with --host the current run of an instance.

    The mirrors of an earlier watcher on this machine are continued where they end. A run that another machine started
    gets no secret from here without --profile, and is watched for 24 hours at most: attach again to go on.
    """
    configure_logging(verbose)
    from ..pool import gone
    from ..pool.begin import attach
    from ..profile import load_profile
    from .watch import mode_for, watch

    instance = instance_of(connection, run, waits_for_boot=True)
    folder = workspace or workspace_of(run, instance)
    started_with = load_profile(profile, overrides=dict(variables)) if profile is not None else None
    sys.exit(
        watch(
            lambda: attach(
                instance,
                run_id=run,
                workspace=folder,
                logs_dir=logs_dir,
                profile=started_with,
                outputs=outputs,
            ),
            host=str(instance),
            mode=mode_for(json=as_json, quiet=quiet, verbose=verbose),
            stop_on_exit=stop_on_exit,
            gone_check=gone.gone_check(gone_check),
        )
    )
