"""`provision forward`: bring a service's port to this machine, through SSH, for as long as the command runs."""

from __future__ import annotations

import asyncio
import errno
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from .options import configure_logging, connection_options, instance_of

if TYPE_CHECKING:
    from provision_agent.plan import Plan

    from ..instance import Connection, Instance

Ports = list[tuple[str, int]]
"""Names and ports of services, as on the instance."""


@click.command("forward")
@click.argument("run", required=False)
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
@click.option("--workspace", metavar="PATH", help="The folder on the instance, if it has several.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per port.")
@click.option("--verbose", "-v", is_flag=True, help="Log what this side does, to stderr.")
def command(
    *,
    run: str | None,
    connection: dict[str, Any],
    names: tuple[str, ...],
    remote: int | None,
    local: int | None,
    workspace: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Bring the ports of RUN's services (or of the current run of --host) to 127.0.0.1, until Ctrl-C.

    A lost connection is taken up again, for as long as --contact-timeout says.
    """
    configure_logging(verbose)
    from ..errors import UsageError

    if remote is not None and names:
        raise UsageError("`--remote` is a port, `--service` a name", hint="give one of them")
    instance = instance_of(connection, run)
    if remote is not None:
        ports = [("port", remote)]
    else:
        from .verify import plan_for

        ports = ports_of(plan_for(instance, run, None, {}, workspace), names)
    if local and len(ports) > 1:
        raise UsageError(
            f"`--local` is one port, and {len(ports)} services have one", hint="name one with `--service`"
        )
    asyncio.run(_forward(instance, ports, local, as_json=as_json))


def ports_of(plan: Plan, names: tuple[str, ...]) -> Ports:
    """The services of *plan* that tell their port in `ready.url`, or those with these *names*.

    Raises:
        UsageError: there is none, or a name is not known.
    """
    from urllib.parse import urlsplit

    from ..errors import UsageError

    known = {
        service.name: urlsplit(service.ready.url).port or 80
        for service in plan.services
        if service.ready is not None
    }
    unknown = [name for name in names if name not in known]
    if unknown or not known:
        told = f"no service `{unknown[0]}` of `{plan.name}`" if unknown else f"no service of `{plan.name}`"
        raise UsageError(
            f"{told} tells its port in `ready.url`",
            hint=f"there are {', '.join(known)}" if known else "give the port with `--remote`",
        )
    return [(name, port) for name, port in known.items() if not names or name in names]


async def _forward(instance: Instance, ports: Ports, local: int | None, *, as_json: bool) -> None:
    from ..instance import first_contact, regain

    link = await first_contact(instance, on_wait=lambda *_: None)
    taken: dict[int, int] = {}
    try:
        while True:
            for name, port in ports:
                here = await _listen(link, port, taken.get(port, local), was_open=port in taken)
                if taken.get(port) != here:
                    _say(name, port, here, as_json=as_json)
                taken[port] = here
            await link.lost.wait()
            print("provision: the connection was lost; taking it up again", file=sys.stderr)
            link = await regain(instance, lost_for_s=0.0, first_wait_s=0.0, on_wait=lambda *_: None)
    finally:
        link.abort()


async def _listen(link: Connection, port: int, wanted: int | None, *, was_open: bool) -> int:
    """Forward *port* to 127.0.0.1; the port here, which is *wanted* (None: the same number, else a free one)."""
    from ..errors import UsageError

    for here in [wanted] if wanted is not None else [port, 0]:
        try:
            listener = await link.ssh.forward_local_port("127.0.0.1", here, "127.0.0.1", port)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
        else:
            return int(listener.get_port())
    taken = "was taken meanwhile" if was_open else "is taken"
    raise UsageError(f"port {wanted} of this machine {taken}", hint="choose another with `--local`")


def _say(name: str, port: int, here: int, *, as_json: bool) -> None:
    url = f"http://127.0.0.1:{here}"
    facts = {"service": name, "url": url, "local_port": here, "remote_port": port}
    print(json.dumps(facts) if as_json else f"{name}  {url}  (port {port} there; Ctrl-C ends it)", flush=True)
