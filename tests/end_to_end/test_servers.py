"""Several servers on one database, as a pool runs them: killed, halted and restarted, and no client sees a gap.

What the instances wrote is the judge. Leases are short here; the real ones are longer and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.file_server import FileServer
from harness.postgres import Postgres
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import eventually
from .server import TOKEN, Follower, Server
from .test_server import assert_told_as_written, order, slow
from .test_up import profile_of

pytestmark = pytest.mark.timeout(150)
LEASE = "3s"
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "warm_pool.mjs"
LONG_S = 60


class Pool:
    """Servers on one database."""

    def __init__(self, folder: Path, cluster: Postgres) -> None:
        self._folder = folder
        self._cluster = cluster
        self.address = cluster.database()
        self.servers: list[Server] = []

    def start(
        self, *words: str, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> Server:
        name, words = f"server{len(self.servers)}", ("--lease", LEASE, *words)
        if "--database" not in words:
            words = ("--database", self.address, *words)
        server = Server(self._folder / name, *words, prefix=prefix, environment=environment)
        self.servers.append(server)
        server.start()
        return server

    def owner(self, run: str) -> Server:
        """The server that watches the run: its process is in the name of the lease."""
        said = eventually(
            lambda: self.sql(f"SELECT owner FROM runs WHERE run = '{run}' AND owner IS NOT NULL")
        )
        return next(server for server in self.servers if server.pid == int(said.split(":")[1]))

    def sql(self, command: str) -> str:
        return self._cluster.sql(command, self.address)


@contextmanager
def pool_on(folder: Path, cluster: Postgres) -> Iterator[Pool]:
    """Servers that end with the test, and may not have told of a bug."""
    pool = Pool(folder, cluster)
    try:
        yield pool
    finally:
        for server in pool.servers:
            server.close()
    for server in pool.servers:
        if "Traceback" in server.stderr.read_text():
            raise AssertionError(server.stderr.read_text())


@pytest.fixture
def pool(tmp_path: Path, postgres: Postgres) -> Iterator[Pool]:
    with pool_on(tmp_path, postgres) as pool:
        yield pool


def await_usable(server: Server, run: str = "one") -> None:
    """Until *server*, whichever it is, says that the run is usable."""
    eventually(lambda: server.get(f"/api/runs/{run}")["state"] == "usable", LONG_S)


def test_a_killed_servers_run_is_taken_over_and_every_server_tells_it_whole(
    pool: Pool, instance: EmbeddedInstance, files: FileServer
) -> None:
    first, second = pool.start(), pool.start()
    text, fault = profile_of(files), slow(files)
    body = order(instance, text, run_id="one", instance_id="i-1")
    assert first.post("/api/runs", body)["run"] == "one"
    assert second.post("/api/runs", body, status=200)["run"] == "one", (
        "the same order, sent to another server"
    )
    followers = [Follower(server, "one") for server in (first, second)]
    await_usable(second)
    listed = second.get("/api/runs?state=usable&host=i-1")
    assert [run["run"] for run in listed["runs"]] == ["one"]

    first.kill()
    eventually(lambda: pool.owner("one") is second, LONG_S)
    fault.bytes_per_s = None
    assert second.outcome("one", LONG_S)["verdict"] == "complete"
    followers[1].assert_whole(LONG_S)
    assert_told_as_written(second, followers[1], instance.workspace)
    third = pool.start()
    assert list(third.events("one")) == followers[1].seen
    assert (
        third.ask("GET", "/api/runs/one/log?from=100")[2] == second.ask("GET", "/api/runs/one/log")[2][100:]
    )
    assert third.get("/api/runs/one")["outcome"] == second.get("/api/runs/one")["outcome"]
    hosts = [server.get("/api/hosts")["hosts"] for server in (second, third)]
    assert hosts[0] == hosts[1]
    assert [(card["instance"], card["verdicts"]) for card in hosts[0]] == [("i-1", {"complete": 1})]
    known = pool.sql("SELECT count(*) FROM host_keys")
    assert known == "1", "the server that took over did not trust on first use again"


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_the_node_pool_goes_on_with_another_server_when_one_is_killed(
    pool: Pool, instance: EmbeddedInstance, files: FileServer, tmp_path: Path
) -> None:
    if (node := shutil.which("node")) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no node on this machine")
    first, second = (
        pool.start("--keys", str(instance.key_path.parent)),
        pool.start("--keys", str(instance.key_path.parent)),
    )
    text, fault = profile_of(files), slow(files)
    (tmp_path / "profile.yaml").write_text(text)
    said = tmp_path / "said"
    words = [
        "--want",
        "1",
        "--profile",
        str(tmp_path / "profile.yaml"),
        "--user",
        instance.user,
        "--key",
        instance.key_path.name,
    ]
    urls = f"http://127.0.0.1:{first.port},http://127.0.0.1:{second.port}"
    with said.open("wb") as output:
        example = subprocess.Popen(
            [node, str(EXAMPLE), *words, "--workspace", "~/work", f"{instance.host}:{instance.port}"],
            env={"PATH": os.environ["PATH"], "PROVISION_URL": urls, "PROVISION_TOKEN": TOKEN}, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        eventually(lambda: "usable after" in said.read_text(), LONG_S)
        first.kill()
        fault.bytes_per_s = None
        eventually(lambda: ": complete" in said.read_text(), LONG_S)
    finally:
        example.kill()
        example.wait()
    assert said.read_text().count("usable after") == 1, "told once"


def test_a_halted_server_that_wakes_up_writes_nothing_more_and_goes_on_with_other_runs(
    pool: Pool, instance: EmbeddedInstance, second: EmbeddedInstance, files: FileServer
) -> None:
    text, fault = profile_of(files), slow(files)
    halted, other = pool.start(), pool.start()
    halted.post("/api/runs", order(instance, text, run_id="one"))
    follower = Follower(other, "one")
    await_usable(other)

    os.kill(halted.pid, signal.SIGSTOP)
    eventually(lambda: pool.owner("one") is other, LONG_S)
    os.kill(halted.pid, signal.SIGCONT)
    eventually(lambda: "taken_for_dead" in halted.stderr.read_text(), LONG_S)
    body = order(second, text, run_id="two")
    eventually(lambda: halted.ask("POST", "/api/runs", body)[0] in (200, 202), LONG_S)  # 503 until it is back
    fault.bytes_per_s = None
    assert halted.outcome("one", LONG_S)["verdict"] == "complete", "it answers for the run that it lost"
    follower.assert_whole(LONG_S)
    assert_told_as_written(halted, follower, instance.workspace)
    assert halted.outcome("two", LONG_S)["verdict"] == "complete"


def test_a_server_that_ends_gives_its_runs_back_at_once(
    pool: Pool, instance: EmbeddedInstance, files: FileServer
) -> None:
    text, fault = profile_of(files), slow(files)
    first, second = pool.start("--lease", "60s"), pool.start("--lease", "60s")
    first.post("/api/runs", order(instance, text, run_id="one", watch="until_released"))
    follower = Follower(second, "one")
    await_usable(second)
    assert first.end() == 0
    eventually(lambda: pool.owner("one") is second, 30)
    fault.bytes_per_s = None
    assert second.outcome("one", LONG_S)["verdict"] == "complete"
    follower.assert_whole(LONG_S)
    [kept] = eventually(lambda: second.get("/api/instances")["instances"])
    assert kept["run"] == "one", "who takes a run over watches its instance, too"
    third = pool.start("--lease", "60s")
    assert third.get("/api/instances")["instances"][0]["run"] == "one", "and every server tells of it"
    assert second.end() == 0
    watcher = "SELECT split_part(w.name, ':', 2) FROM instances i JOIN workers w ON w.id = i.owner WHERE NOT w.is_dead"
    eventually(lambda: pool.sql(watcher) == str(third.pid))
    third.post("/api/runs/one/release")
    assert third.get("/api/instances") == {"instances": []}


def test_stop_release_and_secrets_come_through_any_server(
    pool: Pool, instance: EmbeddedInstance, second: EmbeddedInstance, files: FileServer
) -> None:
    text = profile_of(files)
    slow(files)
    watching, answering = pool.start(), pool.start("--no-watch")
    for run, where in (("one", instance), ("two", second)):
        answering.post("/api/runs", order(where, text, run_id=run))
        assert pool.owner(run) is watching
        await_usable(answering, run)
    answering.post("/api/runs/one/stop")
    answering.post("/api/runs/two/release")
    assert answering.outcome("one", LONG_S)["verdict"] == "cancelled"
    assert answering.outcome("two", LONG_S)["verdict"] == "instance-gone"


def test_a_database_that_restarts_costs_a_moment_and_no_event(
    pool: Pool, postgres: Postgres, instance: EmbeddedInstance, files: FileServer
) -> None:
    text, fault = profile_of(files), slow(files)
    first, second = pool.start(), pool.start()
    first.post("/api/runs", order(instance, text, run_id="one"))
    followers = [Follower(server, "one") for server in (first, second)]
    await_usable(second)
    postgres.restart()
    fault.bytes_per_s = None
    for follower in followers:
        follower.assert_whole(LONG_S)
        assert_told_as_written(second, follower, instance.workspace)
    assert followers[0].seen == followers[1].seen


def test_runs_of_a_servers_own_file_come_into_the_database(
    pool: Pool, tmp_path: Path, instance: EmbeddedInstance, files: FileServer
) -> None:
    text, fault = profile_of(files), slow(files)
    alone = Server(tmp_path / "server0")
    alone.start()
    try:
        alone.post("/api/runs", order(instance, text, run_id="one"))
        await_usable(alone)
        told = alone.kept("one")
        assert alone.end() == 0
    finally:
        alone.close()
    here = pool.start("--import-state")
    assert "1 runs of" in here.stderr.read_text()
    fault.bytes_per_s = None
    assert here.outcome("one", LONG_S)["verdict"] == "complete"
    follower = Follower(here, "one")
    follower.assert_whole(LONG_S)
    assert [event for _, event in follower.seen][: len(told)] == [json.loads(line) for line in told]
    assert_told_as_written(here, follower, instance.workspace)
