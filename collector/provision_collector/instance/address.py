"""Which machine, as people write it, and how to get in. Pure: nothing is looked up."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from provision_agent.contract.parsing import parse

from ..errors import UsageError

HOST_KEY_POLICIES = ("accept-new", "strict", "off")


@dataclass(frozen=True)
class Instance:
    """One remote machine. None leaves the word to the user's ssh configuration.

    `instance_id` names the machine for known hosts and scorecards, where host and port are recycled by providers.
    `boot_grace_s`: refused, timed-out, reset and publickey-denied connections count as "still booting" this long.
    """

    host: str
    port: int | None = None
    user: str | None = None
    key: str | None = None
    ssh_config: str | None = None
    host_key: str = "accept-new"
    known_hosts: str | None = None
    instance_id: str | None = None
    boot_grace_s: float = 120.0
    contact_timeout_s: float = 600.0

    @classmethod
    def parse(cls, text: str, **options: object) -> Instance:
        """Read ``[USER@]HOST[:PORT]``, ``[IPv6]:PORT``, ``ssh://…`` or a pasted ``ssh -p 14842 root@host`` command.

        Raises:
            UsageError: it is none of these, or *options* says something else than *text*.
        """
        words = (
            _pasted(text)
            if text.strip().startswith("ssh ")
            else _address(text.strip().removeprefix("ssh://"))
        )
        for name, value in words.items():
            given = options.get(name)
            if value is not None and given is not None and given != value:
                raise UsageError(
                    f"`--host` says {name} `{value}` and `--{name}` says `{given}`", hint="give one of them"
                )
        merged = {**words, **{name: value for name, value in options.items() if value is not None}}
        key = merged.get("key")
        if key is not None and not Path(str(key)).expanduser().is_file():
            raise UsageError(
                f"the key file `{key}` is not there", hint="give the private key's path with `--key`"
            )
        if merged.get("host_key", "accept-new") not in HOST_KEY_POLICIES:
            raise UsageError(f"`--host-key` is one of {', '.join(HOST_KEY_POLICIES)}")
        return parse(cls, merged, "instance")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def _address(text: str) -> dict[str, object]:
    user, _, rest = text.rpartition("@")
    match = re.fullmatch(r"\[([0-9A-Fa-f:.%\w]+)\](?::(\d+))?|([^\s:/\[\]]+)(?::(\d+))?/?", rest)
    if match is None and re.fullmatch(r"[0-9A-Fa-f:]+", rest):
        return {"host": rest, "port": None, "user": user or None}  # a bare IPv6 address
    if match is None:
        raise UsageError(
            f"`{text}` is not an address", hint="write `--host [USER@]HOST[:PORT]`, IPv6 as `[::1]:22`"
        )
    port = match[2] or match[4]
    return {"host": match[1] or match[3], "port": _port(port) if port else None, "user": user or None}


def _pasted(command: str) -> dict[str, object]:
    """The address in an ssh command as providers' pages show it; forwardings and options that change nothing are dropped."""
    found: dict[str, object] = {"host": "", "port": None, "user": None, "key": None}
    names = {"-p": "port", "-i": "key", "-l": "user"}
    words = iter(shlex.split(command)[1:])
    for word in words:
        if word[:2] in names:
            found[names[word[:2]]] = word[2:] or next(words, "")
        elif word in ("-L", "-R", "-D", "-o", "-F", "-J", "-W", "-b", "-c", "-e", "-m", "-S", "-w"):
            next(words, None)
        elif not word.startswith("-") and found["host"]:
            break  # the remote command
        elif not word.startswith("-"):
            found.update({name: value for name, value in _address(word).items() if value is not None})
    if not found["host"]:
        raise UsageError(f"there is no host in `{command}`", hint="write `--host [USER@]HOST[:PORT]`")
    found["port"] = _port(found["port"]) if found["port"] else None
    return found


def _port(text: object) -> int:
    port = int(str(text)) if str(text).isdigit() else 0
    if not 0 < port < 65536:
        raise UsageError(f"`{text}` is not a port", hint="ports are 1 to 65535")
    return port
