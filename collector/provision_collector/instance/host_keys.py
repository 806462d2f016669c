"""Which host keys are trusted: the user's known_hosts, and the tool's own file of keys seen first by it.

Providers recycle addresses and ports, so an entry holds for exactly one host and port, or for one instance id.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh
import platformdirs

if TYPE_CHECKING:
    from .address import Instance

Trusted = tuple[list[Any], list[Any], list[Any], list[Any], list[Any], list[Any], list[Any]]


def own_file() -> Path:
    """Where keys seen first by this tool are kept."""
    return platformdirs.user_state_path("provision") / "known_hosts"


def entry_name(instance: Instance, host: str, port: int) -> str:
    """The name under which the key of *instance* is kept."""
    if instance.instance_id:
        return f"instance-{instance.instance_id}"
    return host if port == 22 else f"[{host}]:{port}"


class HostKeys:
    """The policy for one connection; `refusal` says afterwards why a key was not taken."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._has_entry = False
        self._policy = instance.host_key
        self._file = Path(instance.known_hosts).expanduser() if instance.known_hosts else own_file()
        self.refusal: str | None = None
        self.trouble: OSError | None = None
        """Why a new key could not be recorded on this machine."""
        self.entry = ""

    def trusted(self, host: str, addr: str, port: int | None) -> Trusted:
        """The keys that are known for this host: what asyncssh asks before the exchange."""
        self.entry = entry_name(self._instance, host, port or 22)
        files = [self._file]
        if not self._instance.instance_id and not self._instance.known_hosts:
            files += [Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts")]
        readable = [str(file) for file in files if os.access(file, os.R_OK)]
        none: Trusted = ([], [], [], [], [], [], [])
        if not readable or self._policy == "off":
            return none
        found = asyncssh.read_known_hosts(readable).match(self.entry, "", None)
        self._has_entry = bool(found[0] or found[1])
        return found  # type: ignore[return-value]

    def accept(self, key: asyncssh.SSHKey) -> bool:
        """Whether an untrusted *key* may be used; a first one is recorded under accept-new."""
        if self._policy == "off":
            return True
        if self._has_entry:
            self.refusal = "changed"
            return False
        if self._policy == "strict":
            self.refusal = "unknown"
            return False
        try:
            record(self._file, self.entry, key)
        except OSError as error:
            self.trouble = error
            return False
        return True


def record(file: Path, entry: str, key: asyncssh.SSHKey) -> None:
    """Append *key* for *entry*; several processes may do so at once."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{entry} {key.export_public_key().decode().strip()}\n".encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def entries(file: Path) -> list[tuple[str, str, str]]:
    """``(name, algorithm, fingerprint)`` of every key in *file*."""
    found = []
    for line in _lines(file):
        name, _, key_text = line.partition(" ")
        try:
            key = asyncssh.import_public_key(key_text)
        except asyncssh.KeyImportError:
            continue
        found.append((name, key.get_algorithm(), key.get_fingerprint()))
    return found


def forget(file: Path, names: set[str]) -> int:
    """Remove every key of *names* from *file*; how many there were."""
    lines = _lines(file)
    kept = [line for line in lines if line.split(" ", 1)[0] not in names]
    if len(kept) != len(lines):
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        temporary.chmod(0o600)
        temporary.replace(file)
    return len(lines) - len(kept)


def _lines(file: Path) -> list[str]:
    try:
        return [
            line
            for line in file.read_text(errors="replace").splitlines()
            if line and not line.startswith("#")
        ]
    except FileNotFoundError:
        return []
