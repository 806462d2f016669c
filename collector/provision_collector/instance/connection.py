"""Open an SSH connection, within a bound, and say exactly why when it cannot be opened.

OpenSSH's own configuration is honoured; host keys follow `HostKeys`; a silent peer is noticed by keepalives.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import asyncssh
import structlog

from ..errors import (
    AuthRefusedError,
    HostKeyError,
    HostUnreachableError,
    LocalMachineError,
    ProvisionError,
    UsageError,
)
from ..storage import in_thread
from . import identities, ssh_config
from .address import Instance
from .flag import Flag
from .greeting import is_web_server
from .host_keys import HostKeys

CONNECT_TIMEOUT_S = 10.0
LOGIN_TIMEOUT_S = 15.0
KEEPALIVE_S = 5.0
KEEPALIVE_MISSES = 2
HANDSHAKES_AT_ONCE = 16
"""In one event loop: when a thousand connections drop together, those that are let in first are not starved."""
ANSWER_S = 1.0
"""A host that does not even take the connection within this time makes no work, and does not hold up the others."""
CIPHERS_FIRST = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
"""Measured 1.25 times as fast as chacha20 where the processor has AES instructions."""

log = structlog.get_logger()
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
_DEFAULTS = "Match all\n  User root\n"
"""Read after the user's own ssh configuration, whose every word therefore wins."""


class Connection:
    """One SSH connection. `lost` is set when it is gone, whatever the reason."""

    def __init__(
        self, ssh: asyncssh.SSHClientConnection, lost: asyncio.Event, jump: Connection | None
    ) -> None:
        self.ssh = ssh
        self.lost = lost
        self._jump = jump

    @property
    def peer(self) -> str | None:
        """The address that it leads to; None where others are on the way."""
        peer = self.ssh.get_extra_info("peername") if self._jump is None else None
        return str(peer[0]) if isinstance(peer, tuple) and peer else None

    def look_for_silence(self, *, is_wanted: bool) -> None:
        """Have a peer that says nothing noticed here, as at first; who hears it beat notices that without a timer for each packet."""
        if not self.lost.is_set():
            self.ssh.set_keepalive(interval=KEEPALIVE_S if is_wanted else 0)

    def abort(self) -> None:
        """Drop it at once, with the jump hosts on its way: on a dead link a polite end would wait for the peer."""
        self.ssh.abort()
        if self._jump is not None:
            self._jump.abort()


class _Client(asyncssh.SSHClient):
    def __init__(self, keys: HostKeys, there: asyncio.Event, lost: asyncio.Event) -> None:
        self._keys = keys
        self._there = there
        self._lost = lost

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._there.set()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self._keys.accept(key)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()


async def connect(instance: Instance) -> Connection:
    """Open a connection, within `CONNECT_TIMEOUT_S` + `LOGIN_TIMEOUT_S` for it and for each jump host on its way.

    Raises:
        HostUnreachableError, AuthRefusedError, HostKeyError: with the cause and what to type next.
        UsageError: the key or the ssh configuration cannot be used.
    """
    return await _connect(instance, None)


async def _connect(instance: Instance, jump: Connection | None) -> Connection:
    keys = HostKeys(instance)
    there, lost = Flag(), Flag()

    def prepared() -> asyncssh.SSHClientConnectionOptions:
        config = stack.enter_context(_plain_config(instance))
        options = _options(instance, config, lambda: _Client(keys, there, lost))
        keys.read(options.host_key_alias or options.host, options.port)
        return options

    async with AsyncExitStack() as stack:
        try:
            base = await asyncio.to_thread(prepared)
            offered = await identities.offered(identities.wanted(base, instance.key))
            stack.callback(offered.close)
        except (asyncssh.KeyImportError, ValueError, OSError) as error:
            raise _unprepared(instance, error) from None
        if jump is None and isinstance(base.tunnel, str):
            jump = await _through(base.tunnel, instance)
        try:
            options = asyncssh.SSHClientConnectionOptions(
                base, known_hosts=keys.trusted, client_keys=offered.keys or None, agent_path=None
            )
            async with _turn(there), asyncio.timeout(CONNECT_TIMEOUT_S + LOGIN_TIMEOUT_S):
                ssh = await asyncssh.connect(
                    instance.host, options=options, tunnel=jump.ssh if jump else None
                )
        except (OSError, asyncssh.Error) as error:
            if jump is not None:
                jump.abort()
            explained = _explained(instance, keys, error)
            is_direct = jump is None and not base.tunnel and not base.proxy_command
            if is_direct and explained.cause == "reset" and await is_web_server(base.host, base.port):
                explained = HostUnreachableError(
                    f"no SSH connection to {instance}: a web server listens at port {base.port}",
                    cause="closed",
                )
            raise explained from None
    connection = Connection(ssh, lost, jump)
    try:
        if keys.has_new:
            await in_thread(keys.record_new)
    except (OSError, LocalMachineError) as error:
        log.warning(
            "host key not remembered",
            instance=str(instance),
            why=str(error),
            next="the next connection takes any key: `--known-hosts FILE` names a file that can be written",
        )
    except BaseException:
        connection.abort()
        raise
    return connection


async def _through(jumps: str, instance: Instance) -> Connection | None:
    """Connect to the ProxyJump hosts, one through the other: each by the same rules as the instance itself."""
    connection: Connection | None = None
    for text in jumps.split(",") if jumps.lower() != "none" else ():
        options = {
            "ssh_config": instance.ssh_config,
            "host_key": instance.host_key,
            "known_hosts": instance.known_hosts,
        }
        try:
            connection = await _connect(Instance.parse(text, **options), connection)
        except ProvisionError as error:
            if connection is not None:
                connection.abort()
            error.args = (f"jump host: {error}",)
            raise
    return connection


