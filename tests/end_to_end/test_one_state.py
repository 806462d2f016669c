"""One thing of each kind is broken in each way: `up`, `audit`, `verify` and `lock` say the same of it, and it is mended."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.content import Content
from harness.file_server import FileServer
from harness.git_server import Origin
from harness.package_index import PackageIndex

from .conftest import Here
from .test_planning import at

CONTENT = Content.safetensors(1 << 20)
ARCHIVE = Content.zip({"a.txt": 0o644, "bin/run": 0o755})


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        index.add("names", "3.4", files={"names/__init__.py": "A = 1\n", "names/core.py": "B = 2\n"})
        yield index


@pytest.fixture
def instance_environment(index: PackageIndex) -> dict[str, str]:
    return index.environment


def profile_of(files: FileServer, origin: Origin, commit: str) -> str:
    model, pack = files.add("/m.safetensors", CONTENT), files.add("/a.zip", ARCHIVE)
    return f"""
version: 1
name: state
limits: {{run: 2m}}
python: {{installer: pip, layers: [[names]]}}
repos: [{{url: "{origin.url}", path: ui, ref: {commit}}}]
downloads:
  - {{url: "{model}", path: m/model.safetensors, level: critical}}
  - {{url: "{pack}", path: tools/a.zip, unpack: zip}}
files: [{{path: conf/x.yaml, content: "a: 1\\n", mode: "0640"}}]
checks: [{{name: Names, imports: [names.core], level: critical}}]
"""


def flip(path: Path) -> None:
    """Another byte, of the same size and the same time: nothing but reading shows it."""
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


WAYS: dict[str, Callable[[Path], Any]] = {
    "delete": Path.unlink,
    "flip": flip,
    "truncate": lambda path: os.truncate(path, 2),
    "link": link,
    "chmod": lambda path: path.chmod(0o040),
}
SHORT = ("flip",)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way in SHORT else pytest.mark.soak) for way in WAYS]
)
def test_what_is_broken_is_said_by_all_four_alike_and_mended(
    way: str, here: Here, files: FileServer, tmp_path: Path
) -> None:
    origin = Origin(str(tmp_path / "origin"))
    commit = origin.commit({"main.py": "print(1)\n"})
    profile = here.profile(profile_of(files, origin, commit))
    assert here.up(profile, within_s=100).code == 0
    root = here.instance.workspace
    (core,) = root.glob("venv/lib/python3*/site-packages/names/core.py")
    places = {
        "m/model.safetensors": root / "m/model.safetensors",
        "tools/a.txt": root / "tools/a.txt",
        "tools/bin/run": root / "tools/bin/run",
        "ui": root / "ui/main.py",
        "conf/x.yaml": root / "conf/x.yaml",
        "names": core,
    }
    before = {item: (path.read_bytes(), path.stat().st_mode) for item, path in places.items()}
    for path in places.values():
        WAYS[way](path)
    if way == "flip":
        shutil.rmtree(core.parent / "__pycache__", ignore_errors=True)
    expected = set(places) - (
        {"ui"} if way == "chmod" else set()
    )  # the mode of a tracked file is no difference

    audit = here.run("audit", *at(here), "--json", within_s=60)
    verify = here.run("verify", *at(here), "--json", within_s=60)
    lock = here.run("lock", *at(here, profile=profile), "--json", within_s=60)

    told = {item["item"] for item in audit.lines[-1]["items"] if item["state"] not in ("ok", "skipped")}
    assert told == expected
    failed = {line["item"] for line in verify.lines if str(line["event"]).endswith("_failed")}
    assert failed - {"Names"} == expected
    assert (audit.code, verify.code) == (1, 1), "the model and the layer are critical"
    assert lock.code == 0, lock.stderr
    assert_what_was_brought_is_locked(here, commit)

    if way == "flip":
        mended = here.run("audit", *at(here), "--repair", "--json", within_s=100)
    else:
        mended = here.up(profile, within_s=100)

    assert mended.code == 0, mended.stdout[-3000:]
    after = {
        item: (path.read_bytes(), path.stat().st_mode) for item, path in places.items() if item in expected
    }
    assert {item: found[0] for item, found in after.items()} == {item: before[item][0] for item in after}
    assert not any(path.is_symlink() for path in places.values())
    again = here.run("audit", *at(here), "--json", within_s=60)
    assert (again.code, [item["message"] for item in again.lines[-1]["items"] if item["state"] != "ok"]) == (
        0,
        [],
    )


def assert_what_was_brought_is_locked(here: Here, commit: str) -> None:
    """A lock has the bytes that were brought, not those that are there now."""
    locked = json.loads((here.folder / "profile.lock.json").read_text())
    hashes = {file["path"]: file["sha256"] for file in locked["downloads"]}
    assert hashes["m/model.safetensors"] == CONTENT.sha256
    assert (locked["repos"][0]["commit"], locked["packages"]) == (commit, ["names==3.4"])
