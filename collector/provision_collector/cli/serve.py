"""``provision serve``: HTTP API, SSE and a page, for a warm-pool server."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from .options import configure_logging, duration, gone_check_option
from .output import say, say_json, tell
from .output_options import outputs_options

if TYPE_CHECKING:
    from ..pool.server.app import Door
    from ..pool.server.rules import Rules
    from ..run.spec import OutputsHere

TOKEN_VARIABLE = "PROVISION_TOKEN"  # noqa: S105 - a name
SHORTEST_TOKEN = 16
SHORTEST_LEASE_S = 1.0


class Options(TypedDict):
    """What the server is told besides where it listens."""

    logs_dir: str
    state_dir: str | None
    profiles: str | None
    keys: str | None
    uploads: str | None
    outputs: OutputsHere | None
    names: tuple[str, ...]
    uses_aws: bool
    gone_check: str | None
    on_usable: tuple[str, ...]
    on_finished: tuple[str, ...]
    allow_host: tuple[str, ...]
    cors_origin: tuple[str, ...]
    on_health: tuple[str, ...]
    watch_instances_s: float | None
    keep: int
    keep_days: float | None
    per_source_host: int | None
    database: str | None
    no_watch: bool
    lease: float
    import_state: bool


@click.command("serve")
@click.option(
    "--listen",
    default="127.0.0.1:8377",
    show_default=True,
    metavar="HOST:PORT",
    help="Port 0 takes a free one.",
)
@click.option(
    "--token-file", metavar="PATH", help=f"The bearer token; else ${TOKEN_VARIABLE}, else a new one is made."
)
@click.option("--logs-dir", default="logs", show_default=True, metavar="DIR", help="Where the mirrors go.")
@click.option("--state-dir", metavar="DIR", help="The server's own state ($XDG_STATE_HOME/provision/server).")
@click.option("--profiles", metavar="DIR", help="Profiles that clients may name, besides the built-in ones.")
@click.option(
    "--keys",
    metavar="DIR",
    help="Private keys that clients may name (`keys` in the state directory); no other file of this machine.",
)
@click.option(
    "--uploads",
    metavar="DIR",
    help="Files that the uploads of a client's profile may name, relative to it; no other file of this machine.",
)
@outputs_options
@click.option(
    "--secret", "names", multiple=True, metavar="NAME",
    help="A secret in this server's environment that profiles may use; repeatable.",
)  # fmt: skip
@click.option(
    "--aws",
    "uses_aws",
    is_flag=True,
    help="This server's own AWS configuration may open the buckets of profiles; else only their own secrets do.",
)
@gone_check_option
@click.option(
    "--on-usable", multiple=True, metavar="COMMAND|URL", help="Told when a run is usable; repeatable."
)
@click.option("--on-finished", multiple=True, metavar="COMMAND|URL", help="Told how a run ended; repeatable.")
@click.option(
    "--watch-instances",
    "watch_instances_s",
    type=duration,
    metavar="DURATION",
    help="Ask each instance so often how it is, from its run's end until it is released or gone (`30s`).",
)
@click.option(
    "--on-health",
    multiple=True,
    metavar="COMMAND|URL",
    help="Told when an instance becomes healthy, degraded or gone; repeatable.",
)
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="Another name of this server, as browsers send it."
)
@click.option(
    "--cors-origin", multiple=True, metavar="ORIGIN", help="A web page's origin that may ask; repeatable."
)
@click.option(
    "--per-source-host",
    type=click.IntRange(1),
    metavar="N",
    help="So many runs fetch from one host (huggingface.co, say) at once; the next begin as those are done.",
)
@click.option(
    "--keep", type=click.IntRange(1), default=1000, show_default=True, help="Finished runs to remember."
)
@click.option(
    "--keep-days",
    type=click.FloatRange(0, min_open=True),
    metavar="DAYS",
    help="Forget runs that ended longer ago, too.",
)
@click.option(
    "--database",
    metavar="URL",
    envvar="PROVISION_DATABASE",
    help="postgresql://…, which several servers may share (else a file in the state directory; $PROVISION_DATABASE).",
)
@click.option(
    "--no-watch", is_flag=True, help="Only answer; other servers of the same --database watch the runs."
)
@click.option(
    "--lease",
    type=duration,
    default="10s",
    show_default=True,
    metavar="DURATION",
    help="A server of the same --database that is silent for so long loses its runs to the others.",
)
@click.option(
    "--import-state",
    is_flag=True,
    help="First bring the runs of this --state-dir into the --database; once is enough, and again does nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Address and token as a JSON line on stdout.")
@click.option("--verbose", "-v", is_flag=True, help="Log what the server does, to stderr.")
def command(
    *, listen: str, token_file: str | None, as_json: bool, verbose: bool, **options: Unpack[Options]
) -> None:
    """Start and watch runs over HTTP: /openapi.json says how, / is a page.

    Every request needs the token. Ctrl-C ends the server and leaves the runs going; the next server with the same
    state directory takes them up again. Webhooks are signed with $PROVISION_WEBHOOK_SECRET when it is set.
    """
    configure_logging(verbose)
    from ..distribution import install_hint
    from ..errors import UsageError

    try:
        from ..pool.server.app import serve
    except ImportError as missing:
        raise UsageError(f"`provision serve` needs `{missing.name}`", hint=install_hint("server")) from None
    from ..pool.descriptors import allow_many_files
    from ..pool.memory import share_one_arena

    allow_many_files()
    share_one_arena()
    rules, imports = _rules(options), options["import_state"]
    listener = _listener(listen)
    name, port = listener.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    door = _door(shown, _token(token_file), options)
    if not ipaddress.ip_address(name).is_loopback:
        tell(
            f"provision: warning: whoever reaches {shown}:{port} can try tokens, and nothing is encrypted\n"
            "  next: put a TLS proxy before it, with `--listen 127.0.0.1:…` and `--allow-host NAME`"
        )

    def on_open(page_host: str) -> None:
        has_own_name = name in ("127.0.0.1", "::1")  # what browsers take every name below `localhost` for
        page = f"http://{page_host if has_own_name else shown}:{port}/?token={door.token}"
        facts = {"url": f"http://{shown}:{port}", "page": page, "token": door.token, "pid": os.getpid()}
        if as_json:
            say_json({"event": "serving", **facts})
        else:
            say(page)

    def on_import(runs: int) -> None:
        tell(f"provision: {runs} runs of `{rules.state_dir}` came into the database")

    asyncio.run(serve(rules, door, listener, on_open, on_import=on_import if imports else None))


def _rules(options: Options) -> Rules:
    from ..errors import UsageError
    from ..pool.gone import gone_check
    from ..pool.hooks import Hook
    from ..pool.server.rules import Rules
    from ..run import registry

    held = {}
    for name in options["names"]:
        if not os.environ.get(name):
            raise UsageError(f"`--secret {name}`: it is not in this environment", hint=f"export {name}=…")
        held[name] = os.environ[name]
    if options["profiles"] and not Path(options["profiles"]).is_dir():
        raise UsageError(f"`--profiles {options['profiles']}` is no folder")
    if options["keys"] and not Path(options["keys"]).expanduser().is_dir():
        raise UsageError(f"`--keys {options['keys']}` is no folder")
    if options["uploads"] and not Path(options["uploads"]).is_dir():
        raise UsageError(f"`--uploads {options['uploads']}` is no folder")
    _check_database(options)
    return Rules(
        state_dir=Path(options["state_dir"] or registry.state_directory() / "server").absolute(),
        logs_dir=Path(options["logs_dir"]).absolute(),
        profiles=Path(options["profiles"]).absolute() if options["profiles"] else None,
        keys=Path(os.path.abspath(os.path.expanduser(options["keys"]))) if options["keys"] else None,
        outputs=options["outputs"],
        uploads=Path(options["uploads"]).absolute() if options["uploads"] else None,
        secrets=held,
        uses_aws=options["uses_aws"],
        gone_check=gone_check(options["gone_check"]),
        hooks=(
            *(Hook.parse("usable", text) for text in options["on_usable"]),
            *(Hook.parse("finished", text) for text in options["on_finished"]),
            *(Hook.parse("health", text) for text in options["on_health"]),
        ),
        watch_instances_s=options["watch_instances_s"],
        keep=options["keep"],
        keep_days=options["keep_days"],
        database=options["database"],
        watches=not options["no_watch"],
        dead_after_s=options["lease"],
        per_source_host=options["per_source_host"],
    )


def _check_database(options: Options) -> None:
    from ..errors import UsageError

    if options["database"] is None and (options["no_watch"] or options["import_state"]):
        word = "--no-watch" if options["no_watch"] else "--import-state"
        raise UsageError(
            f"`{word}` means nothing without `--database`",
            hint=f"give `--database postgresql://…` with it, or leave `{word}` out",
        )
    if options["lease"] < SHORTEST_LEASE_S:
        raise UsageError(
            f"`--lease` is at least {SHORTEST_LEASE_S:g}s", hint="10s is well above what a busy machine needs"
        )


def _door(shown: str, token: str, options: Options) -> Door:
    from ..pool.server.app import Door
    from ..pool.server.sessions import LOOPBACK

    return Door(
        token=token,
        hosts=(*LOOPBACK, shown.lower(), *options["allow_host"]),
        origins=tuple(options["cors_origin"]),
    )


def _token(path: str | None) -> str:
    from ..errors import UsageError

    if path is not None:
        try:
            token = Path(path).expanduser().read_text().strip()
        except OSError as error:
            raise UsageError(f"`--token-file {path}`: {error.strerror}") from None
    else:
        token = os.environ.get(TOKEN_VARIABLE, "").strip() or secrets.token_urlsafe(32)
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"a token has at least {SHORTEST_TOKEN} characters, ASCII and without spaces",
            hint="python3 -c 'import secrets; print(secrets.token_urlsafe(32))' makes one",
        )
    return token


def _listener(text: str) -> socket.socket:
    from ..errors import UsageError

    name, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"`--listen {text}` is not HOST:PORT", hint="such as `--listen 127.0.0.1:8377`")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            name.strip("[]"), int(port), type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UsageError(
            f"cannot listen on `{text}`: {error.strerror}", hint="choose another `--listen`"
        ) from None
    return listener
