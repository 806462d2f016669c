"""Options that several commands share: how to reach an instance, which run, durations."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypedDict, TypeVar

import click

from . import completing
from .last_word import LAST_WORD
from .output import tell

if TYPE_CHECKING:
    from ..instance import Instance

P = ParamSpec("P")
R = TypeVar("R")


class Option(Protocol):
    """Adds one option to a command, which stays of its type."""

    def __call__(self, command: Callable[P, R], /) -> Callable[P, R]: ...


class Connection(TypedDict, total=False):
    """The values of the connection options: how to reach an instance. None, and `host` is missing, where not given."""

    host: str | None
    port: int | None
    user: str | None
    key: str | None
    ssh_config: str | None
    host_key: str | None
    known_hosts: str | None
    instance_id: str | None
    boot_grace_s: float | None
    contact_timeout_s: float | None


CONNECTION_OPTIONS = tuple(Connection.__annotations__)


def duration(text: str) -> float:
    """An option's value as seconds: a number, or ``30s 15m 1h``."""
    from ..profile.units import duration_s

    try:
        return duration_s(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def duration_or_none_at_all(text: str) -> float:
    """As `duration`; ``0`` is one, too."""
    return 0.0 if text.strip() in ("0", "0s") else duration(text)


def pair(text: str) -> tuple[str, str]:
    """An option's value as ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"`{text}` is not NAME=VALUE")
    return name, value


_CONNECTION = (
    click.option(
        "--host",
        shell_complete=completing.hosts,
        metavar="[USER@]HOST[:PORT]",
        help="The instance; a pasted `ssh -p … root@…` is understood.",
    ),
    click.option("--port", "-p", type=click.IntRange(1, 65535), help="SSH port."),
    click.option(
        "--user", metavar="NAME", help="SSH user (root, unless your ssh configuration says another)."
    ),
    click.option("--key", "-i", metavar="PATH", help="Private key."),
    click.option("--ssh-config", metavar="PATH", help="Instead of ~/.ssh/config."),
    click.option(
        "--host-key",
        type=click.Choice(["accept-new", "strict", "off"]),
        help="Unknown host keys (accept-new).",
    ),
    click.option(
        "--known-hosts", metavar="PATH", help="Instead of the tool's own file and ~/.ssh/known_hosts."
    ),
    click.option(
        "--instance-id", metavar="ID", help="Names the machine where providers recycle host and port."
    ),
    click.option(
        "--boot-grace",
        "boot_grace_s",
        type=duration_or_none_at_all,
        metavar="DURATION",
        help="How long an instance may still be booting (2m; 3s where a command only asks).",
    ),
    click.option(
        "--contact-timeout", "contact_timeout_s", type=duration, help="How long to try to come back (10m)."
    ),
)


def connection_options(command: Callable[P, R]) -> Callable[P, R]:
    """Add the connection options; the command gets them as *connection*, a `Connection`."""
    return _gathered(command, _CONNECTION, CONNECTION_OPTIONS)


def login_options(command: Callable[P, R]) -> Callable[P, R]:
    """Add the connection options without ``--host``, for a command that takes several hosts."""
    return _gathered(command, _CONNECTION[1:], CONNECTION_OPTIONS[1:])


def _gathered(command: Callable[P, R], options: Sequence[Option], names: Sequence[str]) -> Callable[P, R]:
    @functools.wraps(command)
    def gathered(*args: P.args, **kwargs: P.kwargs) -> R:
        kwargs["connection"] = {name: kwargs.pop(name) for name in names}
        return command(*args, **kwargs)

    decorated: Callable[P, R] = gathered
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _variable(text: str) -> tuple[str, str]:
    from ..errors import UsageError

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"`--set {text}` is not NAME=VALUE", hint="--set comfyui_ref=v0.3.60")
    return name, value


workspace_option: Option = click.option(
    "--workspace", metavar="PATH", help="The folder on the instance, if it has several."
)


def profile_option(help_: str, *, required: bool = False) -> Option:
    """``--profile``, for which *help_* says what the command wants it for; the command gets *profile*."""
    return click.option(
        "--profile", required=required, shell_complete=completing.profiles, metavar="NAME|PATH", help=help_
    )


def variables_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add ``--set``; the command gets the pairs as *variables*."""
    return click.option(
        "--set",
        "variables",
        type=_variable,
        multiple=True,
        metavar="NAME=VALUE",
        help="Set a variable of the profile.",
    )(command)


def workflow_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add ``--workflow``, repeatable; the command gets *workflows*."""
    return click.option(
        "--workflow",
        "workflows",
        multiple=True,
        metavar="FILE",
        help="Also what this ComfyUI workflow needs.",
    )(command)


def gone_check_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add ``--gone-check``; the command gets the text as *gone_check*."""
    return click.option(
        "--gone-check",
        metavar="COMMAND",
        help="Run while the instance is unreachable; exit status 0 means that it no longer exists.",
    )(command)


ASKING_GRACE_S = 3.0
"""A command that only asks tries again this long: for an instance that is there, and is busy for a moment."""


def instance_of(
    connection: Mapping[str, object], run: str | None = None, *, waits_for_boot: bool = False
) -> Instance:
    """The instance that the options name, or the one of a *run* that this machine knows.

    Args:
        connection: The connection options.
        run: The run whose instance is meant where they name none.
        waits_for_boot: The command is of use for an instance that still boots; else only where the options say so.

    Raises:
        UsageError: neither says which.
    """
    from dataclasses import replace

    from ..errors import UsageError
    from ..instance import Instance
    from ..run import registry

    given = {name: value for name, value in connection.items() if value is not None}
    if not waits_for_boot:
        given.setdefault("boot_grace_s", ASKING_GRACE_S)
    host = given.pop("host", None)
    LAST_WORD.concerns(host=str(host or ""), run=run)
    if host is not None:
        instance = Instance.parse(str(host), **given)
    elif run is None:
        newest = next(iter(registry.all_runs()), None)
        here = f", such as {newest.run}, the newest, on {newest.to_instance()}" if newest is not None else ""
        raise UsageError(
            "which instance?", hint=f"give `--host`, or the id of a run that `provision status` lists{here}"
        )
    else:
        known = registry.known(run).to_instance()
        LAST_WORD.concerns(host=str(known))
        instance = replace(known, **given)  # type: ignore[arg-type]  # click has made them what they are
    unlock_keys([instance])
    return instance


def newest_run(connection: Mapping[str, object], run: str | None) -> str | None:
    """*run*; where neither it nor ``--host`` is given the newest one known here, and that is said.

    For commands that change nothing there, or only what they name. None: the options name the instance, or no run is known.
    """
    from ..run import registry

    if run is not None or connection.get("host"):
        return run
    newest = next(iter(registry.all_runs()), None)
    if newest is None:
        return None
    tell(f"provision: on {newest.to_instance()}, the instance of the newest run, {newest.run}")
    return newest.run


def run_or_profile(word: str | None, profile: str | None) -> tuple[str | None, str | None]:
    """The run and the profile that are meant, where *word* may be the file of a profile instead of a run.

    Raises:
        UsageError: both name a profile.
    """
    from ..errors import UsageError
    from ..run import registry

    is_file = word is not None and (
        "/" in word or (word.endswith((".yaml", ".yml")) and not registry.find(word))
    )
    if not is_file:
        return word, profile
    if profile is not None and profile != word:
        raise UsageError(f"`{word}` and `{profile}` are both profiles", hint="give one of them")
    return None, word


def words_there(
    connection: Mapping[str, object], instance: Instance, run: str | None = None, workspace: str | None = None
) -> str:
    """The words that name *instance* in a command that is advised: as they were given, so that it can be pasted.

    Args:
        connection: The connection options.
        instance: What they, or *run*, lead to.
        run: The run, as the command's argument.
        workspace: The value of ``--workspace``, if it was given.
    """
    if connection.get("host"):
        words = instance.options
    else:
        given = [(name, connection.get(name)) for name in CONNECTION_OPTIONS if not name.endswith("_s")]
        more = [
            word for name, value in given if value for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        words = shlex.join([*([run] if run else []), *more])
    return words + (f" --workspace {shlex.quote(workspace)}" if workspace else "")


def unlock_keys(instances: Sequence[Instance]) -> None:
    """Ask for the passphrases of keys that nothing else opens, where somebody sits at a terminal."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return
    import asyncio

    from ..instance import locked_keys, unlock

    for instance in {(one.key, one.ssh_config): one for one in instances}.values():
        for file in asyncio.run(locked_keys(instance)):
            unlock(
                file,
                lambda text: click.prompt(text, default="", hide_input=True, show_default=False, err=True),
            )


def workspace_of(run: str | None, instance: Instance) -> str | None:
    """The folder of *run* on *instance*, if this machine knows that run there."""
    from ..run import registry

    record = registry.find(run, instance) if run else None
    return (record.workspace or None) if record is not None else None


def configure_logging(verbose: bool) -> None:
    """Set up logging; imported late, so that `--help` stays quick."""
    from .. import log

    log.configure(verbose=verbose)
