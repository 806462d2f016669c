"""How people write an instance's address."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from provision_collector.errors import UsageError
from provision_collector.instance import Instance

ADDRESSES = {
    "203.0.113.7": ("203.0.113.7", None, None),
    "root@ssh3.vast.ai:14842": ("ssh3.vast.ai", 14842, "root"),
    "[2001:db8::1]:2222": ("2001:db8::1", 2222, None),
    "2001:db8::1": ("2001:db8::1", None, None),
    "me@[::1]": ("::1", None, "me"),
    "ssh -p 14842 root@ssh3.vast.ai -L 8080:localhost:8080": ("ssh3.vast.ai", 14842, "root"),
    "ssh root@213.5.1.2 -p 40123 -i ~/.ssh/id_ed25519": ("213.5.1.2", 40123, "root"),
    "ssh://root@example.org:22": ("example.org", 22, "root"),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_understood_as_people_write_it(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port, user = ADDRESSES[text]
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519").write_text("key")

    instance = Instance.parse(text)

    assert (instance.host, instance.port, instance.user) == (host, port, user)


@pytest.mark.parametrize("text", ["", "a b", "host:99999", "host:0", "[::1", "ssh -p 22"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Instance.parse(text)


def test_two_different_ports_are_a_contradiction() -> None:
    with pytest.raises(UsageError, match="port"):
        Instance.parse("h:1", port=2)


def test_a_missing_key_file_is_said_before_anything_is_tried() -> None:
    with pytest.raises(UsageError, match="is not there"):
        Instance.parse("h", key="/no/such/key")


PASTED = {
    "ssh -J me@gate:2200 root@h": {"ssh_options": ("ProxyJump me@gate:2200",)},
    "ssh -F none root@h": {"ssh_config": "none"},
    "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@h": {
        "host_key": "off",
        "known_hosts": "/dev/null",
    },
    "ssh -oStrictHostKeyChecking=accept-new h": {"host_key": "accept-new"},
    "ssh -o 'ProxyCommand nc %h %p' h": {"ssh_options": ("ProxyCommand nc %h %p",)},
    "ssh -o HostKeyAlias=gpu -4 h": {"ssh_options": ("HostKeyAlias gpu", "AddressFamily inet")},
    "ssh -NfT -p2222 -o ServerAliveInterval=60 -o Port=2222 h": {"port": 2222},
    "ssh h -p 22 -o LogLevel=ERROR uptime -x": {"port": 22},
}


@pytest.mark.parametrize("text", PASTED)
def test_what_a_pasted_command_says_of_the_way_is_kept(text: str) -> None:
    instance = Instance.parse(text)

    assert {name: getattr(instance, name) for name in PASTED[text]} == PASTED[text]


@pytest.mark.parametrize(
    "option", ["-A", "-X", "-o ForwardAgent=yes", "-o Frobnicate=1", "-w 0:0", "-W x:1", "-I lib.so"]
)
def test_an_option_that_would_be_lost_is_refused_by_name(option: str) -> None:
    with pytest.raises(UsageError, match=f"`{option if option.startswith('-o') else option[:2]}`"):
        Instance.parse(f"ssh {option} root@h")


@pytest.mark.parametrize(
    "text",
    [
        "me@[::1]:2222",
        "203.0.113.7",
        "ssh -p 14842 -o 'ProxyJump=gate one' root@ssh3.vast.ai",
        "ssh -J gate -p 9 me@::1",
    ],
)
def test_the_options_of_an_instance_lead_to_it_again(text: str, tmp_path: Path) -> None:
    (tmp_path / "a key").write_text("key")
    instance = Instance.parse(
        text, key=str(tmp_path / "a key"), known_hosts="k", host_key="strict", instance_id="i 1"
    )

    words = shlex.split(instance.options)
    given = {name[2:].replace("-", "_"): value for name, value in zip(words[::2], words[1::2], strict=True)}

    assert Instance.parse(given.pop("host"), **given) == instance
