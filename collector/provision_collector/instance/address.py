"""Which machine, as people write it, and how to get in. Pure: nothing is looked up."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from provision_agent.contract.parsing import parse

from ..errors import UsageError
from .ssh_config import KEPT

HOST_KEY_POLICIES = ("accept-new", "strict", "off")


@dataclass(frozen=True)
class Instance:
    """One remote machine. None leaves the word to the user's ssh configuration.

    `instance_id` names the machine for known hosts and scorecards, where host and port are recycled by providers.
    `ssh_options`: lines that win over that configuration, as of ``ssh -o``.
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
    ssh_options: tuple[str, ...] = ()
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
        merged = {name: value for name, value in (*words.items(), *options.items()) if value is not None}
        key = merged.get("key")
        if key is not None and not any(Path(f"{key}{end}").expanduser().is_file() for end in ("", ".pub")):
            raise UsageError(
                f"the key file `{key}` is not there", hint="give the private key's path with `--key`"
            )
        if merged.get("host_key", "accept-new") not in HOST_KEY_POLICIES:
            raise UsageError(f"`--host-key` is one of {', '.join(HOST_KEY_POLICIES)}")
        return parse(cls, merged, "instance")

    @property
    def options(self) -> str:
        """The options of the command line that lead here, to be pasted behind any command."""
        words = ["--host", self._address()]
        for name in ("key", "ssh_config", "known_hosts", "instance_id"):
            value = getattr(self, name)
            if value is not None:
                words += [f"--{name.replace('_', '-')}", value]
        if self.host_key != "accept-new":
            words += ["--host-key", self.host_key]
        return shlex.join(words)

    def _address(self) -> str:
        """What ``--host`` takes: the address, or an ssh command where more is to be said."""
        login = f"{self.user}@" if self.user else ""
        if not self.ssh_options:
            return f"{login}{self}"
        flags = [word for option in self.ssh_options for word in ("-o", option)]
        flags += ["-p", str(self.port)] if self.port is not None else []
        return shlex.join(["ssh", *flags, f"{login}{self.host}"])

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
    """The address in an ssh command as providers' pages show it, and what it says of the way there.

    Forwardings of ports, and what only concerns a terminal, are dropped: a run has neither.

    Raises:
        UsageError: there is no host in it, or an option that would be lost.
    """
    found = _Pasted()
    try:
        words = shlex.split(command)[1:]
    except ValueError:
        raise UsageError(f"a quote in `{command}` is not closed") from None
    while words:
        word = words.pop(0)
        if word.startswith("-") and len(word) > 1:
            found.take(word, words)
        elif found.values.get("host"):
            break  # the remote command
        else:
            found.values.update({name: value for name, value in _address(word).items() if value is not None})
    if not found.values.get("host"):
        raise UsageError(f"there is no host in `{command}`", hint="write `--host [USER@]HOST[:PORT]`")
    return {**found.values, "ssh_options": tuple(found.options) or None}


_FLAGS_WITH_VALUE = "BbcDEeFIiJLlmOoPpQRSWw"
_DROPPED_FLAGS = "aCcDEefgKkLMmNnqRSsTtVvxy"
_FLAG_OPTIONS = {"J": "ProxyJump", "b": "BindAddress", "P": "Tag"}
_FLAG_WORDS = {"p": "port", "i": "key", "l": "user", "F": "ssh_config"}
_NO_MATTER = frozenset(
    [
        "batchmode",
        "checkhostip",
        "clearallforwardings",
        "compression",
        "connectionattempts",
        "connecttimeout",
        "controlmaster",
        "controlpath",
        "controlpersist",
        "dynamicforward",
        "escapechar",
        "exitonforwardfailure",
        "hashknownhosts",
        "ipqos",
        "kbdinteractiveauthentication",
        "localforward",
        "loglevel",
        "passwordauthentication",
        "preferredauthentications",
        "pubkeyauthentication",
        "remoteforward",
        "requesttty",
        "serveralivecountmax",
        "serveraliveinterval",
        "tcpkeepalive",
        "updatehostkeys",
        "visualhostkey",
    ]
)
"""Words of ``-o`` that change nothing here, or that this tool decides itself."""
_HOST_KEY_WORDS = {"no": "off", "off": "off", "accept-new": "accept-new", "yes": "strict", "ask": "strict"}


class _Pasted:
    """What a pasted command said so far."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.options: list[str] = []

    def take(self, word: str, rest: list[str]) -> None:
        """One word of flags, such as ``-Nf`` or ``-p22``; their value is taken from *rest* where it is a word of its own."""
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            value = ""
            if letter in _FLAGS_WITH_VALUE:
                value, letters = letters or (rest.pop(0) if rest else ""), ""
            self._flag(letter, value)

    def _flag(self, letter: str, value: str) -> None:
        if letter == "o":
            self._option(value)
        elif letter == "p":
            self.values["port"] = _port(value)
        elif letter in _FLAG_WORDS:
            self.values[_FLAG_WORDS[letter]] = value
        elif letter in _FLAG_OPTIONS:
            self.options.append(f"{_FLAG_OPTIONS[letter]} {value}")
        elif letter in "46":
            self.options.append(f"AddressFamily {'inet' if letter == '4' else 'inet6'}")
        elif letter not in _DROPPED_FLAGS:
            raise _refused(f"-{letter}")

    def _option(self, text: str) -> None:
        found = re.fullmatch(r"\s*(\w+)(?:\s*=\s*|\s+)(.+?)\s*", text)
        name, value = (found[1].lower(), found[2]) if found else (text.lower(), "")
        if name == "stricthostkeychecking" and value.lower() in _HOST_KEY_WORDS:
            self.values["host_key"] = _HOST_KEY_WORDS[value.lower()]
        elif name == "userknownhostsfile":
            self.values["known_hosts"] = value
        elif name == "port":
            self.values["port"] = _port(value)
        elif name == "user":
            self.values["user"] = value
        elif name == "identityfile":
            self.values["key"] = value
        elif name in KEPT and value:
            self.options.append(f"{KEPT[name]} {value}")
        elif name not in _NO_MATTER:
            raise _refused(f"-o {text}")


def _refused(option: str) -> UsageError:
    is_forwarding = option in ("-A", "-X", "-Y") or "forward" in option.lower()
    why = (
        "the ssh agent and X11 are never forwarded to an instance"
        if is_forwarding
        else "it would be lost here"
    )
    return UsageError(
        f"`{option}` of the pasted command cannot be honoured: {why}",
        hint="leave it out, or write it into an ssh configuration and name that with `--ssh-config`",
    )


def _port(text: object) -> int:
    port = int(str(text)) if str(text).isdigit() else 0
    if not 0 < port < 65536:
        raise UsageError(f"`{text}` is not a port", hint="ports are 1 to 65535")
    return port
