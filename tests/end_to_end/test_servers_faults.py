"""What may befall the database, its line and the clocks of servers: said in one sentence, waited for, and nothing is lost.

What the instances wrote is the judge.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.file_server import FileServer
from harness.postgres import Postgres
from harness.tcp_proxy import TcpProxy
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import eventually
from .server import Follower, Server
from .test_server import assert_told_as_written, await_events, order, slow
from .test_servers import LONG_S, Pool, await_usable, pool_on
from .test_up import profile_of

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
def pool(tmp_path: Path, postgres: Postgres) -> Iterator[Pool]:
    with pool_on(tmp_path, postgres) as pool:
        yield pool


def is_well(server: Server) -> bool:
    """What a load balancer is told."""
    status = server.ask("GET", "/healthz", token=None)[0]
    assert status in (200, 503)
    return status == 200


def begin(server: Server, body: dict[str, Any]) -> None:
    """Order a run, as clients do: again while the server says that its database does not answer."""
    eventually(lambda: server.ask("POST", "/api/runs", body)[0] in (200, 202), LONG_S)


@contextmanager
def trouble_until_the_end(server: Server) -> Iterator[None]:
    """While this lasts *server* cannot write, and says so; then it can."""
    eventually(lambda: not is_well(server))
    yield
    eventually(lambda: is_well(server))


FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION full_disk();
"""


def test_a_database_that_is_full_or_forbids_writing_is_waited_for_and_said(
    pool: Pool,
    instance: EmbeddedInstance,
    files: FileServer,
) -> None:
    name = pool.address.rpartition("/")[2]
    clerk = f"clerk_{name}"
    pool.sql(f"CREATE ROLE {clerk} LOGIN")
    pool.sql(f"ALTER SCHEMA public OWNER TO {clerk}; ALTER DATABASE {name} OWNER TO {clerk}")
    text, fault = profile_of(files), slow(files)
    server = pool.start("--database", pool.address.replace("postgres@", f"{clerk}@"))
    begin(server, order(instance, text, run_id="one"))
    follower = Follower(server, "one")
    await_usable(server)

    pool.sql(FULL)
    with trouble_until_the_end(server):
        assert server.get("/api/runs/one")["state"] == "usable", "it answers"
        pool.sql("DROP FUNCTION full_disk CASCADE")
    pool.sql(f"REVOKE INSERT ON events FROM {clerk}")
    with trouble_until_the_end(server):
        pool.sql(f"GRANT INSERT ON events TO {clerk}")
    pool.sql(f"REVOKE INSERT ON runs FROM {clerk}")
    refused = server.post("/api/runs", order(instance, text, run_id="two"), status=507)["error"]
    assert "permission denied for table runs" in refused["message"]

    fault.bytes_per_s = None
    assert server.outcome("one", LONG_S)["verdict"] == "complete"
    follower.assert_whole(LONG_S)
    assert_told_as_written(server, follower, instance.workspace)


def test_a_full_disk_of_a_server_alone_is_waited_for_and_said(
    server: Server, instance: EmbeddedInstance, files: FileServer
) -> None:
    if server.new_database is not None:
        pytest.skip("it limits the server's own file")
    text, fault = profile_of(files), slow(files)
    begin(server, order(instance, text, run_id="one"))
    follower = Follower(server, "one")
    await_usable(server)
    log = next(server.folder.rglob("server.sqlite-wal"))
    no_limit = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, no_limit[1]))
    with trouble_until_the_end(server):
        assert server.get("/api/runs/one")["state"] == "usable"
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, no_limit)
    fault.bytes_per_s = None
    assert server.outcome("one", LONG_S)["verdict"] == "complete"
    follower.assert_whole(LONG_S)
    assert_told_as_written(server, follower, instance.workspace)


# -- the line to the database


def cut_off(pool: Pool, instance: EmbeddedInstance, files: FileServer, *, lease: str) -> None:
    """A server whose line to the database goes silent loses its run to another, says so, and comes back."""
    text, fault = profile_of(files), slow(files)
    host, _, port = pool.address.rpartition("@")[2].partition("/")[0].partition(":")
    with TcpProxy((host, int(port))) as proxy:
        behind = pool.address.replace(f":{port}/", f":{proxy.port}/")
        cut = pool.start("--database", behind, "--lease", lease)
        other = pool.start("--lease", lease)
        begin(cut, order(instance, text, run_id="one"))
        followers = [Follower(server, "one") for server in (cut, other)]
        await_usable(other)

        proxy.stall()
        eventually(lambda: pool.owner("one") is other, LONG_S)
        eventually(lambda: not is_well(cut), LONG_S)
        assert is_well(other)
        fault.bytes_per_s = None
        assert other.outcome("one", LONG_S)["verdict"] == "complete"
        proxy.flow()
        eventually(lambda: is_well(cut), LONG_S)
        eventually(lambda: "taken_for_dead" in cut.stderr.read_text(), LONG_S)
        for follower in followers:
            follower.assert_whole(LONG_S)
            assert_told_as_written(other, follower, instance.workspace)
        assert followers[0].seen == followers[1].seen
        assert cut.outcome("one", LONG_S)["verdict"] == "complete"


