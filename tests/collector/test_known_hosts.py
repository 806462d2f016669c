"""Files of known hosts as people have them: what nobody can read is skipped, what was written is found."""

from __future__ import annotations

import subprocess
from pathlib import Path

import asyncssh
import pytest
from provision_collector.instance import known_hosts
from provision_collector.instance.host_keys import record

KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER = asyncssh.generate_private_key("ssh-ed25519")


def text(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


ODD_LINES = {
    "a lone word": "=",
    "no key": "192.0.2.7 ssh-ed25519",
    "half a key": "192.0.2.7 ssh-ed25519 AAAAC3NzaC1lZDI1",
    "what a merge left": "<<<<<<< HEAD\n=======\n>>>>>>> x",
    "a key of the future": "192.0.2.7 ssh-mldsa65@openssh.com AAAAGnNzaA==",
    "an unknown marker": f"@future 192.0.2.7 {text(OTHER)}",
    "a broken hash": f"|1|abc|def {text(OTHER)}",
    "a hash of another kind": f"|7|YWJj|ZGVm {text(OTHER)}",
    "no text": "192.0.2.7 ssh-ed25519 AAAA \udce9t\udce9",
    "only a marker": "@revoked",
    "only spaces": "   \t",
}


@pytest.mark.parametrize("name", ODD_LINES)
def test_a_line_that_nobody_can_read_hides_no_other(name: str, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_bytes(f"{ODD_LINES[name]}\n192.0.2.7 {text(KEY)}\n".encode(errors="surrogateescape"))

    assert known_hosts.find([file], "192.0.2.7")[0] == [KEY.convert_to_public()]


FORMS = {
    "plain": "192.0.2.7",
    "in a list": "example.org,192.0.2.7",
    "a pattern": "192.0.2.*",
    "a pattern with an exception for others": "192.0.2.*,!192.0.2.8",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_name_is_found(name: str, tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"{FORMS[name]} {text(KEY)}\n")

    assert known_hosts.find([file], "192.0.2.7")[0] == [KEY.convert_to_public()]
    assert known_hosts.find([file], "192.0.2.8")[0] == (
        [] if "!" in FORMS[name] or "*" not in FORMS[name] else [KEY.convert_to_public()]
    )
    assert known_hosts.find([file], "[192.0.2.7]:2222")[0] == []


def test_a_name_that_ssh_keygen_hashed_is_found(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"[192.0.2.7]:2222 {text(KEY)}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    assert "192.0.2.7" not in file.read_text()

    assert known_hosts.find([file], "[192.0.2.7]:2222")[0] == [KEY.convert_to_public()]
    assert known_hosts.find([file], "192.0.2.7")[0] == []


def test_a_revoked_key_and_an_authority_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"@revoked * {text(OTHER)}\n@cert-authority *.example.org {text(KEY)}\n")

    found = known_hosts.find([file], "gpu.example.org")

    assert found[0] == []
    assert found[1] == [KEY.convert_to_public()]
    assert found[2] == [OTHER.convert_to_public()]


def test_what_was_recorded_or_changed_since_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    assert known_hosts.find([file], "192.0.2.7")[0] == []

    record(file, "192.0.2.7", KEY)
    assert known_hosts.find([file], "192.0.2.7")[0] == [KEY.convert_to_public()]

    record(file, "192.0.2.8", OTHER)  # added to the index without reading the file anew
    assert known_hosts.find([file], "192.0.2.8")[0] == [OTHER.convert_to_public()]

    file.write_text(f"192.0.2.9 {text(KEY)}\n")  # by another program
    assert known_hosts.find([file], "192.0.2.7")[0] == []
    assert known_hosts.find([file], "192.0.2.9")[0] == [KEY.convert_to_public()]


def test_of_ten_thousand_lines_only_those_of_the_host_are_read_as_keys_and_the_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "known_hosts"
    others = "".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255} {text(OTHER)}\n" for n in range(10_000))
    file.write_text(f"{others}[192.0.2.7]:2222 {text(KEY)}\n")
    read: list[str] = []
    real = asyncssh.import_known_hosts
    monkeypatch.setattr(asyncssh, "import_known_hosts", lambda line: read.append(line) or real(line))
    indexed = []
    monkeypatch.setattr(
        known_hosts._Index,
        "add",
        lambda self, line, add=known_hosts._Index.add: indexed.append(line) or add(self, line),
    )

    for _ in range(3):
        found = known_hosts.find([file], "[192.0.2.7]:2222")

    assert [key.export_public_key() for key in found[0]] == [KEY.export_public_key()]
    assert len(read) == 3
    assert len(indexed) == 10_002, "each line of the file, and what follows the last one, once"
