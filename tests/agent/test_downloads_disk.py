"""The engine on disks that are too small: real ones of a few megabytes, mounted where nobody else sees them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.file_server import Content, Fault
from provision_agent.contract.plan import Download

MIB = 1 << 20
DISK = 16 * MIB
MOUNTS = {
    "tmpfs": "mount -t tmpfs -o size=16m tmpfs {root}",
    "ext4": "truncate -s 16m {root}.img && mkfs.ext4 -q {root}.img && mount -o loop {root}.img {root}",
}
FETCH = """
import json, os, shutil, sys
from pathlib import Path
root, sys.path, items = json.loads(sys.argv[1])
from harness.downloads import Bench
from provision_agent.contract.plan import Download
from provision_agent.run.state import StateFile
bench = Bench(Path(root))
results = bench.fetch(*(Download(**item) for item in items))
print(json.dumps({
    "classes": {path: result.failure and result.failure.class_ for path, result in results.items()},
    "retried": len(bench.named("retried")),
    "files": bench.files(),
    "remembered": [path for path in results if StateFile(bench.root / "state.json").get("download", path)],
    "free_bytes": shutil.disk_usage(root).free,
}))
"""


PREFLIGHT = """
import json, sys
from pathlib import Path
root, sys.path, items = json.loads(sys.argv[1])
from harness.downloads import Bench
from provision_agent.contract.plan import Download
from provision_agent.downloads import preflight
preflight.MARGIN_BYTES = 1 << 20
found = Bench(Path(root)).preflight(*(Download(**item) for item in items))
big = found.too_big
print(json.dumps({
    "class": big and big.class_,
    "message": big and big.message,
    "hint": big and big.hint,
    "failures": {path: [each.class_, each.message] for path, each in found.failures.items()},
    "bytes_to_fetch": found.bytes_to_fetch,
}))
"""
RESERVE = """
import json, os, shutil, sys
root, sys.path, size = json.loads(sys.argv[1])
from provision_agent.downloads.engine.part_file import Identity, PartFile
from provision_agent.contract.failures import Failure
part = PartFile(root + "/m")
part.begin(Identity(1 << 20, None, None, ""))
part.write(memoryview(bytes(1 << 20)), 0)
free = shutil.disk_usage(root).free
try:
    part.begin(Identity(size, None, None, ""))
except Failure as failure:
    print(json.dumps({"class": failure.class_, "taken": free - shutil.disk_usage(root).free}))
