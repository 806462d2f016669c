"""Clients that hold connections, descriptors and bodies: everybody else is served, and each is told why it was let go."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.hostile_client import HostileClient, said_on
from provision_collector.pool.descriptors import Room
from provision_collector.pool.server.connections import MOST_OF_ONE_ADDRESS

from .conftest import eventually
from .server import TOKEN, Server
from .test_server_access import PROFILE, closed_port

HALF = b"GET /api/runs HTTP/1.1\r\nHost: 127.0.0.1\r\n"
FEW_FILES = 256


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("door"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def client(server: Server) -> Iterator[HostileClient]:
    client = HostileClient(server.port)
    yield client
    client.close()


def error_in(said: bytes) -> dict[str, Any]:
    return dict(json.loads(said.partition(b"\r\n\r\n")[2])["error"])


def test_three_hundred_half_requests_hold_up_nobody_and_are_let_go(
    server: Server, client: HostileClient
) -> None:
    halves = client.send(HALF, count=300)
    silent = client.send(b"", count=1)[0]

    assert server.get("/healthz") == {"status": "ok"}
    assert server.get("/api/runs")["runs"] == []
    for half in (halves[0], halves[-1]):
        said = said_on(half)
        assert said.startswith(b"HTTP/1.1 408 ")
        assert error_in(said) == {
            "class": "too_slow",
            "message": "the header did not arrive within 10 s",
            "hint": "send the request in one piece",
        }
    assert said_on(silent) == b""


def test_a_header_without_end_and_what_is_no_http_are_refused_at_once(
    server: Server, client: HostileClient
) -> None:
    for data in (HALF + b"X: " + b"a" * (1 << 17), b"\x16\x03\x01" + b"\0" * 600 + b"\r\n\r\n"):
        said = said_on(client.send(data)[0])
        assert said.startswith(b"HTTP/1.1 400 ") or said == b"", said
    said = said_on(client.send(b"no http at all\r\n\r\n")[0])
    assert error_in(said)["message"] == "this is no HTTP request"
    assert server.get("/healthz") == {"status": "ok"}


def test_a_request_that_comes_in_pieces_in_time_is_answered(server: Server, client: HostileClient) -> None:
    connection = client.send(b"GET /healthz HT")[0]
    for piece in (b"TP/1.1\r\nHost: 127", b".0.0.1\r\nConnection: close", b"\r\n\r\n"):
        connection.sendall(piece)

    assert said_on(connection).endswith(b'{"status":"ok"}')


@pytest.fixture
def few(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "few", prefix=("sh", "-c", f'ulimit -n {FEW_FILES}; exec "$@"', "sh"))
    server.start()
    yield server
    server.close()


def test_more_connections_than_descriptors_do_not_end_the_accepting(few: Server) -> None:
    client = HostileClient(few.port)
    try:
        for _ in range(3):
            client.send(HALF, count=300)
            assert few.get("/healthz") == {"status": "ok"}
            assert few.get("/api/runs")["runs"] == []
        assert len(os.listdir(f"/proc/{few.pid}/fd")) < FEW_FILES - 32
    finally:
        client.close()


def test_a_server_that_is_out_of_descriptors_answers_before_during_and_after(few: Server) -> None:
    few.get("/api/runs")
    resource.prlimit(few.pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{few.pid}/fd")) + 4,) * 2)
    client = HostileClient(few.port)
    try:
        assert few.get("/healthz") == {"status": "ok"}
        client.send(HALF, count=40)  # more than it can open, and fewer than it believes to have room for
        eventually(lambda: few.get("/healthz") == {"status": "ok"}, 40)
        assert "Too many open files" in few.stderr.read_text()
    finally:
        client.close()
    eventually(lambda: few.get("/healthz") == {"status": "ok"}, 40)
    assert few.get("/api/runs")["runs"] == []


def test_one_address_gets_as_many_connections_as_it_may_and_takes_none_of_others(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        try:
            own.connect(("192.0.2.1", 9))  # nothing is sent: it says by which address this machine would
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = own.getsockname()[0]
    server = Server(tmp_path / "open", listen="0.0.0.0:0")
    server.start()
    client, crowd = HostileClient(server.port), HostileClient(server.port, address)
    try:
        halves = [*crowd.send(HALF, count=MOST_OF_ONE_ADDRESS), *client.send(HALF, count=5)]
        crowd.send(HALF, count=20)
        for half in halves[:20]:
            assert said_on(half, 5) == b"", "the ones that have waited longest make room"
        for half in (halves[20], halves[MOST_OF_ONE_ADDRESS]):
            half.setblocking(False)
            with pytest.raises(BlockingIOError):
                half.recv(1)
        assert server.get("/healthz") == {"status": "ok"}
    finally:
        client.close()
        crowd.close()
        server.close()


def test_connections_that_all_work_leave_the_next_one_a_word_why(few: Server) -> None:
    body = {"host": "127.0.0.1", "port": closed_port(), "boot_grace": "1h", "profile_yaml": PROFILE}
    few.post("/api/runs", {**body, "run_id": "long"})
    head = f"GET /api/runs/long/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    client = HostileClient(few.port)
    try:
        for stream in client.send(head.encode(), count=Room.of(FEW_FILES).connections):
            assert stream.recv(12) == b"HTTP/1.1 200"
        said = said_on(client.send(HALF)[0])
        assert said.startswith(b"HTTP/1.1 503 ")
        assert error_in(said) == {
            "class": "busy",
            "message": "this server has as many connections as it takes",
            "hint": "ask again in a moment",
        }
    finally:
        client.close()


def test_more_runs_than_descriptors_allow_are_refused_with_a_reason(few: Server) -> None:
    body = {"host": "127.0.0.1", "port": closed_port(), "boot_grace": "1h", "profile_yaml": PROFILE}
    most = Room.of(FEW_FILES).runs
    for number in range(most):
        few.post("/api/runs", {**body, "run_id": f"run-{number}"})

    status, _, answer = few.ask("POST", "/api/runs", {**body, "run_id": "one-too-many"})

    assert (status, json.loads(answer)["error"]) == (
        503,
        {
            "class": "busy",
            "message": f"{most} runs are going on this server, which is as many as it takes",
            "hint": "ask again when some have ended; `ulimit -n` before `provision serve` bounds them, too",
        },
    )
    assert few.get("/healthz") == {"status": "ok"}


def test_the_address_that_is_printed_accepts_already(tmp_path: Path) -> None:
    for number in range(3):
        server = Server(tmp_path / str(number))
        server.start()  # returns with the printed line
        try:
            assert server.ask("GET", "/healthz")[0] == 200
        finally:
            server.close()