@asynccontextmanager
async def _turn(there: asyncio.Event) -> AsyncIterator[None]:
    """Wait until few others shake hands. The turn ends with the block, or soon when nobody is *there*."""
    loop = asyncio.get_running_loop()
    turns = _turns.setdefault(loop, asyncio.Semaphore(HANDSHAKES_AT_ONCE))
    await turns.acquire()
    is_held = True

    def end() -> None:
        nonlocal is_held
        if is_held:
            is_held = False
            turns.release()

    timer = loop.call_later(ANSWER_S, lambda: None if there.is_set() else end())
    try:
        yield
    finally:
        timer.cancel()
        end()


@contextmanager
def _plain_config(instance: Instance) -> Iterator[str]:
    """The file that asyncssh reads, more than once, until the connection stands. May block.

    Raises:
        ValueError, OSError: the user's configuration cannot be read.
    """
    text = ssh_config.plain_text(_config_file(instance), instance.ssh_options) + _DEFAULTS
    with tempfile.NamedTemporaryFile("w", prefix="provision-ssh-", errors="surrogateescape") as plain:
        plain.write(text)
        plain.flush()
        yield plain.name


def _options(
    instance: Instance, config: str, client: Callable[[], asyncssh.SSHClient] = asyncssh.SSHClient
) -> asyncssh.SSHClientConnectionOptions:
    """What the command line and ssh's configuration say, without keys. May block."""
    given: dict[str, object] = {}
    if instance.port is not None:
        given["port"] = instance.port
    if instance.user is not None:
        given["username"] = instance.user
    return asyncssh.SSHClientConnectionOptions(
        host=instance.host,
        client_factory=client,
        config=[config],
        client_keys=None,
        connect_timeout=CONNECT_TIMEOUT_S,
        login_timeout=LOGIN_TIMEOUT_S,
        keepalive_interval=KEEPALIVE_S,
        keepalive_count_max=KEEPALIVE_MISSES,
        encryption_algs=CIPHERS_FIRST,
        compression_algs=None,
        preferred_auth="publickey",
        **given,
    )


def _config_file(instance: Instance) -> Path | None:
    """The user's ssh configuration; ``none`` and ``/dev/null`` are none, as with ``ssh -F``."""
    if instance.ssh_config == "none":
        return None
    file = Path(instance.ssh_config or "~/.ssh/config").expanduser()
    if instance.ssh_config and not file.exists():
        raise FileNotFoundError(f"the ssh configuration `{instance.ssh_config}` is not there")
    return file if os.access(file, os.R_OK) or instance.ssh_config else None


async def locked_keys(instance: Instance) -> list[Path]:
    """The key files of *instance* that need a passphrase before a connection can be made.

    Raises:
        UsageError: the key or the ssh configuration cannot be used.
    """
    with ExitStack() as stack:
        try:
            config = await asyncio.to_thread(stack.enter_context, _plain_config(instance))
            base = await asyncio.to_thread(_options, instance, config)
            return await identities.to_unlock(identities.wanted(base, instance.key))
        except (asyncssh.KeyImportError, ValueError, OSError) as error:
            raise _unprepared(instance, error) from None


def _unprepared(instance: Instance, error: Exception) -> UsageError:
    hint = (
        f"check `{instance.key}`: it must be a private key, without a passphrase or with one that you can type, "
        "or one that your ssh agent holds"
    )
    return UsageError(
        f"cannot prepare the connection to {instance}: {error}", hint=hint if instance.key else ""
    )


_CAUSES: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((socket.gaierror,), "unknown-name"),
    ((ConnectionRefusedError,), "refused"),
    ((TimeoutError,), "timed-out"),
    ((ConnectionResetError, BrokenPipeError, asyncssh.ConnectionLost), "reset"),
)


def _explained(instance: Instance, keys: HostKeys, error: Exception) -> ProvisionError:
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _host_key_error(instance, keys)
    if isinstance(error, asyncssh.PermissionDenied):
        user = f" as `{instance.user}`" if instance.user else ""
        return AuthRefusedError(
            f"{instance} does not take this key{user}: {error.reason}",
            hint="give the right key with `--key` and the right user with `--user`; the provider's page says which key it holds",
        )
    is_no_route = isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)
    otherwise = "no-route" if is_no_route else "closed"
    cause = next((cause for kinds, cause in _CAUSES if isinstance(error, kinds)), otherwise)
    return HostUnreachableError(f"no SSH connection to {instance}: {_reason(cause, error)}", cause=cause)


def _reason(cause: str, error: Exception) -> str:
    texts = {
        "unknown-name": "the name is not known",
        "refused": "connection refused",
        "timed-out": f"no answer within {CONNECT_TIMEOUT_S:.0f} s",
        "reset": "the connection was closed before the login",
    }
    return texts.get(cause) or str(error)


def _host_key_error(instance: Instance, keys: HostKeys) -> HostKeyError:
    if keys.refusal == "changed":
        return HostKeyError(
            f"the host key of {instance} is not the one that was seen before",
            hint=f"if the provider gave this address to a new instance: `provision hosts forget '{keys.entry}'`; "
            "`--instance-id` keeps instances apart",
        )
    return HostKeyError(
        f"the host key of {instance} is unknown, and `--host-key strict` takes known ones only",
        hint="add it to known_hosts, or use `--host-key accept-new`",
    )