def test_a_server_whose_line_to_the_database_is_silent_loses_its_run_and_comes_back(
    pool: Pool,
    instance: EmbeddedInstance,
    files: FileServer,
) -> None:
    cut_off(pool, instance, files, lease="3s")


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_silent_line_is_found_out_with_the_real_lease_too(
    pool: Pool,
    instance: EmbeddedInstance,
    files: FileServer,
) -> None:
    cut_off(pool, instance, files, lease="10s")


# -- clocks


def stepped(name: Path, offset: str) -> dict[str, str]:
    """The environment of a program whose clock is off by what stands in the file *name*, such as `+10d`; from now on."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if shutil.which("faketime") is None or not found:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "there is no `faketime` on this machine"
        )
    name.write_text(offset)
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(name),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@pytest.mark.soak
def test_servers_whose_clocks_are_wrong_and_step_keep_their_runs_and_take_over_when_one_is_gone(
    pool: Pool,
    tmp_path: Path,
    instance: EmbeddedInstance,
    files: FileServer,
) -> None:
    text, fault = profile_of(files), slow(files)
    ahead = pool.start(environment=stepped(tmp_path / "ahead", "+40d"))
    behind = pool.start(environment=stepped(tmp_path / "behind", "-40d"))
    begin(ahead, order(instance, text, run_id="one"))
    followers = [Follower(server, "one") for server in (ahead, behind)]
    await_usable(behind)
    (tmp_path / "ahead").write_text("-400d")
    (tmp_path / "behind").write_text("+400d")
    seen = int(pool.sql("SELECT extract(epoch FROM max(seen)) FROM workers").partition(".")[0])
    assert abs(seen - time.time()) < 3600, "a lease is by the database's clock"
    beats = "SELECT min(seen) > now() - interval '1 second' FROM workers"
    eventually(lambda: pool.sql(beats) == "t")
    assert pool.owner("one") is ahead, "a step of its clock costs a server nothing"

    ahead.kill()
    eventually(lambda: pool.owner("one") is behind, LONG_S)
    fault.bytes_per_s = None
    assert behind.outcome("one", LONG_S)["verdict"] == "complete"
    followers[1].assert_whole(LONG_S)
    assert_told_as_written(behind, followers[1], instance.workspace)


# -- everything at random moments


def run_through_faults(
    pool: Pool, folder: Path, postgres: Postgres, instance: EmbeddedInstance, files: FileServer, *, seed: int
) -> None:
    """Six runs on three servers, the first of them behind a line that falls silent, while one thing after another breaks."""
    chance, lease_s = random.Random(seed), 10.0
    hook = folder / "hook.sh"
    hook.write_text(f'#!/bin/sh\necho "$PROVISION_KEY" >> {folder}/told\n')
    hook.chmod(0o755)
    text, fault = profile_of(files), slow(files)
    host, _, port = pool.address.rpartition("@")[2].partition("/")[0].partition(":")
    with TcpProxy((host, int(port))) as proxy:
        words = ("--lease", f"{lease_s:.0f}s", "--on-finished", str(hook))
        behind = pool.start("--database", pool.address.replace(f":{port}/", f":{proxy.port}/"), *words)
        servers = [behind, pool.start(*words), pool.start(*words)]
        followers = []
        for number in range(6):
            where = {"run_id": f"run{number}", "workspace": f"~/work{number}", "boot_grace": "60s"}
            begin(chance.choice(servers), order(instance, text, **where))
            followers.append(Follower(chance.choice(servers), f"run{number}"))
        for _ in range(4):
            server, lasts_s = chance.choice(servers), chance.uniform(0.1, 1.7) * lease_s
            what = chance.choice(("kill", "halt", "silent line", "restart of the database"))
            if what == "kill":
                server.kill()
                server.start()
            elif what == "halt":
                os.kill(server.pid, signal.SIGSTOP)
                time.sleep(lasts_s)
                os.kill(server.pid, signal.SIGCONT)
            elif what == "silent line":
                proxy.stall()
                time.sleep(lasts_s)
                proxy.flow()
            else:
                postgres.restart()
            await_events(followers, chance.randrange(1, 60), 120)
        fault.bytes_per_s = None
        for number, follower in enumerate(followers):
            follower.assert_whole(180)
            assert follower.seen[-1][1]["verdict"] == "complete"
            assert_told_as_written(chance.choice(servers), follower, instance.home / f"work{number}")
        eventually(lambda: pool.sql("SELECT count(*) FROM deliveries WHERE NOT is_settled") == "0", 120)
    told = (folder / "told").read_text().split()
    assert set(told) == {f"run{number}:finished:0" for number in range(6)}, (
        "each at least once, under one key"
    )
    uneven = "SELECT count(*) FROM (SELECT 1 FROM events GROUP BY rid HAVING count(*) <> max(id)) e"
    assert pool.sql(uneven) == "0"


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(50))
def test_runs_survive_whatever_breaks_at_random_moments(
    pool: Pool, tmp_path: Path, postgres: Postgres, instance: EmbeddedInstance, files: FileServer, seed: int
) -> None:
    run_through_faults(pool, tmp_path, postgres, instance, files, seed=seed)
