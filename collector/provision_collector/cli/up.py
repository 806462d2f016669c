"""``provision up``: push the agent, run a profile on an instance, mirror its logs to the end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Unpack

import click

from .last_word import LAST_WORD
from .options import (
    Connection,
    configure_logging,
    connection_options,
    gone_check_option,
    instance_of,
    profile_option,
    variables_option,
    workflow_option,
)
from .output import say, say_json, tell
from .output_options import outputs_options
from .run_options import RunOptions, locked_option, offline_option, prepared, run_options

if TYPE_CHECKING:
    from ..run.run import Run
    from ..run.spec import OutputsHere


class UpOptions(RunOptions):
    """The options that go to `start` as they are."""

    run_id: str | None
    kill_holders: bool
    outputs: OutputsHere | None
    offline: bool


Begin = Callable[[], Awaitable["Run"]]


@click.command("up")
@connection_options
@profile_option("What the instance must have.", required=True)
@variables_option
@workflow_option
@locked_option
@run_options
@click.option("--run-id", metavar="ID", help="Name the run; generated when left out.")
@click.option(
    "--kill-holders",
    is_flag=True,
    help="End the processes on the instance that keep a broken environment from being deleted.",
)
@offline_option
@click.option(
    "--forward", is_flag=True, help="Bring the services' ports to this machine once usable, until Ctrl-C."
)
@outputs_options
@gone_check_option
@click.option(
    "--detach",
    is_flag=True,
    help="Print the run id and leave, once the instance has the run and its uploads.",
)
@click.option("--stop-on-exit", is_flag=True, help="Ctrl-C stops the run on the instance, too.")
@click.option("--json", "as_json", is_flag=True, help="Events and the outcome as JSON Lines on stdout.")
@click.option("--quiet", "-q", is_flag=True, help="Only what went wrong.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    connection: Connection,
    profile: str,
    variables: tuple[tuple[str, str], ...],
    workflows: tuple[str, ...],
    locked: bool,
    labels: tuple[tuple[str, str], ...],
    forward: bool,
    gone_check: str | None,
    detach: bool,
    stop_on_exit: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Unpack[UpOptions],
) -> None:
    """Push the agent to an instance, run a profile there, mirror its logs, end with the verdict.

    Ctrl-C leaves the run going: `provision attach` comes back to it.
    """
    configure_logging(verbose)
    if forward and detach:
        raise click.UsageError("`--detach` leaves and `--forward` stays: give one of them")
    from ..pool import gone
    from .watch import mode_for, watch

    LAST_WORD.concerns(host=connection["host"] or "", run=options["run_id"], labels=dict(labels))
    asked = gone.gone_check(gone_check)
    instance = instance_of(connection, waits_for_boot=True)
    wanted = prepared(profile, dict(variables), options, workflows=workflows, is_locked=locked)
    for problem in (*wanted.warnings, *wanted.unresolved) if not quiet else ():
        tell(f"provision: warning: {problem}")

    def begin() -> Awaitable[Run]:
        from ..pool.begin import start

        return start(
            instance,
            wanted.plan,
            secrets={**wanted.bucket_values, **wanted.secrets},
            buckets=wanted.profile.buckets,
            labels=dict(labels),
            uploads=wanted.uploads,
            **options,
        )

    if detach:
        sys.exit(asyncio.run(_detach(begin, as_json=as_json)))
    mode = mode_for(json=as_json, quiet=quiet, verbose=verbose)
    sys.exit(
        watch(
            begin,
            host=str(instance),
            mode=mode,
            stop_on_exit=stop_on_exit,
            gone_check=asked,
            forwards_ports=forward,
        )
    )


async def _detach(begin: Begin, *, as_json: bool) -> int:
    from .watch import say_errors

    run = await begin()
    await run.started()
    await run.uploaded()
    if run.is_started:
        await run.leave()
        if as_json:
            say_json({"run": run.id})
        else:
            say(run.id)
        return 0
    outcome = await run.outcome()
    say_errors(outcome)
    return int(outcome["exit_code"])
