"""OpenSSH's own ways to reach a host: configuration, jump hosts, the agent; and host keys by the book."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.file_server import FileServer
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import PROVISION, Here
from .test_up import profile_of


def write_config(here: Here, text: str) -> list[str]:
    path = here.folder / "ssh_config"
    path.write_text(text)
    return ["--ssh-config", str(path), "--boot-grace", "2s"]


def entry(name: str, instance: EmbeddedInstance, extra: str = "") -> str:
    return (
        f"Host {name}\n  HostName {instance.host}\n  Port {instance.port}\n  User {instance.user}\n"
        f"  IdentityFile {instance.key_path}\n{extra}"
    )


@pytest.fixture
def profile(here: Here, files: FileServer) -> str:
    return here.profile(profile_of(files, levels=("critical",)))


def test_an_alias_of_the_ssh_configuration_is_all_that_is_needed(here: Here, profile: str) -> None:
    where = ["--host", "gpu", *write_config(here, entry("gpu", here.instance))]

    done = here.up(profile, connection=where)

    assert done.code == 0, done.stderr + done.stdout


def test_a_jump_host_is_gone_through(here: Here, profile: str, tmp_path: Path) -> None:
    with EmbeddedInstance(tmp_path / "jump", server="sshd") as jump:
        config = entry("gateway", jump) + entry("gpu", here.instance, "  ProxyJump gateway\n")
        done = here.up(profile, connection=["--host", "gpu", *write_config(here, config)])

    assert done.code == 0, done.stderr + done.stdout
    names = {row["host"] for row in here.run("hosts", "list", "--json").lines}
    assert len(names) == 2, "the jump host's key is kept by the same rules"


def test_a_jump_host_that_is_down_is_named(here: Here, profile: str, tmp_path: Path) -> None:
    with EmbeddedInstance(tmp_path / "jump", server="sshd") as jump:
        jump.stop()
        config = entry("gateway", jump) + entry("gpu", here.instance, "  ProxyJump gateway\n")
        done = here.up(profile, connection=["--host", "gpu", *write_config(here, config)])

    assert done.code == 10
    assert "jump host" in done.outcome["errors"][0]["message"]


@pytest.fixture
def ssh_agent(here: Here) -> Iterator[str]:
    if shutil.which("ssh-agent") is None:
        pytest.skip("there is no ssh-agent on this machine")
    socket = here.folder / "agent.sock"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
    add = ["sh", "-c", f"until ssh-add -q {here.instance.key_path}; do sleep 0.1; done"]
    subprocess.run(add, env=environment, timeout=10, check=True, stderr=subprocess.DEVNULL)
    yield str(socket)
    agent.terminate()
    agent.wait(timeout=5)


def test_a_key_that_only_the_agent_holds_is_used(here: Here, profile: str, ssh_agent: str) -> None:
    instance = here.instance
    where = ["--host", f"{instance.user}@{instance.host}:{instance.port}", "--boot-grace", "2s"]

    done = here.up(profile, connection=where, environment={"SSH_AUTH_SOCK": ssh_agent})

    assert done.code == 0, done.stderr + done.stdout


def test_an_unknown_host_key_is_refused_when_strict_and_taken_when_known(here: Here, profile: str) -> None:
    strict = [*here.connection(), "--host-key", "strict"]

    refused = here.up(profile, connection=strict)

    assert (refused.code, refused.outcome["verdict"]) == (11, "host-key")
    assert "accept-new" in refused.outcome["errors"][0]["hint"]
    folder = Path(here.environment["HOME"]) / ".ssh"
    folder.mkdir()
    public = Path(f"{here.instance.host_key_path}.pub")
    key = public.read_text() if public.exists() else _public_half(here.instance.host_key_path)
    (folder / "known_hosts").write_text(f"[{here.instance.host}]:{here.instance.port} {key}\n")
    assert here.up(profile, connection=strict).code == 0


def test_a_key_seen_at_another_port_of_the_same_host_is_no_change(here: Here, profile: str) -> None:
    """Providers put many instances behind one address, each at a port of its own."""
    folder = Path(here.environment["HOME"]) / ".ssh"
    folder.mkdir()
    import asyncssh

    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (folder / "known_hosts").write_text(f"{here.instance.host} {other}\n")

    assert here.up(profile).code == 0


def test_an_instance_id_survives_a_new_address(here: Here, profile: str) -> None:
    named = ["--instance-id", "i-77"]
    assert here.up(profile, *named).code == 0

    [row] = here.run("hosts", "list", "--json").lines

    assert row["host"] == "instance-i-77"
    assert here.run("hosts", "forget", "i-77").code == 0


def _public_half(private: Path) -> str:
    import asyncssh

    return asyncssh.read_private_key(private).export_public_key().decode().strip()


def test_a_key_that_is_named_by_its_public_half_is_the_agents(
    here: Here, profile: str, ssh_agent: str
) -> None:
    instance = here.instance
    public = here.folder / "gpu.pub"
    made = subprocess.run(["ssh-keygen", "-y", "-f", str(instance.key_path)], capture_output=True, check=True)
    public.write_bytes(made.stdout)
    others = here.folder / "others"
    for number in range(7):  # more than a server tries before it hangs up
        key = f"{others}{number}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        environment = {**os.environ, "SSH_AUTH_SOCK": ssh_agent}
        subprocess.run(["ssh-add", "-q", key], env=environment, check=True, capture_output=True)
    named = f"Host gpu\n  HostName {instance.host}\n  Port {instance.port}\n  User {instance.user}\n  IdentityFile {public}\n"
    where = ["--host", "gpu", *write_config(here, named + "  IdentityFile ~/.ssh/not_there\n")]

    done = here.up(profile, connection=where, environment={"SSH_AUTH_SOCK": ssh_agent})

    assert done.code == 0, done.stderr + done.stdout


def test_the_passphrase_of_a_key_is_asked_for_on_a_terminal(here: Here, profile: str) -> None:
    key = here.folder / "locked"
    key.write_bytes(here.instance.key_path.read_bytes())
    key.chmod(0o600)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(key)], check=True, capture_output=True
    )
    where = here.connection(key=key)
    refused = here.up(profile, connection=where)
    assert refused.code == 2
    assert "passphrase" in refused.outcome["errors"][0]["message"].lower()

    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [PROVISION, "up", *where, "--profile", profile, "--json"],
        cwd=here.folder,
        env=here.environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # its own terminal, as in a window
    )
    os.close(theirs)
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        said = b""
        while b"Passphrase of the key" not in said:
            said += terminal.read(1024)
        terminal.write(b"wrong\n")
        while said.count(b"Passphrase of the key") < 2:
            said += terminal.read(1024)
        terminal.write(b"open sesame\n")
        out, _ = child.communicate(timeout=60)

    assert child.returncode == 0, out.decode()
    assert b"sesame" not in said + out


def test_a_home_that_cannot_be_written_is_a_warning(here: Here, profile: str) -> None:
    done = here.up(profile, environment={"XDG_STATE_HOME": "/dev/null/state"})

    assert done.code == 0, done.stderr + done.stdout
    assert "host key not remembered" in done.stderr
    assert "run not remembered" in done.stderr
