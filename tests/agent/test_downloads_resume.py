"""What is left behind by a fetch that was cut off, and how little the next one has to repeat."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys

import pytest
from harness.downloads import eventually
from harness.file_server import Content, Fault
from provision_agent.contract.plan import Download
from provision_agent.downloads.engine import part_file as partfile
from provision_agent.downloads.engine.part_file import Busy, Identity, PartFile
from provision_agent.downloads.engine.ranges import merged

MIB = 1 << 20
BUFFER = MIB
CONNECTIONS = 8

DRIVER = """
import sys, json
root, sys.path, files = json.loads(sys.argv[1])
from pathlib import Path
from harness.downloads import Bench
from provision_agent.contract.plan import Download
from provision_agent.contract.plan_parts import Limits
items = [Download(url=url, path=url.rpartition("/")[2], sha256=sha256) for url, sha256 in files.items()]
results = Bench(Path(root)).fetch(*items, limits=Limits(connections=8)).values()
print(*{result.state for result in results} - {"skipped"}, sum(result.bytes_downloaded for result in results))
"""


def driver(bench, files: dict[str, str | None]) -> subprocess.Popen:
    """A process that fetches *files*, URLs with their hashes."""
    argv = [sys.executable, "-c", DRIVER, json.dumps([str(bench.root), sys.path, files])]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digest(path: os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def journaled(path: str) -> int:
    """How many bytes a journal says are there."""
    try:
        with open(path, encoding="ascii") as file:
            _, *lines, _torn = file.read().split("\n")
    except FileNotFoundError:
        return 0
    spans = [[int(number) for number in line.split()] for line in lines]
    return sum(b - a for a, b in merged((start, start + length) for start, length in spans))


def kept(path) -> int:
    """How many bytes of the file at *path* need not be fetched again."""
    return path.stat().st_size if path.exists() else journaled(f"{path}.part.journal")


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.soak) for n in range(2, 22))])
def test_sigkill_costs_at_most_one_buffer_per_connection(seed, bench, server):
    rand = random.Random(seed)
    content = Content.safetensors(48 * MIB + rand.randrange(MIB), seed=seed)
    url = server.add("/m.safetensors", content, Fault(bytes_per_s=4 * MIB, min_length=MIB))
    files = {url: content.sha256 if seed % 2 else None}
    kills = 0
    for _ in range(3):
        goal = server.bytes_sent() + rand.randrange(1, 14 * MIB)
        with driver(bench, files) as running:
            eventually(
                lambda goal=goal, running=running: server.bytes_sent() >= goal or running.poll() is not None
            )
            kills += running.poll() is None
            os.kill(running.pid, signal.SIGKILL)
    assert not bench.path("m.safetensors").exists()
    there = journaled(str(bench.path("m.safetensors.part.journal")))

    with driver(bench, files) as running:
        out, error = running.communicate(timeout=25)

    assert (out.split()[:1], error) == (["ok"], "")
    assert digest(bench.path("m.safetensors")) == content.sha256
    # a buffer that is not yet written, and what the kernels had under way to it
    lost = kills * CONNECTIONS * (BUFFER + 2 * MIB)
    assert server.bytes_sent() <= content.size + lost + 10_000
    assert int(out.split()[1]) == content.size - there
    assert bench.files() == ["m.safetensors"]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_a_run_of_many_files_that_is_killed_again_and_again_ends_complete(kills, bench, server):
    rand = random.Random(kills)
    contents = {
        f"{n}.safetensors": Content.safetensors(rand.randrange(4, 12) * MIB, seed=n) for n in range(8)
    }
    slow = Fault(bytes_per_s=2 * MIB, min_length=BUFFER // 2)
    files = {server.add(f"/{name}", content, slow): content.sha256 for name, content in contents.items()}
    total = sum(content.size for content in contents.values())
    repeated = 0
    for _ in range(kills):
        goal = server.bytes_sent() + rand.randrange(1, total // kills)
        with driver(bench, files) as running:
            eventually(
                lambda goal=goal, running=running: server.bytes_sent() >= goal or running.poll() is not None
            )
            os.kill(running.pid, signal.SIGKILL)
        there = sum(kept(bench.path(name)) for name in contents)
        assert server.bytes_sent() - repeated - there <= CONNECTIONS * 4 * (BUFFER + MIB // 2), "of this kill"
        repeated = server.bytes_sent() - there

    with driver(bench, files) as running:
        out, error = running.communicate(timeout=25)

    assert error == ""
    assert out.split()[0] == "ok"
    assert {name: digest(bench.path(name)) for name in contents} == {
        name: content.sha256 for name, content in contents.items()
    }
    assert bench.files() == sorted(contents)
    print(f"{repeated / kills / MIB:.1f} MiB were fetched again for each kill")


def test_a_run_goes_on_where_the_last_one_stopped(bench, server):
    content = Content.safetensors(32 * MIB, seed=30)
    url = server.add("/m.safetensors", content, Fault(bytes_per_s=2 * MIB, min_length=MIB))
    item = Download(url=url, path="m.safetensors")
    engine = bench.engine(item)
    engine.start()
    eventually(lambda: server.bytes_sent() > 12 * MIB)
    bench.cancelled.set()
    engine.stop()
    bench.cancelled.clear()
    before = engine.results()["m.safetensors"].bytes_downloaded
    server.set_faults("/m.safetensors")

    result = bench.fetch_one(item)

    assert result.state == "ok"
    assert result.bytes_downloaded == content.size - before
    assert bench.named("sized")[-1]["resumed_bytes"] == before
    assert digest(bench.path("m.safetensors")) == content.sha256


def interrupted(bench, server, content: Content, **answer: object) -> Download:
    """Leave a part of *content* behind."""
    url = server.add("/m.bin", content, Fault(bytes_per_s=2 * MIB, min_length=MIB), **answer)
    item = Download(url=url, path="m.bin")
    engine = bench.engine(item)
    engine.start()
    eventually(lambda: server.bytes_sent() > 8 * MIB)
    bench.cancelled.set()
    engine.stop()
    bench.cancelled.clear()
    assert bench.path("m.bin.part").stat().st_size > 0
    return item


def test_other_content_never_joins_what_has_landed(bench, server):
    item = interrupted(bench, server, Content(24 * MIB, seed=31))
    new = Content(24 * MIB, seed=32)
    server.add("/m.bin", new)

    bench.fetch_one(item)

    assert digest(bench.path("m.bin")) == new.sha256


def test_without_anything_to_tell_content_apart_nothing_is_continued(bench, server):
    item = interrupted(bench, server, Content(24 * MIB, seed=33), etag=None)
    new = Content(24 * MIB, seed=34)
    server.add("/m.bin", new, etag=None)

    bench.fetch_one(item)

    assert digest(bench.path("m.bin")) == new.sha256


def test_a_server_that_lost_its_ranges_is_read_from_the_start(bench, server):
    content = Content(24 * MIB, seed=35)
    item = interrupted(bench, server, content, etag='"same"')
    server.add("/m.bin", content, Fault(ignore_range=True), etag='"same"')

    bench.fetch_one(item)

    assert digest(bench.path("m.bin")) == content.sha256


def test_a_damaged_part_is_found_by_its_hash_and_fetched_once_more(bench, server):
    content = Content(24 * MIB, seed=36)
    item = interrupted(bench, server, content)
    with open(bench.path("m.bin.part"), "r+b") as file:
        file.write(b"damage")
    server.set_faults("/m.bin")

    result = bench.fetch_one(Download(**dict(vars(item), sha256=content.sha256)))

    assert result.state == "ok"
    assert digest(bench.path("m.bin")) == content.sha256


IDENTITY = Identity.of("https://x.test/m", 4 * MIB, None, '"etag"')


@pytest.fixture
def part(tmp_path):
    """Half a part: its first and third MiB."""
    final = str(tmp_path / "m.bin")
    made = PartFile(final)
    made.begin(IDENTITY)
    made.write(memoryview(b"a" * MIB), 0)
    made.write(memoryview(b"c" * MIB), 2 * MIB)
    os.close(made._journal)
    made._journal = None
    os.close(made.descriptor)
    return final


def landed(final: str, identity: Identity = IDENTITY):
    made = PartFile(final)
    try:
        return made.begin(identity)
    finally:
        made.close(sync=False)


def test_a_part_says_what_has_landed_in_it(part):
    assert landed(part) == [(0, MIB), (2 * MIB, 3 * MIB)]
    assert landed(part) == [(0, MIB), (2 * MIB, 3 * MIB)]


def test_a_torn_last_line_of_the_journal_does_not_count(part):
    with open(part + ".part.journal", "ab") as file:
        file.write(b"1048576 1048")

    assert landed(part) == [(0, MIB), (2 * MIB, 3 * MIB)]


def test_what_the_file_is_too_short_for_does_not_count(part):
    os.truncate(part + ".part", 2 * MIB)

    assert landed(part) == [(0, MIB)]


SAME = {
    "another size": (IDENTITY._replace(size_bytes=5 * MIB), False),
    "another ETag": (IDENTITY._replace(validator='"new"'), False),
    "no ETag any more": (IDENTITY._replace(validator=None), False),
    "the same ETag elsewhere": (IDENTITY._replace(source="other"), True),
    "the same date elsewhere": (
        IDENTITY._replace(source="other", validator="Thu, 01 Jan 1970 00:00:30 GMT"),
        False,
    ),
    "a hash that was not known before": (IDENTITY._replace(sha256="0" * 64), True),
}


@pytest.mark.parametrize("name", SAME)
def test_a_part_is_continued_only_with_what_is_surely_its_own(name, part):
    identity, is_same = SAME[name]

    assert bool(landed(part, identity)) is is_same


def test_after_a_crash_of_the_machine_only_what_was_synced_counts(part, monkeypatch):
    monkeypatch.setattr(partfile, "boot_id", lambda: "another boot")

    assert landed(part) == []


def test_what_was_synced_outlives_a_crash_of_the_machine(tmp_path, monkeypatch):
    made = PartFile(str(tmp_path / "m.bin"))
    made.begin(IDENTITY)
    made.write(memoryview(b"a" * MIB), 0)
    made.close(sync=True)
    with open(tmp_path / "m.bin.part.journal", "ab") as file:
        file.write(b"1048576 1048576\n")
    os.truncate(tmp_path / "m.bin.part", 4 * MIB)
    monkeypatch.setattr(partfile, "boot_id", lambda: "another boot")

    assert landed(str(tmp_path / "m.bin")) == [(0, MIB)]


def test_a_part_belongs_to_one_process(tmp_path):
    first = PartFile(str(tmp_path / "m.bin"))

    with pytest.raises(Busy):
        PartFile(str(tmp_path / "m.bin"))

    first.begin(IDENTITY)
    first.finish(str(tmp_path / "m.bin"), 0)
    first.close(sync=False)
    PartFile(str(tmp_path / "m.bin")).close(sync=False)


def test_room_is_reserved_without_making_the_file_longer(tmp_path):
    made = PartFile(str(tmp_path / "m.bin"))
    made.begin(IDENTITY._replace(size_bytes=8 * MIB))

    found = os.stat(made.path)

    assert found.st_size == 0
    assert found.st_blocks * 512 >= 8 * MIB
    made.close(sync=False)


def test_room_that_is_reserved_is_still_to_be_fetched(tmp_path):
    final = str(tmp_path / "m.bin")
    made = PartFile(final)
    made.begin(IDENTITY._replace(size_bytes=8 * MIB))
    made.write(memoryview(b"a" * MIB), 2 * MIB)
    made.close(sync=False)

    assert partfile.landed_bytes(final) == MIB
    assert partfile.reserved_bytes(final) >= 8 * MIB


def test_a_part_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "m.bin.part").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Exception, match="cannot be written"):
        PartFile(str(tmp_path / "m.bin"))

    assert not (tmp_path / "elsewhere").exists()


def test_memory_stays_flat_however_large_the_files(bench, server):
    """In a process of its own, so that nothing else is measured; twelve files of 64 MiB."""
    items = [server.add(f"/{n}.bin", Content(64 * MIB, n)) for n in range(12)]
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from harness.downloads import Bench
from provision_agent.contract.plan import Download
bench = Bench(Path({str(bench.root)!r}))
results = bench.fetch(*(Download(url=url, path=str(n)) for n, url in enumerate({items!r})))
assert all(result.state == "ok" for result in results.values())
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=28)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100_000
