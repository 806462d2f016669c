"""Bytes before all look-ups have ended: which files begin, which wait, and what a later look-up still changes."""

from __future__ import annotations

import socket
import threading
import time

from harness.downloads import eventually
from harness.file_server import Content, Fault, FileServer
from provision_agent.contract.plan import Download
from provision_agent.downloads.http import request
from provision_agent.downloads.http.idle import IdleConnections
from provision_agent.downloads.http.transport import origin_of

MIB = 1 << 20
SIZE = 4 * MIB


class Held:
    """A server that keeps one path waiting until `release`."""

    def __init__(self, server: FileServer, path: str, **fields: object) -> None:
        self._gate = threading.Event()
        self.url = server.add(path, Content(SIZE), Fault(redirect=self._wait, times=1), **fields)

    def _wait(self) -> str:
        self._gate.wait(20)
        return self.url

    def release(self) -> None:
        self._gate.set()


def begun(bench, engine, begin=lambda: None):
    """Run the preflight beside the test; returns its thread."""
    thread = threading.Thread(target=lambda: engine.preflight(begin=begin), daemon=True)
    thread.start()
    return thread


def test_a_file_is_there_before_the_last_look_up_has_ended(bench, server):
    slow = Held(server, "/slow")
    items = [
        Download(url=server.add("/quick", Content(SIZE)), path="quick"),
        Download(url=slow.url, path="slow"),
    ]
    engine, told = bench.engine(*items), []
    try:
        preflight = begun(bench, engine, begin=lambda: told.append("begin"))
        eventually(lambda: bench.path("quick").exists())
        assert preflight.is_alive()
        assert told

        slow.release()
        preflight.join(10)
        engine.start()

        assert engine.wait()
        assert {result.state for result in engine.results().values()} == {"ok"}
        assert len([event for event in bench.named("started") if event["item"] == "quick"]) == 1
    finally:
        slow.release()
        engine.stop()


def test_without_leave_nothing_begins_before_the_start(bench, server):
    engine = bench.engine(Download(url=server.add("/m", Content(SIZE)), path="m"))
    try:
        engine.preflight()

        assert bench.named("started") == []
        assert not bench.path("m.part").exists()
    finally:
        engine.stop()


def test_a_less_urgent_file_does_not_begin_before_it_is_known_what_the_urgent_ones_need(bench, server):
    slow = Held(server, "/slow")
    items = [
        Download(url=slow.url, path="slow", level="critical"),
        Download(url=server.add("/first", Content(SIZE)), path="first", level="critical"),
        Download(url=server.add("/later", Content(SIZE)), path="later", level="optional"),
    ]
    engine = bench.engine(*items)
    try:
        preflight = begun(bench, engine)
        eventually(lambda: bench.path("first").exists())
        sized = [event["item"] for event in bench.named("sized")]
        eventually(lambda: "later" in [event["item"] for event in bench.named("sized")])

        assert "later" not in [event["item"] for event in bench.named("started")], sized
        slow.release()
        preflight.join(10)
    finally:
        slow.release()
        engine.stop()


def test_files_of_which_two_may_want_one_name_wait_for_their_order(bench, server):
    slow = Held(server, "/slow")
    items = [
        Download(url=server.add("/a", Content(SIZE)), path="models/a"),
        Download(url=slow.url, path="models/"),
    ]
    engine = bench.engine(*items)
    try:
        preflight = begun(bench, engine)
        eventually(lambda: "models/a" in [event["item"] for event in bench.named("sized")])

        assert bench.named("started") == []
        slow.release()
        preflight.join(10)
    finally:
        slow.release()
        engine.stop()


def test_what_does_not_fit_fails_alone_though_others_have_begun(bench, server, monkeypatch):
    """The disk has room for one of the two; the larger one is told last."""
    room = 100 * MIB
    monkeypatch.setattr(
        "provision_agent.downloads.preflight.os.statvfs",
        lambda path: type("Space", (), {"f_bavail": room, "f_frsize": 1})(),
    )
    slow = Held(server, "/slow")
    items = [
        Download(url=server.add("/small", Content(SIZE)), path="small", level="required"),
        Download(url=slow.url, path="large", size_bytes=200 * MIB, level="required"),
    ]
    engine, found = bench.engine(*items), []
    try:
        preflight = threading.Thread(target=lambda: found.append(engine.preflight(begin=lambda: None)))
        preflight.start()
        eventually(lambda: bench.path("small").exists())
        slow.release()
        preflight.join(10)

        assert {key: failure.class_ for key, failure in found[0].failures.items()} == {
            items[1].key: "disk_full"
        }
        assert found[0].too_big is None
    finally:
        slow.release()
        engine.stop()


def test_a_look_ups_connection_carries_the_first_bytes(bench):
    with FileServer() as server:
        item = Download(url=server.add("/m", Content(MIB)), path="m")
        results = bench.fetch_as_runs_do(item)

        assert results[item.key].state == "ok"
        assert (len(server.seen("/m")), server.connections_opened) == (2, 1)


def test_an_idle_connection_that_the_server_has_closed_costs_a_try_and_no_file():
    idle = IdleConnections()
    with FileServer() as server:
        url = server.add("/m", Content(MIB))
        port = server.port
        response = request.request(url, {"Range": "bytes=0-9"}, connect_s=2.0, answer_s=2.0)
        response.read(10, 2.0)
        idle.keep(response)
    with FileServer(port=port) as server:
        server.add("/m", Content(MIB))
        response, _ = request.follow(
            url, lambda at, before: {}, deadline=time.monotonic() + 5.0, connect_s=2.0, idle=idle
        )
        assert response.status == 200
        response.close()
    idle.close()


def test_idle_connections_are_kept_by_origin_for_a_while_and_closed_at_the_end():
    now = 0.0
    idle = IdleConnections(clock=lambda: now)
    with FileServer() as server:
        url = server.add("/m", Content(MIB))

        def keep() -> socket.socket:
            response = request.request(url, {"Range": "bytes=0-9"}, connect_s=2.0, answer_s=2.0)
            response.read(10, 2.0)
            opened = response.connection.socket
            idle.keep(response)
            return opened

        first = keep()
        assert idle.take(origin_of("http://127.0.0.1:1/")) is None
        taken = idle.take(origin_of(url))
        assert taken is not None and taken.socket is first
        taken.close()

        stale = keep()
        now = 1000.0
        assert idle.take(origin_of(url)) is None
        assert stale.fileno() == -1

        last = keep()
        idle.close()
        assert last.fileno() == -1
        assert keep().fileno() == -1
