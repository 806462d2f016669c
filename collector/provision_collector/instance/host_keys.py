"""Which host keys are trusted: the user's known_hosts, and the tool's own file of keys seen first by it.

Providers recycle addresses and ports, so an entry holds for exactly one host and port, or for one instance id. Files are
read before the exchange of keys and written after it, in threads: the exchange itself waits for no disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh
import platformdirs

from ..storage import FileLock, append, private_folder, write_atomically
from . import known_hosts
from .known_hosts import Trusted

if TYPE_CHECKING:
    from .address import Instance


def own_file() -> Path:
    """Where keys seen first by this tool are kept."""
    return platformdirs.user_state_path("provision") / "known_hosts"


def entry_name(instance: Instance, host: str, port: int) -> str:
    """The name under which the key of *instance* is kept.

    Args:
        instance: Its id at the provider comes first, where it was given one: addresses are recycled.
        host: The host that is connected to.
        port: The TCP port there.
    """
    if instance.instance_id:
        return f"instance-{instance.instance_id}"
    return host if port == 22 else f"[{host}]:{port}"


def files_of(instance: Instance) -> list[Path]:
    """The files that say which keys of *instance* are trusted, first that into which new ones are written; none with ``off``."""
    if instance.host_key == "off":
        return []
    if instance.instance_id or instance.known_hosts:
        return [_written(instance)]
    return [_written(instance), Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts")]


def _written(instance: Instance) -> Path:
    return Path(instance.known_hosts).expanduser() if instance.known_hosts else own_file()


class HostKeys:
    """The policy for one connection: `read` before it, `record_new` after it; `refusal` says why a key was not taken."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._has_entry = False
        self._policy = instance.host_key
        self._file = _written(instance)
        self.refusal: str | None = None
        self.entry = ""
        self._found: Trusted | None = None
        """What the files say of `entry`, once they were read."""
        self._new: asyncssh.SSHKey | None = None
        """A key that was seen first now, to be recorded."""

    def read(self, host: str, port: int) -> None:
        """Find in the files what is known of this host. May block."""
        self.entry = entry_name(self._instance, host, port)
        self._found = self._match()

    def trusted(self, host: str, addr: str, port: int | None) -> Trusted:
        """The keys that are known for this host: what asyncssh asks before the exchange."""
        if self._found is None or self.entry != entry_name(self._instance, host, port or 22):
            self.read(host, port or 22)  # under another name than the configuration said: never seen yet
        assert self._found is not None
        return self._found

    def _match(self) -> Trusted:
        found = known_hosts.find(files_of(self._instance), self.entry)
        self._has_entry = bool(found[0] or found[1])
        return found

    def accept(self, key: asyncssh.SSHKey) -> bool:
        """Whether an untrusted *key* may be used; a first one is to be recorded under accept-new."""
        if self._policy == "off":
            return True
        if self._has_entry:
            self.refusal = "changed"
            return False
        if self._policy == "strict":
            self.refusal = "unknown"
            return False
        self._new = key
        return True

    @property
    def has_new(self) -> bool:
        """A key was seen first, and is not recorded yet."""
        return self._new is not None

    def record_new(self) -> None:
        """Record the key that was seen first, if one was. May block. Raises OSError: this disk does not take it."""
        if self._new is not None:
            record(self._file, self.entry, self._new)
            self._new = None


def record(file: Path, entry: str, key: asyncssh.SSHKey) -> None:
    """Append a key to the file; several processes may do so at once.

    Args:
        file: One of known hosts.
        entry: The name that it is for: ``HOST``, ``[HOST]:PORT`` or an instance's id.
        key: The public key.

    Raises:
        OSError: this disk does not take it. LockBusyError: another process keeps the file locked.
    """
    private_folder(file.parent)
    line = f"{entry} {key.export_public_key().decode().strip()}\n"
    with _changing(file):
        append(file, line.encode())
        known_hosts.added(file, line)


def name_of(instance: Instance) -> str:
    """The name under which the key of *instance* is kept, where no configuration says another host or port."""
    return entry_name(instance, instance.host, instance.port or 22)


def kept_of(instance: Instance) -> list[tuple[str, str]]:
    """``(name, key)`` of every key in this tool's own file that is trusted for *instance*. May block."""
    if instance.host_key == "off":
        return []
    lines = [line.partition(" ") for line in _lines(_written(instance))]
    return [(name, key) for name, _, key in lines if name == name_of(instance)]


def take_over(instance: Instance, key: str) -> None:
    """Trust *key*, which another machine of the same owner has seen, where none is known here. May block."""
    if instance.host_key != "off" and not any(known_hosts.find(files_of(instance), name_of(instance))[:2]):
        record(_written(instance), name_of(instance), asyncssh.import_public_key(key))


def _changing(file: Path) -> FileLock:
    """Held by who changes *file*: one that appends to a file that another replaces would write into the old one."""
    return FileLock(file.with_name(f"{file.name}.lock"))


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
    """Remove keys from *file*.

    Args:
        file: One of known hosts; it need not be there.
        names: Every key of one of these goes.

    Returns:
        How many there were.
    """
    if not file.exists():
        return 0
    with _changing(file):
        lines = _lines(file)
        kept = [line for line in lines if line.split(" ", 1)[0] not in names]
        if len(kept) != len(lines):
            write_atomically(file, "".join(f"{line}\n" for line in kept))
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
