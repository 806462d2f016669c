"""How people write an instance's address."""

from __future__ import annotations

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
