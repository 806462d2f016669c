"""``provision ssh``: the system's ssh to an instance, with the key, the port and the host keys of its run."""

from __future__ import annotations

import os
import shutil

import click

from . import completing
from .options import Connection, configure_logging, connection_options, instance_of, newest_run

_COMMAND = f"{__name__}.command"


class _WithCommand(click.Command):
    """All that stands behind ``--`` is the command that is run there, whether a run stands before it or not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_COMMAND] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])


@click.command("ssh", cls=_WithCommand)
@click.argument(
    "words",
    nargs=-1,
    metavar="[RUN] [-- COMMAND]…",
    type=click.UNPROCESSED,
    shell_complete=completing.runs,
)
@connection_options
def command(*, words: tuple[str, ...], connection: Connection) -> None:
    """Open a shell on the instance of RUN (the newest, when left out), or on --host; or run COMMAND there: `provision ssh RUN -- nvidia-smi`.

    It is the ssh of this machine, with the address, login, key and host keys that the run was started with. Nothing is
    forwarded: neither your ssh agent, nor X11, nor variables of your environment.
    """
    configure_logging(False)
    from ..errors import UsageError
    from ..instance.ssh_command import ssh_argv

    run, rest = (None, words) if connection["host"] else (words[0] if words else None, words[1:])
    rest += click.get_current_context().meta[_COMMAND]
    instance = instance_of(connection, newest_run(connection, run))
    program = shutil.which("ssh")
    if program is None:
        raise UsageError(
            "there is no `ssh` on this machine",
            hint="install OpenSSH's client: `apt-get install openssh-client`",
        )
    os.execv(program, ssh_argv(instance, rest))  # noqa: S606  # its words are ours, each by itself
