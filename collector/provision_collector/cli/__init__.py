"""The command line: one module per command, loaded when it is called; the only room that prints.

`main` is the one place that turns errors into text and exit codes.
"""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import io
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click

from ..distribution import DISTRIBUTION
from ..errors import (
    BugError,
    InterruptedHereError,
    LocalMachineError,
    ProfileError,
    ProvisionError,
    UsageError,
)
from .last_word import LAST_WORD
from .output import tell

SECTIONS = {
    "Runs": {
        "up": "push the agent, run a profile on an instance, mirror its logs to the end",
        "attach": "follow a run that is already going",
        "status": "one run or all runs known here; --host asks the instance itself",
        "explain": "where the time of a run went, or the story of one item; --html draws it",
        "logs": "print a local mirror; -f follows it",
        "services": "list | restart NAME | stop NAME | logs NAME: the programs that outlive a run",
        "stop": "stop a run; partial downloads stay for the next one",
        "keep": "put off the end of an instance that its profile's `lifetime` says: keep RUN --for 2h",
        "ssh": "a shell on a run's instance, by the system's ssh with the same key and host keys",
        "copy": "files to an instance or from it, by hand; a path there begins with `:`",
        "forward": "bring a service's port to this machine",
        "prune": "remove old runs, mirrors and unused agents, here or with --host there",
    },
    "Profiles": {
        "check": "is this profile valid?  --online asks every source about every file",
        "plan": "what `up` would do, with bytes, disk and time; changes nothing",
        "lock": "pin a profile: exact URLs, sizes, hashes, commits",
        "bundle": "one file that a provider's start command runs: a run with nobody there",
        "profiles": "list | show NAME | schema | from-workflow FILE… | import FILE | capture --host …",
    },
    "Instances": {
        "doctor": "SSH, python3, disk, GPU and driver, clock, reachability of the profile's sources",
        "verify": "run only the profile's checks on an instance, now",
        "audit": "compare a live instance with a profile or its lock; --repair mends it",
        "hosts": "list | scores | forget HOST (known hosts and scorecards)",
        "collect": "mirror the log of any script on an instance: no agent, no profile",
    },
    "Many instances": {
        "fleet": "up | status over many instances at once",
        "serve": "HTTP API, server-sent events and a page, for programs that keep a pool of instances",
    },
    "Try it": {
        "demo": "the whole thing on this machine: an embedded instance and file server",
        "help": "this text, or that of a command: help up",
        "completion": "what makes your shell complete commands, runs, profiles and hosts",
    },
}
"""Every command with one line of help, by what it is about."""
COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}

_LOCAL_TROUBLE = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.ESTALE
)  # fmt: skip
OBJECTS_BEFORE_GC = 20_000
"""So many more of them are made than freed before Python looks for cycles: with its own 700 a sixth of a start goes there."""
_POSIX_MODULES = ("fcntl", "pwd", "resource", "termios")


class LazyGroup(click.Group):
    """A group whose commands are imported only when called, so that ``--help`` and completion stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __name__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and args[0] not in COMMANDS and not ctx.resilient_parsing:
            from ..profile.variables import suggestion

            near = suggestion(args[0], frozenset(COMMANDS))
            raise click.UsageError(f"there is no command `{args[0]}`{near}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "--version", "-V", package_name=DISTRIBUTION)
def cli() -> None:
    """Turn a rented GPU instance into a working one, fast, and tell the truth about it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code that docs/SCRIPTING.md promises.

    Args:
        argv: The words; None: those of this process, which then ends at once and not piece by piece.
    """
    if argv is not None:
        _run(list(argv))
        return
    try:
        _run(sys.argv[1:])
    except SystemExit as end:
        _leave(end.code)
        raise
    _leave(0)


def _leave(code: object) -> None:
    """End this process, without taking apart what it has loaded: that takes 0.1 s. Returns where others have a say in that."""
    if not isinstance(code, int) or threading.active_count() > 1:
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # the interpreter says it, as ever
    os._exit(code & 0xFF)


def _run(words: list[str]) -> None:
    gc.set_threshold(OBJECTS_BEFORE_GC, 20, 20)
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    LAST_WORD.begin(words)
    try:
        cli.main(args=words, standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show(said := io.StringIO())
        tell(said.getvalue(), end="")
        _end(UsageError(error.format_message(), hint=_help_of(error)))
    except (click.Abort, KeyboardInterrupt):
        _end(InterruptedHereError("the command was interrupted"))
    except ProvisionError as error:
        complain(error)
        _end(error)
    except BrokenPipeError:
        sys.exit(141)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _POSIX_MODULES:
            hint = "start it inside WSL; here `check`, `profiles`, and `plan` without `--host` work"
            complain(wrong_system := UsageError("this command works on Linux, macOS and WSL only", hint=hint))
            _end(wrong_system)
        if isinstance(error, OSError) and error.errno in _LOCAL_TROUBLE:
            complain(local := _local(error))
            _end(local)
        import traceback

        tell(traceback.format_exc(), end="")
        tell("this is a bug in provision, not in your instance: please report the lines above")
        _end(BugError(f"a bug in provision: {type(error).__name__}: {error}"))


def _local(error: OSError) -> LocalMachineError:
    """What is wrong with a file of this machine, in words."""
    what = f"`{os.fsdecode(error.filename)}`: " if isinstance(error.filename, str | bytes) else ""
    is_gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
    hint = (
        "make its folder first, or choose another place"
        if is_gone
        else "choose another place for the file, or make room there"
    )
    return LocalMachineError(f"this machine: {what}{error.strerror or error}", hint=hint)


def _end(error: ProvisionError) -> NoReturn:
    """End with the code of *error*; a program that asked for JSON gets the outcome as its last line."""
    with suppress(BrokenPipeError):
        LAST_WORD.of(error)
    sys.exit(error.exit_code)


def _help_of(error: click.ClickException) -> str:
    """Where the words of the command that *error* is about are explained."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"`{context.command_path} --help` explains its words" if context is not None else ""


def complain(error: ProvisionError) -> None:
    """Say on stderr what happened and what to type next; what an instance may have said in it is made harmless."""
    clickable = isinstance(error, ProfileError)  # every line begins with file:line:column already
    tell(error if clickable else f"provision: {error}")
    if error.hint:
        tell(f"  next: {error.hint}")
