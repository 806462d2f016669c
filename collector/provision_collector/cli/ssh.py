"""``provision ssh``: the system's ssh to an instance, with the key, the port and the host keys of its run."""

from __future__ import annotations

import os
import shutil

import click

from . import completing
from .options import Connection, configure_logging, connection_options, instance_of


@click.command("ssh")
@click.argument(
    "words",
    nargs=-1,
    metavar="[RUN] [-- COMMAND]…",
    type=click.UNPROCESSED,
    shell_complete=completing.runs,
)
@connection_options
def command(*, words: tuple[str, ...], connection: Connection) -> None:
    """Open a shell on the instance of RUN, or on --host; or run COMMAND there: `provision ssh RUN -- nvidia-smi`.

    It is the ssh of this machine, with the address, login, key and host keys that the run was started with. Nothing is
    forwarded: neither your ssh agent, nor X11, nor variables of your environment.
    """
    configure_logging(False)
    from ..errors import UsageError
    from ..instance.ssh_command import ssh_argv

    run, rest = (None, words) if connection["host"] else (words[0] if words else None, words[1:])
    instance = instance_of(connection, run)
    program = shutil.which("ssh")
    if program is None:
        raise UsageError(
            "there is no `ssh` on this machine",
            hint="install OpenSSH's client: `apt-get install openssh-client`",
        )
    os.execv(program, ssh_argv(instance, rest))  # noqa: S606  # its words are ours, each by itself
