"""A real `provision serve` and a plain HTTP client for the tests."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy
from provision_collector.pool.server.app import Door, application
from provision_collector.pool.server.pool import Pool
from provision_collector.pool.server.rules import Rules
from provision_collector.pool.server.sessions import Sessions

from .conftest import PROVISION, eventually

TOKEN = "a-token-of-the-tests-0123456789"
OF_RUN = "rid = (SELECT rid FROM runs WHERE run = ?)"
Answer = tuple[int, dict[str, str], bytes]


@asynccontextmanager
async def served_here(folder: Path) -> AsyncIterator[tuple[Pool, httpx.AsyncClient]]:
    """The server's application in this process, and a client that it lets in."""
    app = application(
        Rules(folder / "state", folder / "logs"),
        Door("a-token"),
        Sessions(folder / "sessions.json"),
        asyncio.Event(),
    )
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://localhost",
        headers={"Authorization": "Bearer a-token"},
        timeout=60,
    )
    async with app.router.lifespan_context(app), client:
        yield app.state.context.pool, client


class Server:
    """One server process on one folder; `kill` and `start` again are part of the tests."""

    new_database: Callable[[], str] | None = None
    """Makes the database of each; None: every one has a file of its own."""

    def __init__(
        self,
        folder: Path,
        *words: str,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        listen: str = "127.0.0.1:0",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.logs = folder / "logs"
        self._listen, _, port = listen.rpartition(":")
        self.port = int(port)
        self.page = ""
        """The link that logs a browser in."""
        self.pid = 0
        self._words = words
        if self.new_database is not None and "--database" not in words:
            self._words = (*words, "--database", self.new_database(), "--lease", "3s")
        self._prefix = prefix
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "XDG_STATE_HOME": str(folder / "state"),
            "LANG": "C.UTF-8",
            "PROVISION_TOKEN": TOKEN,
            **(environment or {}),
        }
        (folder / "home").mkdir(exist_ok=True)
        self._child: subprocess.Popen[bytes] | None = None
        self._output = folder / "server.out"
        self.stderr = folder / "server.err"

    def start(self) -> None:
        with self._output.open("wb") as out, self.stderr.open("ab") as err:
            self._child = subprocess.Popen(
                [
                    *self._prefix,
                    *(PROVISION, "serve", "--listen", f"{self._listen}:{self.port}", "--json"),
                    *("--keys", str(self.folder.parent)),  # the instances of the tests lie beside it
                    *self._words,
                ],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        said = eventually(lambda: self._child_said())
        self.port = int(said["url"].rpartition(":")[2])
        self.page = said["page"]
        self.pid = said["pid"]

    def _child_said(self) -> dict[str, Any]:
        assert self._child is not None
        assert self._child.poll() is None, self.stderr.read_text()
        said = dict(json.loads(self._output.read_text()))
        if said.get("event") != "serving":
            self._child.wait(15)
            raise AssertionError(self.stderr.read_text())
        return said

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self._child is not None
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def end(self, within_s: float = 60.0) -> int:
        """SIGTERM, as an operator; the exit status."""
        assert self._child is not None
        self._child.terminate()
        return self._child.wait(within_s)

    def close(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self.kill()

    # -- what it keeps

    def kept(self, run: str) -> list[bytes]:
        """The run's events as they stand in the server's file."""
        with self._database() as database:
            rows = database.execute(f"SELECT body FROM events WHERE {OF_RUN} ORDER BY id", [run]).fetchall()
        return [bytes(body) for (body,) in rows]

    def keep(self, run: str, *lines: bytes, anew: bool = False) -> None:
        """Write events into the file, as an earlier release or a bad disk left them.

        Args:
            anew: They are all that there is.
        """
        with self._database() as database:
            if anew:
                database.execute(f"DELETE FROM events WHERE {OF_RUN}", [run])
                database.execute(f"DELETE FROM snapshots WHERE {OF_RUN}", [run])
            day, rid = database.execute("SELECT day, rid FROM runs WHERE run = ?", [run]).fetchone()
            last = database.execute(
                f"SELECT coalesce(max(id), 0) FROM events WHERE {OF_RUN}", [run]
            ).fetchone()[0]
            rows = [(day, rid, number, body) for number, body in enumerate(lines, last + 1)]
            database.executemany("INSERT INTO events (day, rid, id, body) VALUES (?, ?, ?, ?)", rows)

    def told_hooks(self) -> list[str]:
        """The keys of the hooks of which it is written down, in whatever database, that they were told."""
        if "--database" in self._words:
            address = self._words[self._words.index("--database") + 1]
            url = address.replace("postgresql://", "postgresql+psycopg://", 1)
        else:
            url = f"sqlite:///{next(self.folder.rglob('server.sqlite'))}"
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            told = connection.execute(
                sqlalchemy.text("SELECT key FROM deliveries WHERE is_settled ORDER BY key")
            )
            return list(told.scalars())

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        if self.new_database is not None:
            pytest.skip("it looks into the server's own file")
        database = sqlite3.connect(next(self.folder.rglob("server.sqlite")), timeout=20)
        try:
            with database:
                yield database
        finally:
            database.close()

    # -- asking

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = TOKEN,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {"Authorization": f"Bearer {token}"} if token is not None else {}
        data = raw
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            connection.request(method, path, data, {**sent, **(headers or {})})
            response = connection.getresponse()
            answered = {name.lower(): value for name, value in response.getheaders()}
            return response.status, answered, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> dict[str, Any]:
        status, _, body = self.ask("GET", path)
        assert status == 200, (status, body)
        return dict(json.loads(body))

    def post(self, path: str, body: Any = None, *, status: int = 202) -> dict[str, Any]:
        found, _, answer = self.ask("POST", path, body)
        assert found == status, (found, answer)
        return dict(json.loads(answer))

    def outcome(self, run: str, within_s: float = 60.0) -> dict[str, Any]:
        """The outcome by polling."""
        return dict(eventually(lambda: self.get(f"/api/runs/{run}")["outcome"], within_s))

    def events(self, run: str, after: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """One connection's server-sent events, until it ends or breaks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=25)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        try:
            connection.request("GET", f"/api/runs/{run}/events", headers=headers)
            response = connection.getresponse()
            if response.status == 204:
                return
            if response.status == 503:
                raise ConnectionError("the server cannot ask its database now")  # its clients come again
            assert response.status == 200, response.status
            number = 0
            for line in response:
                if line.startswith(b"id: "):
                    number = int(line[4:])
                elif line.startswith(b"data: "):
                    yield number, json.loads(line[6:])
        finally:
            connection.close()


class Follower(threading.Thread):
    """An SSE client as browsers are: comes back with its last id whenever the stream breaks, until the outcome."""

    def __init__(self, server: Server, run: str) -> None:
        super().__init__(daemon=True)
        self._server = server
        self.run_id = run
        self.seen: list[tuple[int, dict[str, Any]]] = []
        self.start()

    def run(self) -> None:
        while not self.seen or self.seen[-1][1]["event"] != "outcome":
            try:
                for event in self._server.events(self.run_id, self.seen[-1][0] if self.seen else None):
                    self.seen.append(event)
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.02)

    def assert_whole(self, within_s: float = 60.0) -> None:
        """Every id once, every writer's sequence whole, and the outcome last."""
        self.join(within_s)
        assert not self.is_alive(), [event["event"] for _, event in self.seen[-5:]]
        assert_whole(self.seen)


def assert_whole(seen: list[tuple[int, dict[str, Any]]]) -> None:
    """Ids and both writers' sequences are 1, 2, 3 …"""
    events = [event for _, event in seen]
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    for side in ("collector", None):
        sequence = [event["seq"] for event in events if event.get("from") == side]
        assert sequence == list(range(1, len(sequence) + 1)), (side, sequence)
    assert [event["event"] for event in events].count("outcome") == 1
    assert [event["event"] for event in events].count("run_accepted") == 1
    assert events[0]["event"] == "run_accepted"
    assert events[-1]["event"] == "outcome"
