"""`provision forward`: bring a service's port to this machine, through SSH, for as long as the command runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from ..errors import ProvisionError
from . import completing
from .options import Connection, configure_logging, connection_options, instance_of, workspace_option
from .output import say, say_json, tell

if TYPE_CHECKING:
    from ..instance import Instance
    from ..instance.forwarding import Port
    from ..planning.audit import PlanThere
    from ..run.run import Run

NAME_LENGTH = 64
NAMES_SHOWN = 20
"""So many services of a run that another machine started are listed."""


@click.command("forward")
@click.argument("run", shell_complete=completing.runs, required=False)
@connection_options
@click.option(
    "--service", "names", multiple=True, metavar="NAME", help="This service only; else all that have a port."
)
@click.option(
    "--remote",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="A port of the instance instead of a service.",
)
@click.option(
    "--local",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="The port here; else the same number, or a free one.",
)
@workspace_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per port.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    run: str | None,
    connection: Connection,
    names: tuple[str, ...],
    remote: int | None,
    local: int | None,
    workspace: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Bring the ports of RUN's services (or of the current run of --host) to 127.0.0.1, until Ctrl-C.

    The services are those of the profile that the run was started with from this machine. Of a run that another
    machine started, name them: each then gets a free port here, unless --local says which.

    A lost connection is taken up again, for as long as --contact-timeout says.
    """
    configure_logging(verbose)
    from ..errors import UsageError

    if remote is not None and names:
        raise UsageError("`--remote` is a port, `--service` a name", hint="give one of them")
    instance = instance_of(connection, run)
    if remote is not None:
        ports = {"port": remote}
    else:
        from .verify import plan_for

        there = plan_for(instance, run, None, {}, workspace)
        if there.known is not None:
            ports = ports_of(there.plan.name, there.known.services, names)
        else:
            ports, local = ports_of_a_stranger(there, instance, names), local or 0
    if local and len(ports) > 1:
        raise UsageError(
            f"`--local` is one port, and {len(ports)} services have one", hint="name one with `--service`"
        )
    asyncio.run(_forward(instance, ports, local, as_json=as_json))


def ports_of(plan: str, known: Mapping[str, int], names: tuple[str, ...]) -> dict[str, int]:
    """The ports that are *known* of services of the plan called *plan*, or those with these *names*.

    Raises:
        UsageError: there is none, or a name is not known.
    """
    from ..errors import UsageError

    unknown = [name for name in names if name not in known]
    if unknown or not known:
        told = f"no service `{unknown[0]}` of `{plan}`" if unknown else f"no service of `{plan}`"
        raise UsageError(
            f"{told} tells its port in `ready.url`",
            hint=f"there are {', '.join(known)}" if known else "give the port with `--remote`",
        )
    return {name: port for name, port in known.items() if not names or name in names}


def ports_of_a_stranger(there: PlanThere, instance: Instance, names: tuple[str, ...]) -> dict[str, int]:
    """The ports of the services *names* of a run of which only its instance tells.

    Raises:
        UsageError: no name is given, or one is not known.
    """
    from ..console import harmless
    from ..errors import UsageError
    from ..run.spec import service_ports

    ports = {harmless(name)[:NAME_LENGTH]: port for name, port in service_ports(there.plan).items()}
    told = dict(list(ports.items())[:NAMES_SHOWN])
    if not names:
        listed = ", ".join(f"{name} ({port})" for name, port in told.items()) or "none"
        raise UsageError(
            f"run `{there.run}` on {instance} was not started from this machine, so only the instance says what its "
            f"services are: {listed}",
            hint="name those that you want: `--service NAME` (repeatable), or `--remote PORT`",
        )
    ports_of(
        harmless(there.plan.name)[:NAME_LENGTH], {**told, **{n: ports[n] for n in names if n in ports}}, names
    )
    return {name: ports[name] for name in names}


async def _forward(instance: Instance, ports: dict[str, int], local: int | None, *, as_json: bool) -> None:
    from ..instance.forwarding import Forwarding, Port

    def tell(port: Port, here: int) -> None:
        if as_json:
            say_json(_facts(port, here))
        else:
            say(_sentence(port, here))

    forwarding = Forwarding(instance, on_open=tell, on_lost=_say_lost)
    for name, port in ports.items():
        forwarding.add(Port(name, port, local))
    await forwarding.keep()


class ServicePorts:
    """Brings the ports of a run's services here, from the moment that it is usable."""

    def __init__(self, run: Run) -> None:
        from ..instance.forwarding import Forwarding

        self._ports = dict(run.known.services) if run.known is not None else {}
        if not self._ports:
            tell(
                "provision: warning: `--forward` brings nothing here: no service of the profile tells its port in `ready.url`"
            )
        self._run = run
        self._forwarding = Forwarding(
            run.instance,
            on_open=lambda port, here: tell(_sentence(port, here)),
            on_lost=_say_lost,
        )
        self._keeping: asyncio.Task[None] | None = None

    def take(self, event: Mapping[str, object]) -> None:
        """Look at what the run says: which services are ready is the instance's word, their ports are the profile's."""
        from ..instance.forwarding import Port

        if event["event"] == "run_usable" and self._keeping is None and self._ports:
            self._keeping = asyncio.create_task(self._keep())
        if self._keeping is None or event["event"] not in ("run_usable", "service_ready"):
            return
        for name, service in self._run.state.items["services"].items():
            if service.text("url") and name in self._ports:
                here = self._ports.pop(name)  # once each, whatever else the instance says
                self._forwarding.add(Port(name, _port_of(service.text("url")) or here, like=here))

    async def stay(self, is_left: asyncio.Event) -> None:
        """Go on after the run has ended, until *is_left*, or until no port can be held any more."""
        if self._keeping is None:
            return
        left = asyncio.create_task(is_left.wait())
        await asyncio.wait((self._keeping, left), return_when=asyncio.FIRST_COMPLETED)
        for task in (self._keeping, left):
            task.cancel()
        await asyncio.gather(self._keeping, left, return_exceptions=True)

    async def _keep(self) -> None:
        from . import complain

        try:
            await self._forwarding.keep()
        except ProvisionError as error:  # the verdict is the run's own
            complain(ProvisionError(f"no ports are forwarded: {error}", hint=error.hint))


def _facts(port: Port, here: int) -> dict[str, object]:
    """A forwarded port as JSON values."""
    return {
        "service": port.name,
        "url": f"http://127.0.0.1:{here}",
        "local_port": here,
        "remote_port": port.remote,
    }


def _sentence(port: Port, here: int) -> str:
    """A forwarded port for people."""
    return f"{port.name}  http://127.0.0.1:{here}  (port {port.remote} there; Ctrl-C ends it)"


def _say_lost() -> None:
    """Tell that the ports are out of reach for a moment."""
    tell("provision: the connection was lost; taking it up again")


def _port_of(url: str) -> int | None:
    """The port in *url*, which an instance says: where an adopted service listens there."""
    from urllib.parse import urlsplit

    try:
        return urlsplit(url).port
    except ValueError:
        return None