"""


def on_small_disk(kind: str, root: Path, code: str, *job: Any, ballast: int = 0) -> dict[str, Any]:
    """What *code* prints when *root* is a fresh disk of 16 MiB; skipped where this user may not mount one."""
    where = shlex.quote(str(root))
    argv = [sys.executable, "-c", code, json.dumps([str(root), sys.path, *job])]
    script = f"({MOUNTS[kind].format(root=where)}) >&2 || exit 99; "
    script += f"head -c {ballast} /dev/zero >{where}/ballast; exec {shlex.join(argv)}"
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    done = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True, timeout=28)
    if done.returncode == 99 or "unshare:" in done.stderr:
        must = kind == "tmpfs" and os.environ.get("CI") == "true" and os.geteuid() == 0
        (pytest.fail if must else pytest.skip)(f"no {kind} can be mounted here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("kind", MOUNTS)
def test_a_disk_that_is_full_in_the_middle_is_final_for_that_file_only(kind, bench, server):
    """Nobody tells the length, so nothing could be reserved: the disk is full when it is full."""
    endless = server.add("/endless", Content(64 * MIB), Fault(hide_length=True, ignore_range=True))
    small = server.add("/small", Content.safetensors(MIB))

    items = [
        {"url": endless, "path": "endless.bin", "level": "critical"},
        {"url": small, "path": "small.safetensors", "level": "optional"},
    ]

    found = on_small_disk(kind, bench.root, FETCH, items, ballast=4 * MIB)

    assert found["classes"]["endless.bin"] == "disk_full"
    assert (found["retried"], "endless.bin" in found["files"]) == (0, False)
    assert found["free_bytes"] > 4 * MIB, "what cannot be continued does not stay in the others' way"
    assert server.bytes_sent("/endless") < 2 * DISK


@pytest.mark.parametrize("kind", MOUNTS)
def test_a_file_that_cannot_fit_is_refused_before_its_first_byte_and_takes_no_room(kind, bench, server):
    large = server.add("/large", Content(64 * MIB))
    small = server.add("/small", Content.safetensors(MIB))

    items = [
        {"url": large, "path": "large.bin", "level": "critical"},
        {"url": small, "path": "small.safetensors", "level": "optional"},
    ]

    found = on_small_disk(kind, bench.root, FETCH, items)

    assert found["classes"] == {"large.bin": "disk_full", "small.safetensors": None}
    assert (found["retried"], found["remembered"]) == (0, ["small.safetensors"])
    assert [name for name in found["files"] if "large" in name] == []
    assert server.bytes_sent("/large") < MIB


@pytest.mark.parametrize("kind", MOUNTS)
def test_a_reservation_that_fails_takes_nothing_of_the_disk(kind, bench):
    found = on_small_disk(kind, bench.root, RESERVE, 64 * MIB)

    assert found["class"] == "disk_full"
    assert found["taken"] <= 64 * 1024, "the logs still need some"


def test_the_preflight_says_in_readable_numbers_what_a_small_disk_lacks(bench, server):
    items = [{"url": server.add("/m", Content(64 * MIB)), "path": "m.bin", "level": "critical"}]

    found = on_small_disk("tmpfs", bench.root, PREFLIGHT, items)

    assert found["class"] == "disk_full"
    assert found["message"] == f"68.8 MB are needed on `{bench.root}`, 16.8 MB are free"
    assert found["hint"].startswith("rent an instance with at least 52.1 MB more")


def of_level(server, name, mebibytes, level):
    """An item of this size; the disk has 16 MiB, of which the preflight leaves 1 MiB and a hundredth free."""
    return {"url": server.add(f"/{name}", Content(mebibytes * MIB)), "path": name, "level": level}


def test_what_cannot_fit_at_all_fails_alone_and_nothing_else_with_it(bench, server):
    items = [
        of_level(server, "critical", 4, "critical"),
        of_level(server, "required", 2, "required"),
        of_level(server, "vast", 64, "required"),
        of_level(server, "huge", 32, "optional"),
    ]

    found = on_small_disk("tmpfs", bench.root, PREFLIGHT, items)

    assert found["class"] is None
    assert {path: class_ for path, (class_, _) in found["failures"].items()} == {
        "vast": "disk_full",
        "huge": "disk_full",
    }
    assert "`huge` (33.6 MB) has no room" in found["failures"]["huge"][1]
    assert found["bytes_to_fetch"] == 6 * MIB


def test_optional_files_that_do_not_fit_beside_the_others_fail_alone_the_largest_first(bench, server):
    items = [
        of_level(server, "nice", 6, "optional"),
        of_level(server, "small", 3, "optional"),
        of_level(server, "critical", 8, "critical"),
        of_level(server, "required", 2, "required"),
    ]

    found = on_small_disk("tmpfs", bench.root, PREFLIGHT, items)

    assert found["class"] is None
    assert list(found["failures"]) == ["nice"]
    assert "beside what is more important" in found["failures"]["nice"][1]
    assert found["bytes_to_fetch"] == 13 * MIB


def test_what_is_critical_and_required_and_does_not_fit_together_fails_the_run(bench, server):
    items = [
        of_level(server, "critical", 8, "critical"),
        of_level(server, "required", 9, "required"),
        of_level(server, "small", 1, "optional"),
    ]

    found = on_small_disk("tmpfs", bench.root, PREFLIGHT, items)

    assert found["class"] == "disk_full"
    assert found["hint"].endswith("making `required` (9.4 MB) optional would do")
    assert found["failures"] == {}


def test_a_file_that_was_refused_for_its_size_is_not_begun_and_the_rest_lands(bench, server):
    """The whole way, on a disk that is large enough for what is honest."""
    honest = server.add("/honest", Content.safetensors(MIB))
    huge = bench.root / "huge.bin"
    with open(huge, "wb") as file:
        file.truncate(15 << 40)
    huge_item = Download(url=huge.as_uri(), path="m/huge.bin", level="required")
    engine = bench.engine(huge_item, Download(url=honest, path="m/honest.safetensors", level="optional"))
    try:
        found = engine.preflight()
        engine.start()
        assert engine.wait()
    finally:
        engine.stop()

    results = engine.results()
    assert found.too_big is None
    assert results["m/huge.bin"].failure.class_ == "disk_full"
    assert results["m/honest.safetensors"].state == "ok"
    assert not bench.path("m/huge.bin.part").exists()


def test_a_limit_on_the_size_of_files_is_a_full_disk(bench, server):
    """Where no disk may be mounted, this limit stands for one: the kernel says the same to the same call."""
    job = json.dumps(
        [str(bench.root), sys.path, [{"url": server.add("/m", Content(8 * MIB)), "path": "m.bin"}]]
    )
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({4 * MIB}, {4 * MIB}))\n"
    argv = [sys.executable, "-c", limit + FETCH, job]

    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["classes"], found["retried"]) == ({"m.bin": "disk_full"}, 0)
