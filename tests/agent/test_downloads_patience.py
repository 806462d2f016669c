"""Servers that cannot be reached: how long they are tried, by whom, and what goes on meanwhile."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from harness.downloads import Bench, eventually, quick
from harness.file_server import Content, Fault, FileServer
from provision_agent.contract.plan import Download, Limits, Substitute
from provision_agent.run.outages import Outages

MIB = 1 << 20


class Slammed:
    """A port that takes connections and resets them; `count` says how many."""

    def __init__(self) -> None:
        self.count = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._slam, daemon=True).start()

    def _slam(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                opened, _ = self._listener.accept()
                self.count += 1
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                opened.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def slammed() -> Iterator[Slammed]:
    made = Slammed()
    yield made
    made.close()


def patient(bench: Bench, patience_s: float) -> Bench:
    object.__setattr__(bench.context, "outages", Outages(patience_s))
    return bench


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_server_that_comes_back_is_waited_for_whatever_the_number_of_attempts(bench):
    port, content, started = free_port(), Content.safetensors(2 * MIB, seed=1), []

    def heal(event: str, fields: dict) -> None:
        if event == "download_retried" and fields["attempt"] == 3:
            started.append(FileServer(port=port))
            started[0].add("/m.safetensors", content)

    bench.on_event = heal
    url = f"http://127.0.0.1:{port}/m.safetensors"
    item = Download(url=url, path="m.safetensors", sha256=content.sha256, limits=quick(attempts=1))
    result = patient(bench, 20.0).fetch_one(item)
    started[0].close()

    assert result.state == "ok"
    assert {event["class"] for event in bench.named("retried")} == {"unreachable"}


def test_files_of_one_server_that_cannot_be_reached_share_one_prober_and_fail_together(bench, slammed):
    items = [
        Download(url=slammed.url(f"/{number}.bin"), path=f"{number}.bin", limits=quick())
        for number in range(20)
    ]
    began = time.monotonic()
    results = patient(bench, 2.5).fetch(*items)

    assert {result.failure.class_ for result in results.values()} == {"unreachable"}
    assert "tried for" in results["19.bin"].failure.message
    assert time.monotonic() - began >= 2.5
    # some may begin at the same moment; then one asks at a time, at growing distances
    assert slammed.count <= 8 + 6


def test_files_of_other_servers_are_fetched_while_one_server_is_waited_for(bench, server, slammed):
    # as many as may be fetched at once, and more, hang on the server that is down
    down = [
        Download(url=slammed.url(f"/{number}.bin"), path=f"{number}.bin", level="critical", limits=quick())
        for number in range(8)
    ]
    fine = [
        Download(url=server.add(f"/f{number}", Content(MIB)), path=f"f{number}.bin") for number in range(8)
    ]
    engine = patient(bench, 60.0).engine(*down, *fine, limits=Limits(files=2))
    try:
        engine.start()
        eventually(lambda: len(bench.named("finished")) == len(fine))
    finally:
        bench.cancelled.set()
        engine.stop()

    assert {event["item"] for event in bench.named("finished")} == {item.path for item in fine}
    assert not bench.named("failed")


def test_a_mirror_is_taken_at_once_when_the_first_source_cannot_be_reached(bench, server, slammed):
    content = Content.safetensors(MIB, seed=2)
    mirror = server.add("/m.safetensors", content)
    item = Download(url=slammed.url("/m"), mirrors=(mirror,), path="m.safetensors", limits=quick())

    result = patient(bench, 60.0).fetch_one(item)

    assert result.state == "ok"
    assert slammed.count == 1
    assert [event["substitute"] for event in bench.named("switched")] == [False]


def test_a_substitute_is_taken_after_a_second_try_and_never_for_one_lost_connection(bench, server, slammed):
    other = server.add("/other", Content(MIB))
    substitute = Substitute(url=other, path="other.bin")
    item = Download(url=slammed.url("/m"), path="m.bin", substitute=substitute, limits=quick())

    assert patient(bench, 60.0).fetch_one(item).state == "ok"

    assert slammed.count == 2
    assert bench.path("other.bin").exists()


def test_a_lookup_that_fails_counts_and_the_mirror_is_asked_for_the_size(bench, server, slammed):
    mirror = server.add("/m.bin", Content(MIB))
    item = Download(url=slammed.url("/m"), mirrors=(mirror,), path="m.bin", limits=quick())

    found = patient(bench, 60.0).preflight(item)

    assert (found.bytes_to_fetch, found.failures) == (MIB, {})


def test_a_permanent_no_is_final_at_once_however_patient_the_run_is(bench, server):
    statuses = {401: "unauthorized", 403: "unauthorized", 404: "not_found"}
    items = [
        Download(url=server.add(f"/{status}", Content(9), Fault(status=status)), path=f"{status}.bin")
        for status in statuses
    ]
    results = patient(bench, 60.0).fetch(*items)

    assert {key: result.failure.class_ for key, result in results.items()} == {
        f"{status}.bin": class_ for status, class_ in statuses.items()
    }
    assert not bench.named("retried")


def test_a_redirect_to_a_server_that_cannot_be_reached_is_waited_for_there(bench, server):
    port, content, started = free_port(), Content.safetensors(MIB, seed=3), []
    there = f"http://127.0.0.1:{port}/m.safetensors"
    url = server.add("/m.safetensors", content, Fault(redirect=there))

    def heal(event: str, fields: dict) -> None:
        if event == "download_retried" and fields["attempt"] == 2:
            started.append(FileServer(port=port))
            started[0].add("/m.safetensors", content)

    bench.on_event = heal
    result = patient(bench, 20.0).fetch_one(Download(url=url, path="m.safetensors", limits=quick(attempts=1)))
    started[0].close()

    assert result.state == "ok"
