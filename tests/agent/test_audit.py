"""What is said of a workspace that stands: by `audit`, and by `lock`, which asks what is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.content import Content
from harness.downloads import Bench
from harness.file_server import Fault, FileServer
from harness.git_server import Origin
from provision_agent.commands.audit import Audit
from provision_agent.commands.probe_sources import Survey
from provision_agent.contract.findings import Present, SourcesRequest
from provision_agent.contract.plan import Download, File, Plan, Repo
from provision_agent.steps import files, repos

CONTENT = Content.safetensors(50_000)
ARCHIVE = Content.zip({"a.txt": 0o644, "bin/run": 0o755})


class Stand:
    """A workspace with one thing of each kind, as a run leaves it."""

    def __init__(self, bench: Bench, server: FileServer, folder: Path) -> None:
        self.bench = bench
        origin = Origin(str(folder / "origin"))
        commit = origin.commit({"main.py": "print(1)\n"})
        self.plan = Plan(
            name="x",
            workspace=str(bench.root),
            downloads=(
                Download(url=server.add("/m", CONTENT), path="m/model.safetensors", level="critical"),
                Download(url=server.add("/a.zip", ARCHIVE), path="tools/a.zip", unpack="zip"),
            ),
            repos=(Repo(url=origin.url, path="ui", ref=commit),),
            files=(File(path="conf/x.yaml", content="a: 1\n", mode="0640"),),
        )
        self.up()

    def up(self) -> None:
        """What a run does for these kinds of item."""
        self.bench.fetch(*self.plan.downloads)
        for repo in self.plan.repos:
            repos.checkout(repo, self.bench.context, sets_aside=self.plan.repair)
        for file in self.plan.files:
            files.do(file, self.bench.context, None)

    def audit(self, *, is_quick: bool = False) -> dict[str, str]:
        """State by item, of what is not as it should be."""
        audit = Audit(self.plan, self.bench.context, is_quick=is_quick)
        return {item.item: item.state for item in audit.items() if item.state != "ok"}


@pytest.fixture
def stand(bench: Bench, server: FileServer, tmp_path: Path) -> Stand:
    return Stand(bench, server, tmp_path)


def flip(path: Path) -> None:
    """Another last byte, of the same size and the same time."""
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def link(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("x")
    path.unlink()
    path.symlink_to(other)


PLACES = {
    "m/model.safetensors": "m/model.safetensors",
    "tools/a.txt": "tools/a.txt",
    "tools/bin/run": "tools/bin/run",
    "ui/main.py": "ui",
    "conf/x.yaml": "conf/x.yaml",
}
"""Files, and the items that answer for them."""

WAYS: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "delete": (Path.unlink, {**dict.fromkeys(PLACES, "missing"), "ui/main.py": "changed"}),
    "truncate": (
        lambda path: os.truncate(path, 3),
        {**dict.fromkeys(PLACES, "wrong_size"), "ui/main.py": "changed", "conf/x.yaml": "wrong_content"},
    ),
    "flip": (
        flip,
        {**dict.fromkeys(PLACES, "wrong_hash"), "ui/main.py": "changed", "conf/x.yaml": "wrong_content"},
    ),
    "link": (
        link,
        {**dict.fromkeys(PLACES, "wrong_kind"), "ui/main.py": "changed", "m/model.safetensors": "wrong_size"},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_kind_of_thing_that_is_broken_is_told_and_mended(way: str, stand: Stand) -> None:
    break_it, states = WAYS[way]
    assert stand.audit() == {}
    for place in PLACES:
        break_it(stand.bench.path(place))

    found = stand.audit()

    assert found == {item: states[place] for place, item in PLACES.items()}
    distrust(stand)
    object.__setattr__(stand.plan, "repair", True)
    stand.up()
    assert stand.audit() == {}


def distrust(stand: Stand) -> None:
    """As `audit --repair` does it: no record vouches for a wrong file any more."""
    for item in Audit(stand.plan, stand.bench.context, is_quick=False).items():
        if item.state == "wrong_hash" and item.path is not None:
            os.utime(item.path)


def test_modes_count_where_they_matter(stand: Stand) -> None:
    stand.bench.path("tools/bin/run").chmod(0o644)
    stand.bench.path("tools/a.txt").chmod(0o755)
    stand.bench.path("conf/x.yaml").chmod(0o600)
    stand.bench.path("m/model.safetensors").chmod(0o040)
    stand.bench.path("ui/main.py").chmod(0o755)

    found = stand.audit()

    wrong = ("tools/bin/run", "conf/x.yaml", "m/model.safetensors")
    assert found == dict.fromkeys(wrong, "wrong_mode")
    stand.up()
    assert stand.audit() == {}


def test_a_quick_audit_sees_what_a_run_sees_and_no_more(stand: Stand) -> None:
    flip(stand.bench.path("m/model.safetensors"))
    flip(stand.bench.path("tools/a.txt"))
    stand.bench.path("tools/bin/run").unlink()

    assert stand.audit(is_quick=True) == {"tools/bin/run": "missing"}


def test_a_file_that_was_cut_short_is_told_though_no_hash_of_it_is_known(
    bench: Bench, server: FileServer
) -> None:
    bench.path("m.safetensors").write_bytes(CONTENT.bytes())
    item = Download(url=server.add("/m", CONTENT), path="m.safetensors")
    bench.fetch_one(item)
    plan = Plan(name="x", workspace=str(bench.root), downloads=(item,))

    (fine,) = Audit(plan, bench.context, is_quick=False).items()
    os.truncate(bench.path("m.safetensors"), 40_000)
    (short,) = Audit(plan, bench.context, is_quick=False).items()

    assert (fine.state, fine.message.partition(":")[0]) == ("ok", "present, size only")
    assert (short.state, short.message) == ("wrong_size", "it has 40000 bytes, not 50000")


def test_an_archive_whose_members_nobody_remembers_is_told_and_unpacked_again(stand: Stand) -> None:
    for listed in stand.bench.root.glob("members/*"):
        listed.unlink()

    assert stand.audit() == {"tools/a.zip": "missing"}
    stand.up()
    assert stand.audit() == {}


# -- what a lock learns from an instance


def present(bench: Bench, item: Download) -> Present:
    plan = Plan(name="x", workspace=str(bench.root), downloads=(item,))
    request = SourcesRequest(plan.to_json(), is_instance=True, pin=True)
    survey = Survey(plan, bench.context, request)
    survey.ask()
    return survey.look().present[0]


def test_a_lock_reads_the_file_whose_hash_nobody_tells(bench: Bench, server: FileServer) -> None:
    bench.path("m.safetensors").write_bytes(CONTENT.bytes())
    item = Download(url=server.add("/m", CONTENT), path="m.safetensors")

    assert present(bench, item) == Present("there", 0, CONTENT.size, CONTENT.sha256)
    server.set_faults("/m", Fault(status=404))
    assert present(bench, item) == Present("there", 0, CONTENT.size, CONTENT.sha256), "whoever told its size"


def test_a_lock_reads_no_hash_off_a_file_that_is_not_what_was_brought(
    bench: Bench, server: FileServer
) -> None:
    item = Download(url=server.add("/m", CONTENT), path="m.safetensors")
    bench.fetch_one(item)
    flip(bench.path("m.safetensors"))
    assert present(bench, item).sha256 == CONTENT.sha256, "what was learnt is what the file must be"

    os.utime(bench.path("m.safetensors"))

    assert present(bench, item) == Present("other", CONTENT.size, CONTENT.size, CONTENT.sha256)
    bench.path("m.safetensors").unlink()
    assert present(bench, item) == Present("absent", CONTENT.size, CONTENT.size, CONTENT.sha256)


def test_the_errands_write_nothing_of_the_state(stand: Stand) -> None:
    before = stand.bench.path("state.json").read_bytes()

    stand.audit()
    present(stand.bench, stand.plan.downloads[0])

    assert stand.bench.path("state.json").read_bytes() == before
