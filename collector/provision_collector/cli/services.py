"""``provision services``: the programs of an instance that outlive its runs: list them, restart or stop one, read its log."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import completing
from .options import (
    Connection,
    Option,
    configure_logging,
    connection_options,
    duration,
    instance_of,
    newest_run,
    words_there,
    workspace_of,
    workspace_option,
)
from .output import say, say_json, tell
from .signals import on_signals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provision_agent.contract.service_messages import ServicesAnswer, ServiceTold

    from ..instance import Instance

GRACE_S = 150.0
"""Beside the time for which a service is waited for: to end it, to start it, and to say so."""


@click.group("services")
def command() -> None:
    """The programs that an instance keeps running: which there are, one of them anew or ended, what one says."""


run_option: Option = click.option(
    "--run",
    shell_complete=completing.runs,
    metavar="RUN",
    help="The instance of this run (of the newest one known here, without `--host`).",
)
json_option: Option = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@command.command("list", short_help="which there are, and whether each answers")
@connection_options
@run_option
@workspace_option
@json_option
def list_(*, connection: Connection, run: str | None, workspace: str | None, as_json: bool) -> None:
    """List the services of an instance, and whether each answers now.

    Also those that another run started, and those that its image started and a run took as they were.
    """
    configure_logging(False)
    place = _Place(connection, run, workspace)
    found = place.ask("list").services
    if as_json:
        for service in found:
            say_json({"host": str(place.instance), **vars(service)})
    elif not found:
        say(f"no service of ours on {place.instance}")
    else:
        for service in found:
            _show(service)


@command.command("restart", short_help="end one and start it again")
@click.argument("name")
@connection_options
@run_option
@workspace_option
@click.option(
    "--wait",
    "wait_s",
    type=duration,
    default="60",
    metavar="SECONDS",
    help="So long it is waited for until it answers (60).",
)
@json_option
def restart(
    *, name: str, connection: Connection, run: str | None, workspace: str | None, wait_s: float, as_json: bool
) -> None:
    """End the program of the service NAME and start it again; one that has ended is started.

    A ComfyUI gets back the prompts that it had not finished. One that its image started is restarted by the image's own
    systemd or supervisord. Secrets are kept; of a service that has ended they are taken from your environment.
    """
    configure_logging(False)
    place = _Place(connection, run, workspace)
    answer = place.ask("restart", name, wait_s=wait_s)
    if answer.wants_secrets:
        answer = place.ask("restart", name, wait_s=wait_s, secrets=_values(name, answer.wants_secrets))
    _settle(place, name, answer, as_json=as_json, verb="restart", how="restarted")


@command.command("stop", short_help="end one for good")
@click.argument("name")
@connection_options
@run_option
@workspace_option
@json_option
def stop(*, name: str, connection: Connection, run: str | None, workspace: str | None, as_json: bool) -> None:
    """End the service NAME for good: it is started by the next `provision up`, or by `restart`.

    A service that something else started is never ended.
    """
    configure_logging(False)
    place = _Place(connection, run, workspace)
    _settle(place, name, place.ask("stop", name), as_json=as_json, verb="stop", how="stopped")


@command.command("logs", short_help="print what one says; -f follows it")
@click.argument("name")
@connection_options
@run_option
@workspace_option
@click.option("--lines", "-n", "last", type=click.IntRange(0), metavar="N", help="The last N lines only.")
@click.option("--follow", "-f", is_flag=True, help="Go on as it grows, until you end this.")
def logs(
    *,
    name: str,
    connection: Connection,
    run: str | None,
    workspace: str | None,
    last: int | None,
    follow: bool,
) -> None:
    """Print what the service NAME has written since it was started, as far as its log of 32 MiB goes back.

    To a pipe or file go the raw bytes; to a terminal the text, with control characters made harmless.
    """
    configure_logging(False)
    from ..errors import UsageError

    place = _Place(connection, run, workspace)
    service = place.one(name)
    if service.log is None:
        where = (
            "was started by something else, which writes its log elsewhere" if service.pid else "has no log"
        )
        raise UsageError(
            f"`{name}` on {place.instance} {where}",
            hint=f"`provision ssh {place.instance.options}` opens a shell there",
        )
    sys.exit(asyncio.run(_print_log(place.instance, service.log, last, follow=follow)))


class _Place:
    """The instance, and the folder there, that the options mean."""

    def __init__(self, connection: Connection, run: str | None, workspace: str | None) -> None:
        from ..errors import UsageError

        if run and connection["host"]:
            raise UsageError("`--run` and `--host` both name an instance", hint="give one of them")
        given, run = run, newest_run(connection, run)
        self.instance = instance_of(connection, run)
        self._workspace = workspace or workspace_of(run, self.instance)
        self._words = words_there(connection, self.instance)
        self._more = [
            word
            for name, value in (("run", given), ("workspace", workspace))
            if value
            for word in (f"--{name}", value)
        ]

    def command(self, action: str, name: str = "") -> str:
        """The command line that does *action* at this place."""
        words = ["provision services", action, shlex.quote(name) if name else "", self._words]
        return " ".join(filter(None, (*words, shlex.join(self._more))))

    def which(self, action: str, name: str, found: Sequence[ServiceTold]) -> str:
        """What to type where *found* are several of one *name*: one command for each; empty where they are not."""
        if len(found) < 2:
            return ""
        lines = [f"`{self.command(action, name)} --workspace {shlex.quote(one.workspace)}`" for one in found]
        return ", or ".join(lines)

    def ask(
        self,
        action: str,
        name: str | None = None,
        *,
        wait_s: float = 0.0,
        secrets: Mapping[str, str] | None = None,
    ) -> ServicesAnswer:
        """What the instance answers."""
        from provision_agent.contract.service_messages import ServicesAnswer, ServicesRequest

        from ..instance import as_answer
        from ..instance.query import ask

        request = ServicesRequest(action, name, self._workspace, dict(secrets or {}), wait_s)
        reader = as_answer(ServicesAnswer)
        return asyncio.run(
            ask(
                self.instance,
                "services",
                request,
                reader,
                workspace=self._workspace,
                timeout_s=wait_s + GRACE_S,
            )
        )

    def one(self, name: str) -> ServiceTold:
        """The service *name*. Raises UsageError where there is none, or several."""
        from ..errors import UsageError

        answer = self.ask("list")
        found = [service for service in answer.services if service.name == name]
        if not found:
            raise self.unknown(name, answer)
        if len(found) > 1:
            folders = ", ".join(service.workspace for service in found)
            raise UsageError(
                f"there are several services `{name}` on {self.instance}: in {folders}",
                hint=self.which("logs", name, found),
            )
        return found[0]

    def unknown(self, name: str, answer: ServicesAnswer) -> Exception:
        """The error for a *name* that no service has."""
        from ..errors import UsageError
        from ..profile.variables import suggestion

        names = [service.name for service in answer.services]
        near = suggestion(name, frozenset(names))
        there = f"it has {', '.join(names)}" if names else "it has none"
        return UsageError(
            f"there is no service `{name}` on {self.instance}{near}",
            hint=f"{there}; `{self.command('list')}` tells how they are",
        )


def _settle(place: _Place, name: str, answer: ServicesAnswer, *, as_json: bool, verb: str, how: str) -> None:
    """Say what came of a request about one service, and end with 1 where nothing did."""
    from ..errors import ProvisionError

    if not answer.is_found:
        raise place.unknown(name, answer)
    service = answer.services[0]
    if as_json:
        facts = {"done": answer.is_done, "why_not": "" if answer.is_done else answer.why_not}
        say_json(
            {"host": str(place.instance), **facts, **vars(service), "last_lines": list(answer.last_lines)}
        )
        sys.exit(0 if answer.is_done else 1)
    if not answer.is_done:
        for line in answer.last_lines[-20:]:
            tell(f"  {line}")
        raise ProvisionError(
            f"`{name}` on {place.instance} is not {how}: {answer.why_not}",
            hint=place.which(verb, name, answer.services)
            or f"`{place.command('logs', name)}` tells what it said",
        )
    say(f"{name} is {how}")
    _show(service)
    if service.answers is False:
        tell(f"  next: it does not answer yet: `{place.command('logs', name)} -f` shows what it does")


def _show(service: ServiceTold) -> None:
    from ..console.units import duration as shown

    state = (
        service.state
        if service.is_running or service.exit_status is None or service.state == "stopped"
        else f"{service.state} ({service.exit_status})"
    )
    if service.answers is not None:
        state = "answers" if service.answers else f"{state}, does not answer"
    facts = [
        f"for {shown(service.up_s)}" if service.up_s is not None else "",
        f"pid {service.pid}" if service.pid is not None else "",
        f"{service.starts} starts" if service.starts > 1 else "",
        "started by something else" if service.state == "adopted" else "",
    ]
    say("  ".join(part for part in (service.name, state, service.url or "") if part))
    if words := ", ".join(fact for fact in facts if fact):
        say(f"  {words}")
    if service.problem:
        say(f"  {service.problem}")
    if service.log is not None:
        say(f"  log {service.log}")


def _values(name: str, wanted: tuple[str, ...]) -> dict[str, str]:
    """The secrets *wanted*, from the environment. Raises UsageError where one is not set."""
    from ..errors import UsageError

    missing = [each for each in wanted if not os.environ.get(each)]
    if missing:
        raise UsageError(
            f"`{name}` has ended and cannot be started without {', '.join(missing)}",
            hint=f"set {', '.join(missing)} in your environment, then the same command again",
        )
    return {each: os.environ[each] for each in wanted}


async def _print_log(instance: Instance, remote: str, last: int | None, *, follow: bool) -> int:
    """Mirror *remote* into a file that is only kept for as long, and print that."""
    from ..collect.collect import CollectOrder, LogToCollect, collect
    from ..collect.markers import Markers
    from .logs import begin_at, print_file

    leave = asyncio.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        leave.set()

    on_signals(end)
    with tempfile.TemporaryDirectory(prefix="provision-") as folder:
        mirror = Path(folder, "log")
        order = CollectOrder(
            (LogToCollect(remote, mirror),),
            Markers((), ()),
            timeout_s=float("inf"),
            ends_when_read=not follow,
        )
        work = asyncio.create_task(collect(instance, order, on_event=_tell_link, leave=leave))
        if not follow:
            await work
        await asyncio.to_thread(print_file, mirror, begin_at(last), is_over=work.done)
        outcome = await work
    if outcome["errors"]:
        from .watch import say_errors

        say_errors(outcome)
        return outcome["exit_code"]
    return codes[0] if codes else 0


def _tell_link(event: Mapping[str, object]) -> None:
    if event["event"] == "connection_lost":
        tell(f"provision: connection lost: {event['cause']}; trying again")
