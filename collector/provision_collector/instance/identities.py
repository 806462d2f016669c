"""Which keys are offered to an instance, and in which order: as ssh does it.

Keys that the agent holds and the configuration names, then the agent's others (unless `IdentitiesOnly`), then files. What
is named and not there is skipped. A key behind a passphrase is asked for once per process, and only where somebody can type.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

AGENT_TIMEOUT_S = 5.0
DEFAULT_FILES = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk")
"""Below ~/.ssh, where the configuration names none."""
_PASSPHRASE_TRIES = 3

_unlocked: dict[Path, asyncssh.SSHKey] = {}
"""Keys whose passphrase was typed."""


@dataclass(frozen=True)
class Wanted:
    """What the command line and the configuration say about keys.

    `files` are as they were named, private or public. `is_given`: by ``--key``, so a file that cannot be used is an error.
    """

    files: tuple[Path, ...]
    is_given: bool = False
    identities_only: bool = False
    agent_path: str | None = None


class Offered:
    """The keys in their order. The agent stays connected until `close`, since it signs."""

    def __init__(self, keys: list[asyncssh.SSHKeyPair], agent: asyncssh.SSHAgentClient | None) -> None:
        self.keys = keys
        self._agent = agent

    def close(self) -> None:
        """Let the agent go."""
        if self._agent is not None:
            self._agent.close()


def wanted(options: asyncssh.SSHClientConnectionOptions, key: str | None) -> Wanted:
    """What *options*, made of the configuration, and ``--key`` say."""
    config = options.config
    agent = config.get("IdentityAgent", os.environ.get("SSH_AUTH_SOCK") or None)
    agent_path = None if agent is None else str(Path(_socket(str(agent))).expanduser())
    if key is not None:
        return Wanted((Path(key).expanduser(),), is_given=True, identities_only=True, agent_path=agent_path)
    named = config.get("IdentityFile")
    files = (
        tuple(Path(str(name)).expanduser() for name in named)
        if isinstance(named, list)
        else tuple(Path("~/.ssh").expanduser() / name for name in DEFAULT_FILES)
    )
    return Wanted(files, identities_only=bool(config.get("IdentitiesOnly")), agent_path=agent_path)


def _socket(value: str) -> str:
    if value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK", "")
    return os.environ.get(value[1:].strip("{}"), "") if value.startswith("$") else value


async def offered(wanted: Wanted) -> Offered:
    """The keys to offer.

    Raises:
        OSError, asyncssh.KeyImportError: the file that ``--key`` names cannot be used, here and now.
    """
    agent, held = await _held(wanted.agent_path)
    keys: list[asyncssh.SSHKeyPair] = []
    later: list[asyncssh.SSHKeyPair] = []
    try:
        for file in wanted.files:
            public = await asyncio.to_thread(_public_part, file) if held else None
            match = next((pair for pair in held if pair.key_public_data == public), None)
            if match is not None:
                keys.append(match)
            elif wanted.is_given or file.is_file():
                later += await asyncio.to_thread(_from_file, file, wanted.is_given)
        if not wanted.identities_only:
            keys += [pair for pair in held if pair not in keys]
    except BaseException:
        if agent is not None:
            agent.close()
        raise
    return Offered(keys + later, agent)


async def _held(path: str | None) -> tuple[asyncssh.SSHAgentClient | None, list[asyncssh.SSHKeyPair]]:
    """The agent and its keys; none where nobody answers there, as with ssh."""
    if not path:
        return None, []
    agent = None
    try:
        async with asyncio.timeout(AGENT_TIMEOUT_S):
            agent = await asyncssh.connect_agent(path)
            return agent, list(await agent.get_keys())
    except (OSError, ValueError, asyncssh.Error):
        if agent is not None:
            agent.close()
        return None, []


def _public_part(file: Path) -> bytes | None:
    """The public half of *file*, private or public, without a passphrase; None where it cannot be told."""
    for candidate in (file.with_name(f"{file.name}.pub"), file):
        try:
            return asyncssh.read_public_key(candidate).public_data
        except (OSError, asyncssh.KeyImportError):
            continue
    try:
        return asyncssh.read_private_key(file).public_data
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        return None


def _from_file(file: Path, is_given: bool) -> list[asyncssh.SSHKeyPair]:
    """The private key in *file*, with its certificate if one lies beside it."""
    try:
        return list(asyncssh.load_keypairs([_unlocked.get(file, str(file))]))
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        if is_given:
            raise
        return []


def locked_files(files: Sequence[Path], held: Sequence[bytes]) -> list[Path]:
    """Those of *files* that need a passphrase and are not among the *held* public keys of the agent."""
    found = []
    for file in files:
        try:
            asyncssh.read_private_key(file)
        except (OSError, asyncssh.KeyImportError) as error:
            is_locked = isinstance(error, asyncssh.KeyEncryptionError) or "assphrase" in str(error)
            if is_locked and file not in _unlocked and _public_part(file) not in held:
                found.append(file)
    return found


def unlock(file: Path, ask: Callable[[str], str]) -> bool:
    """Ask for the passphrase of *file*, three times at most; an empty answer leaves the key out. Whether it is open now."""
    for _ in range(_PASSPHRASE_TRIES):
        passphrase = ask(f"Passphrase of the key `{file}`")
        if not passphrase:
            return False
        try:
            _unlocked[file] = asyncssh.read_private_key(file, passphrase)
        except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError):
            continue
        return True
    return False


async def to_unlock(wanted: Wanted) -> list[Path]:
    """The files that must be opened before anything can be offered.

    Those that are named for this host, and the default ones only where no other key is there: as ssh, which asks last.
    """
    agent, held = await _held(wanted.agent_path)
    if agent is not None:
        agent.close()
    locked = locked_files(wanted.files, [pair.key_public_data for pair in held])
    if not locked or (not wanted.is_given and held and not wanted.identities_only):
        return []
    others = [file for file in wanted.files if file.is_file() and file not in locked]
    return [] if others and not wanted.is_given else locked
