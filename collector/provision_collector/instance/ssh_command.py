"""The system's ssh with the same address, login, key, configuration and host keys that this tool itself uses.

What ssh can only be told by a file stands in one of this tool's own, which includes the user's. Source: ssh(1), ssh_config(5).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..storage import private_folder, write_atomically
from .address import Instance
from .host_keys import files_of, name_of, own_file

_CHECKING = {"accept-new": "accept-new", "strict": "yes", "off": "no"}
_LAST = "Match all\nUser root\nForwardAgent no\nForwardX11 no\nSendEnv -*\n"
"""What holds where the user's configuration says nothing; no variable of this machine is sent, whatever it says."""


def ssh_argv(instance: Instance, words: Sequence[str]) -> list[str]:
    """The words of a command that opens a shell on *instance*, or has *words* run there by its shell.

    Writes the file of options first; may block. Raises OSError: this disk does not take it.
    """
    config = own_file().with_name("ssh_config")
    private_folder(config.parent)
    write_atomically(config, _config(instance))
    return [
        "ssh",
        "-F", str(config),
        *(["-p", str(instance.port)] if instance.port is not None else []),
        *(["-l", instance.user] if instance.user is not None else []),
        *(["-i", str(Path(instance.key).expanduser()), "-o", "IdentitiesOnly=yes"] if instance.key else []),
        "-a", "-x",
        *(word for option in (*instance.ssh_options, *_host_keys(instance)) for word in ("-o", option)),
        "--", instance.host,
        *words,
    ]  # fmt: skip


def _config(instance: Instance) -> str:
    files = [instance.ssh_config or "~/.ssh/config"]
    if not instance.ssh_config:
        files.append("/etc/ssh/ssh_config")
    return "".join(f"Match all\nInclude {_quoted(file)}\n" for file in files if file != "none") + _LAST


def _host_keys(instance: Instance) -> list[str]:
    """As `host_keys.HostKeys` decides; ssh writes new keys into the first file."""
    files = [str(file) for file in files_of(instance)] or ["/dev/null"]
    options = [f"StrictHostKeyChecking={_CHECKING[instance.host_key]}"]
    options.append(f"UserKnownHostsFile={' '.join(map(_quoted, files))}")
    if instance.instance_id:
        options.append(f"HostKeyAlias={name_of(instance)}")
    return options


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word
