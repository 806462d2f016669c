"""The embedded instance is an instance: it lets in, is cut off, comes back, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest
from provision_collector.demo.instance import EmbeddedInstance
from provision_collector.demo.sshd import find_sshd

SERVERS = [
    pytest.param("sshd", marks=pytest.mark.skipif(find_sshd() is None, reason="this machine has no sshd")),
    "asyncssh",
]


@pytest.fixture(params=SERVERS)
async def instance(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EmbeddedInstance]:
    async with EmbeddedInstance(tmp_path / "instance", server=request.param) as instance:
        yield instance


def login(instance: EmbeddedInstance):
    return asyncssh.connect(
        instance.host,
        instance.port,
        username=instance.user,
        client_keys=[str(instance.key_path)],
        known_hosts=None,
        config=None,
        agent_path=None,
    )


async def test_bytes_pass_unchanged_both_ways_and_the_exit_status_is_the_programs(instance):
    every_byte = bytes(range(256)) * 4096
    async with login(instance) as connection:
        result = await connection.run("cat; echo said >&2; exit 7", input=every_byte, encoding=None)

    assert (result.stdout, result.stderr, result.exit_status) == (every_byte, b"said\n", 7)


async def test_a_login_has_the_instances_home_and_a_python3(instance):
    async with login(instance) as connection:
        result = await connection.run("echo $HOME; command -v python3", check=True)

    home, python = result.stdout.split()
    assert home == str(instance.home)
    assert os.access(python, os.X_OK)


async def test_a_wrong_key_is_refused(instance, tmp_path):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "other"))
    instance.key_path = tmp_path / "other"

    with pytest.raises(asyncssh.PermissionDenied):
        async with login(instance):
            pass


async def test_stop_cuts_the_session_and_start_answers_on_the_same_port_with_the_same_key(instance):
    async with login(instance) as connection:
        before = connection.get_server_host_key().public_data
        await asyncio.to_thread(instance.stop)
        await asyncio.wait_for(connection.wait_closed(), 10)
    with pytest.raises(OSError):
        await login(instance)
    await asyncio.to_thread(instance.start)

    async with login(instance) as connection:
        assert connection.get_server_host_key().public_data == before


async def test_a_detached_program_outlives_the_cut_and_ends_when_the_instance_is_switched_off(instance):
    async with login(instance) as connection:
        result = await connection.run("setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!", check=True)
        pid = int(result.stdout)
    await asyncio.to_thread(instance.restart)
    assert pid in instance.processes

    await asyncio.to_thread(instance.switch_off)

    assert instance.processes == []
    assert instance.pids == []


@pytest.mark.skipif(find_sshd() is None, reason="this machine has no sshd")
async def test_the_pids_are_the_listener_and_its_sessions(tmp_path):
    async with EmbeddedInstance(tmp_path / "instance", server="sshd") as instance:
        async with asyncio.timeout(
            20
        ):  # the listener forks, and reaps who asked it before, when it comes to it
            while len(alone := instance.pids) != 1:
                await asyncio.sleep(0.02)
            async with login(instance) as connection:
                await connection.run("true", check=True)
                while len(found := instance.pids) < 2:
                    await asyncio.sleep(0.02)
                assert found[:1] == alone


async def test_without_a_usable_sshd_it_says_why_and_takes_asyncssh(tmp_path, monkeypatch):
    monkeypatch.setattr("provision_collector.demo.sshd.find_sshd", lambda: "/bin/false")

    async with EmbeddedInstance(tmp_path / "instance") as instance, login(instance) as connection:
        result = await connection.run("echo in", check=True)

    assert (instance.kind, result.stdout) == ("asyncssh", "in\n")
    assert "sshd does not start" in instance.why_not_sshd
