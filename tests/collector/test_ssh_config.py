"""OpenSSH's configuration is read as ssh reads it; ssh itself is asked what it makes of the same file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import asyncssh
import pytest
from provision_collector.instance.ssh_config import MAX_FILE_BYTES, ConfigError, plain_text

HERE = "Host box\n  HostName 192.0.2.7\n  Port 2222\n  User me\n"
CONFIGS = {
    "the host alone": HERE,
    "with equals signs": "Host=box\nHostName=192.0.2.7\nPort = 2222\nUser=me\n",
    "quoted, with a comment behind": 'Host "box"  # mine\n  HostName 192.0.2.7\n  Port 2222 # odd\n  User "me"\n',
    "Windows line ends": HERE.replace("\n", "\r\n"),
    "a pattern and its exception": "Host b* !box\n  Port 1\nHost b?x other\n  Port 2\n" + HERE,
    "the first value wins": "Host *\n  User first\n" + HERE,
    "Match by host name": HERE + "Match host 192.0.2.7 user me\n  HostKeyAlias alias\n",
    "Match by original host": HERE + "Match originalhost box\n  HostKeyAlias alias\n",
    "Match that runs a program": HERE + 'Match originalhost box exec "true"\n  HostKeyAlias alias\n',
    "Match that runs a program that fails": HERE
    + 'Match originalhost box exec "false"\n  HostKeyAlias alias\n',
    "a negated Match": HERE + "Match !originalhost other\n  HostKeyAlias alias\n",
    "Match all after blocks": HERE + "Match all\n  HostKeyAlias alias\n",
    "numbers with units": "Host *\n  ConnectTimeout 1m\n  ServerAliveInterval 1m30s\n  RekeyLimit default none\n"
    + HERE,
    "words that are to be ignored": "Host *\n  IgnoreUnknown UseKeychain\n  UseKeychain yes\n" + HERE,
    "an include that is not there": "Include ~/.orb/ssh/config\n" + HERE,
    "an include": "Include more.conf\n" + HERE,
    "an include in a block that matches": "Host box\n  Include more.conf\n  User late\n" + HERE,
    "an include in a block that does not": "Host other\n  Include more.conf\n" + HERE,
    "an include with hosts of its own in a block": "Host box\n  Include hosts.conf\n  User late\n" + HERE,
    "a jump": HERE + "  ProxyJump me@gate:2200\n",
    "a command": HERE + "  ProxyCommand nc -X 5 '%h' %p # no comment\n",
}
INCLUDED = {
    "more.conf": "User included\nHostKeyAlias included\n",
    "hosts.conf": "Host other\n  User wrong\nHost *\n  User right\n",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    for name, text in INCLUDED.items():
        (tmp_path / ".ssh" / name).write_text(text)
    return tmp_path


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH's client")
@pytest.mark.parametrize("name", CONFIGS)
def test_what_we_read_is_what_ssh_reads(name: str, home: Path) -> None:
    text = CONFIGS[name]
    for file, content in INCLUDED.items():  # ssh looks into the home of the account, whatever HOME says
        text = text.replace(f"Include {file}", f"Include {home}/.ssh/{file}")
        assert content
    file = home / ".ssh/config"
    file.write_text(text)
    said = subprocess.run(["ssh", "-G", "-F", str(file), "box"], capture_output=True, text=True, check=True)
    theirs = dict(line.split(" ", 1) for line in said.stdout.splitlines() if " " in line)

    ours = read(file, home)

    assert str(ours.get("Hostname") or "box") == theirs["hostname"]
    assert str(ours.get("Port") or 22) == theirs["port"]
    assert ours.get("User") in (theirs["user"], None)
    assert ours.get("HostKeyAlias") == theirs.get("hostkeyalias")
    assert ours.get("ProxyJump") == theirs.get("proxyjump")
    assert (ours.get("ProxyCommand") is None) == ("proxycommand" not in theirs)


UNKNOWN = (
    "localnetwork 192.0.2.0/24",
    "sessiontype shell",
    "version OpenSSH_99*",
    "future thing",
    "!future thing",
)


@pytest.mark.parametrize("condition", UNKNOWN)
def test_a_condition_that_cannot_be_told_does_not_match(condition: str, home: Path) -> None:
    file = home / "config"
    file.write_text(f"Match {condition}\n  User wrong\n{HERE}")

    assert read(file, home).get("User") == "me"


def test_nothing_is_forwarded_whatever_the_configuration_says(home: Path) -> None:
    file = home / "config"
    file.write_text(
        "ForwardAgent yes\nSendEnv *\nSetEnv A=b\nForwardX11Trusted yes\nRemoteCommand rm\n" + HERE
    )

    options = options_of(file, home)

    assert not options.agent_forward_path
    assert not options.env
    assert not options.send_env
    assert not options.command
    assert not options.x11_forwarding


def test_options_win_over_the_file(home: Path) -> None:
    file = home / "config"
    file.write_text(HERE)
    plain = home / "plain"
    plain.write_text(plain_text(file, ["User you", "HostName 192.0.2.8"]))

    config = asyncssh.SSHClientConnectionOptions(host="box", config=[str(plain)], client_keys=None).config

    assert (config.get("User"), config.get("Hostname"), config.get("Port")) == ("you", "192.0.2.8", 2222)


WRONG = {
    "a quote that is not closed": ('User "me\n', "line 1: a quote is not closed"),
    "a port that is none": ("\nPort ssh\n", "line 2: `ssh` is not a port"),
    "a word without its value": ("User  # nobody\n", "line 1: `User` has no value"),
    "files that include each other": ("Include config\n", "too many files include each other"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_ssh_refuses_is_refused_with_its_line(name: str, home: Path) -> None:
    text, words = WRONG[name]
    file = home / ".ssh/config"
    file.write_text(text)

    with pytest.raises(ConfigError, match=words):
        plain_text(file)


def test_a_file_that_is_no_configuration_is_refused_within_a_bound(home: Path) -> None:
    file = home / "config"
    file.write_bytes(b"x" * (MAX_FILE_BYTES + 1))

    with pytest.raises(ConfigError, match="longer than 1 MiB"):
        plain_text(file)


def options_of(file: Path, home: Path) -> asyncssh.SSHClientConnectionOptions:
    plain = home / "plain"
    plain.write_text(plain_text(file))
    return asyncssh.SSHClientConnectionOptions(host="box", config=[str(plain)], client_keys=None)


def read(file: Path, home: Path) -> asyncssh.config.SSHConfig:
    return options_of(file, home).config
