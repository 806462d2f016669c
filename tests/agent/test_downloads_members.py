"""What an archive brought is part of its item: each later run holds it against the disk and makes it again."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from harness.content import Content
from harness.downloads import Bench
from harness.file_server import Fault, FileServer
from provision_agent.contract.plan import Download, File
from provision_agent.downloads import unpack
from provision_agent.downloads.members import Members
from provision_agent.steps import files

CONTENTS = {"one.txt": b"one", "deep/two.txt": b"two two", "bin/tool": b"#!/bin/sh\n"}


def zipped(contents: dict[str, bytes]) -> Content:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | (0o755 if name.startswith("bin/") else 0o644)) << 16
            archive.writestr(entry, data)
    return Content.of(out.getvalue())


def never() -> bool:
    return False


def tools(server: FileServer, *, name: str = "a", contents: dict[str, bytes] = CONTENTS) -> Download:
    return Download(url=server.add(f"/{name}.zip", zipped(contents)), path=f"tools/{name}.zip", unpack="zip")


def as_brought(bench: Bench) -> bool:
    """Every member is there, a plain file with its bytes; the program can be run."""
    paths = {bench.path(f"tools/{name}"): data for name, data in CONTENTS.items()}
    is_right = all(not path.is_symlink() and path.read_bytes() == data for path, data in paths.items())
    return is_right and os.access(bench.path("tools/bin/tool"), os.X_OK)


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 1)


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def replace_by_a_link(path: Path) -> None:
    other = path.with_name("elsewhere")
    other.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(other)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_unrunnable(path: Path) -> None:
    path.chmod(0o644)


DAMAGES = {
    "deleted": (delete, "deep/two.txt"),
    "cut short": (truncate, "one.txt"),
    "edited": (edit, "one.txt"),
    "a link instead": (replace_by_a_link, "one.txt"),
    "a folder instead": (replace_by_a_folder, "one.txt"),
    "not executable any more": (make_unrunnable, "bin/tool"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_member_that_is_damaged_is_unpacked_again_and_named(
    how: str, bench: Bench, server: FileServer
) -> None:
    item = tools(server)
    bench.fetch_one(item)
    damage, name = DAMAGES[how]
    damage(bench.path(f"tools/{name}"))
    asked = len(server.requests)

    again = bench.fetch_one(item)

    assert (again.state, as_brought(bench)) == ("skipped", True)
    assert len(server.requests) == asked, "the archive is there"
    warnings = [str(event["message"]) for event in bench.events if event["event"] == "warning"]
    assert any(f"tools/{name}" in message and "unpacked again" in message for message in warnings)
    before = len(bench.events)
    bench.fetch_one(item)
    assert not [event for event in bench.events[before:] if event["event"] == "warning"], "all is well now"


def test_only_what_is_damaged_is_written_again(bench: Bench, server: FileServer) -> None:
    item = tools(server)
    bench.fetch_one(item)
    kept = bench.path("tools/deep/two.txt").stat()
    bench.path("tools/one.txt").unlink()

    bench.fetch_one(item)

    now = bench.path("tools/deep/two.txt").stat()
    assert as_brought(bench) and (now.st_ino, now.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)


def test_what_people_changed_in_a_small_file_is_kept_and_said_where(bench: Bench, server: FileServer) -> None:
    item = tools(server)
    bench.fetch_one(item)
    bench.path("tools/one.txt").write_text("mine")

    bench.fetch_one(item)

    warnings = [str(event["message"]) for event in bench.events if event["event"] == "warning"]
    said = next(message for message in warnings if "is kept as " in message)
    assert Path(said.partition("is kept as ")[2]).read_text() == "mine"
    assert as_brought(bench)


def test_a_file_that_was_only_touched_is_nobodys_change(bench: Bench, server: FileServer) -> None:
    item = tools(server)
    bench.fetch_one(item)
    os.utime(bench.path("tools/one.txt"), (1, 1))

    bench.fetch_one(item)

    assert [event for event in bench.events if event["event"] == "warning"] == []
    assert bench.path("tools/one.txt").stat().st_mtime == 1


def test_a_missing_archive_is_fetched_and_its_members_are_made_again(
    bench: Bench, server: FileServer
) -> None:
    item = tools(server)
    bench.fetch_one(item)
    bench.path("tools/a.zip").unlink()
    bench.path("tools/one.txt").unlink()

    assert bench.fetch_one(item).state == "ok"
    assert as_brought(bench)


def test_archives_with_a_file_of_one_name_come_to_rest(bench: Bench, server: FileServer) -> None:
    """Whoever unpacked last has the file; none of the two takes it for damage of its own."""
    items = [
        tools(server, name=name, contents={"LICENSE": name.encode() * 9, f"{name}.txt": b"x"})
        for name in "ab"
    ]
    bench.fetch(*items)
    before = bench.path("tools/LICENSE").read_bytes()

    bench.fetch(*items)

    assert bench.path("tools/LICENSE").read_bytes() == before
    assert [event for event in bench.events if event["event"] == "warning"] == []


def test_a_small_file_of_the_plan_over_a_member_is_no_damage(bench: Bench, server: FileServer) -> None:
    item, own = tools(server), File(path="tools/one.txt", content="ours")
    bench.fetch_one(item)
    files.do(own, bench.context, None)

    bench.fetch_one(item)

    assert bench.path("tools/one.txt").read_text() == "ours"
    assert [event for event in bench.events if event["event"] == "warning"] == []


def test_links_of_an_archive_are_held_against_the_disk(bench: Bench, server: FileServer) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, target in (("real", tarfile.REGTYPE, ""), ("link", tarfile.SYMTYPE, "real")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 4 if not target else 0
            archive.addfile(info, io.BytesIO(b"data"))
    url = server.add("/a.tar", Content.of(out.getvalue()))
    item = Download(url=url, path="tools/a.tar", unpack="tar")
    bench.fetch_one(item)
    bench.path("tools/link").unlink()
    bench.path("tools/link").symlink_to("a.tar")

    bench.fetch_one(item)

    assert os.readlink(bench.path("tools/link")) == "real"


def test_a_list_that_cannot_be_read_and_one_of_another_archive_are_made_anew(
    bench: Bench, server: FileServer
) -> None:
    item = tools(server)
    bench.fetch_one(item)
    (listed,) = bench.root.glob("members/*.jsonl")
    for text in ("no list", listed.read_text().replace('"sha256"', '"sha255"', 1)):
        listed.write_text(text)
        bench.path("tools/one.txt").unlink()
        bench.fetch_one(item)
        assert as_brought(bench)

    server.add("/a.zip", zipped({"other.txt": b"other"}))
    bench.path("tools/a.zip").unlink()
    bench.fetch_one(item)

    assert bench.path("tools/other.txt").exists()
    assert [
        path.name
        for path in map(
            Path, Members(bench.context, item, str(bench.path("tools/a.zip")), sha_of(bench)).paths()
        )
    ] == ["other.txt"]


def sha_of(bench: Bench) -> str:
    return str(bench.named("finished")[-1]["sha256"])


def test_members_whose_names_are_no_text_are_remembered(tmp_path: Path, bench: Bench) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", errors="surrogateescape") as archive:
        info = tarfile.TarInfo("caf\udce9 100%.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"data"))
    bench.path("a.tar").write_bytes(out.getvalue())
    members = Members(
        bench.context, Download(url="x", path="a.tar", unpack="tar"), str(bench.path("a.tar")), None
    )

    members.unpack(stop=never)

    assert members.damaged(reads_bytes=True, stop=never) == []
    (path,) = members.paths()
    os.unlink(path)
    assert [damage.state for damage in members.damaged(reads_bytes=False, stop=never) or ()] == ["missing"]


def test_an_archive_that_cannot_be_had_again_fails_its_item_when_members_are_gone(
    bench: Bench, server: FileServer
) -> None:
    item = tools(server)
    bench.fetch_one(item)
    bench.path("tools/a.zip").unlink()
    bench.path("tools/one.txt").unlink()
    server.set_faults("/a.zip", Fault(status=404))

    assert bench.fetch_one(item).state == "failed"


def test_unpack_tells_what_it_wrote(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(CONTENTS).bytes())

    written = unpack.unpack(str(tmp_path / "a.zip"), str(tmp_path), "zip", stop=never, wanted={"one.txt"})

    assert [(each.path, each.kind, each.size_bytes) for each in written] == [("one.txt", "file", 3)]
    assert not (tmp_path / "deep").exists()
