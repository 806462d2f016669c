"""The engine on lines that are not even: slow connections, resets, hosts that collapse, and lines that are small."""

from __future__ import annotations

import time

from harness.file_server import Content, Fault, FileServer
from provision_agent.contract.plan import Download
from provision_agent.contract.plan_parts import Limits

MIB = 1 << 20
BIG = MIB // 2
NOISE_S = 0.5
"""What a busy machine may add to either time."""


def took_s(bench, server, *faults: Fault, sizes_mib, limits=None, name: str) -> float:
    """Seconds to fetch files of these sizes into the bench's folder *name*."""
    items = []
    for number, mib in enumerate(sizes_mib):
        path = f"{name}/{number}.bin"
        content = Content(mib * MIB, number)
        url = server.add(f"/{path}", content, *(faults if number == 0 else ()))
        items.append(Download(url=url, path=path, sha256=content.sha256))
    began = time.monotonic()
    results = bench.fetch(*items, limits=limits)
    assert {result.state for result in results.values()} == {"ok"}
    return time.monotonic() - began


def test_one_connection_of_eight_at_a_twentieth_of_the_speed_costs_less_than_a_third(bench):
    slow = Fault(bytes_per_s=4 * MIB // 20, min_length=BIG, times=1)
    with FileServer(bytes_per_s=4 * MIB) as server:
        limits = Limits(connections=8)

        usual = took_s(bench, server, sizes_mib=[128], limits=limits, name="usual")
        hampered = took_s(bench, server, slow, sizes_mib=[128], limits=limits, name="slow")

    assert hampered < 1.3 * usual + NOISE_S


def test_forty_resets_cost_less_than_a_third(bench):
    reset = Fault(reset_after=MIB, min_length=2 * MIB, times=40)
    with FileServer(bytes_per_s=2 * MIB) as server:
        usual = took_s(bench, server, sizes_mib=[128, 32, 32], name="usual")
        hampered = took_s(bench, server, reset, sizes_mib=[128, 32, 32], name="reset")

    assert hampered < 1.3 * usual + NOISE_S


class Collapsing(FileServer):
    """Every connection has 2 MiB/s, but with more than eight at once they have next to nothing."""

    def __init__(self) -> None:
        super().__init__(bytes_per_s=1)

    @property
    def bytes_per_s(self) -> int:
        return 2 * MIB if self._active <= 8 else 64 * 1024

    @bytes_per_s.setter
    def bytes_per_s(self, value: int) -> None:
        pass


def test_a_host_that_collapses_above_eight_connections_is_held_at_what_it_stands(bench):
    with Collapsing() as server:
        began = time.monotonic()
        took_s(bench, server, sizes_mib=[48, 48], name="fragile")

    # eight connections all the time would take 6 s
    assert time.monotonic() - began < 15.0


def test_a_small_file_on_a_small_line_takes_few_requests_and_no_longer_than_one_connection(bench):
    size = 18_000_000
    with FileServer(line_bytes_per_s=size // 4) as server:
        began = time.monotonic()
        bench.fetch_one(Download(url=server.add("/m.bin", Content(size)), path="m.bin"))
        spent_s = time.monotonic() - began

        assert len(server.seen("/m.bin")) <= 8
        assert spent_s < 4.0 + NOISE_S
        assert server.bytes_sent("/m.bin") < 1.05 * size


def test_a_small_file_on_slow_connections_takes_few_requests_and_less_than_one_connection(bench):
    size = 18_000_000
    with FileServer(bytes_per_s=size // 8) as server:
        began = time.monotonic()
        bench.fetch_one(Download(url=server.add("/m.bin", Content(size)), path="m.bin"))

        assert time.monotonic() - began < 5.0
        assert len(server.seen("/m.bin")) <= 8


def test_a_files_tail_is_not_waited_for_while_connections_are_idle(bench):
    """The last range comes from a connection that turns slow when the others are done."""
    late = Fault(slow_after=4 * MIB, bytes_per_s=64 * 1024, min_length=6 * MIB, times=1)
    with FileServer(bytes_per_s=8 * MIB) as server:
        spent_s = took_s(bench, server, late, sizes_mib=[64], name="tail")

    assert spent_s < 6.0
