"""Archives that are made to harm: nothing leaves the folder, nothing grows without bound, and the words say why."""

from __future__ import annotations

import io
import os
import resource
import stat
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from provision_agent.contract.failures import Failure
from provision_agent.downloads import unpack
from provision_agent.host.folders import ignores_case

MIB = 1 << 20


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as made:
        for info, data in members:
            info.size = len(data) or info.size
            made.addfile(info, io.BytesIO(data) if data else None)
    return str(path)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def unpacked(archive: str, tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    unpack.unpack(archive, str(folder), "auto", stop=lambda: False)
    return folder


def refused(archive: str, tmp_path: Path) -> Failure:
    (tmp_path / "outside").mkdir(exist_ok=True)
    with pytest.raises(Failure) as caught:
        unpacked(archive, tmp_path)
    assert list((tmp_path / "outside").iterdir()) == []
    return caught.value


LINK, COPY = tarfile.SYMTYPE, tarfile.LNKTYPE
BAD = {
    "an absolute name": ([(member("/etc/x"), b"x")], "leads out of the folder"),
    "a name with dots": ([(member("a/../../outside/x"), b"x")], "leads out of the folder"),
    "a link out": ([(member("a", LINK, "../outside"), b"")], "is a link to `../outside`, out of the folder"),
    "an absolute link": ([(member("a", LINK, "/etc"), b"")], "is a link to `/etc`, out of the folder"),
    "a chain of links that each stay inside as they are written": (
        [
            (member("deep/er", tarfile.DIRTYPE), b""),
            (member("b", LINK, "."), b""),
            (member("a", LINK, "b/.."), b""),
            (member("a/outside/x"), b"x"),
        ],
        "is a link to `b/..`, out of the folder",
    ),
    "a hard link to itself": (
        [(member("a", COPY, "a"), b"")],
        "is a hard link to `a`, which is no file of the archive",
    ),
    "hard links in a circle": (
        [(member("a", COPY, "b"), b""), (member("b", COPY, "a"), b"")],
        "is a hard link to `b`, which is no file of the archive",
    ),
    "a hard link to nothing": ([(member("a", COPY, "no"), b"")], "which is no file of the archive"),
    "a hard link out": ([(member("a", COPY, "../outside/x"), b"")], "which is no file of the archive"),
    "a device": ([(member("a", tarfile.CHRTYPE), b"")], "is a device or another special file"),
    "a pipe": ([(member("a", tarfile.FIFOTYPE), b"")], "is a device or another special file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_leads_out_or_is_no_file_is_refused_as_a_whole_and_named(name, tmp_path: Path) -> None:
    members, words = BAD[name]

    failure = refused(tar(tmp_path / "a.tar", (member("good"), b"good"), *members), tmp_path)

    assert (failure.class_, failure.case) == ("unsafe_path", "unsafe_archive")
    assert words in failure.message
    assert failure.hint == "do not unpack it: look at it first"
    assert list((tmp_path / "folder").iterdir()) == []


def test_hard_links_count_as_what_they_bring(tmp_path: Path) -> None:
    links = [(member(f"l{number}", COPY, "big"), b"") for number in range(800)]

    failure = refused(tar(tmp_path / "a.tgz", (member("big"), bytes(MIB)), *links, mode="w:gz"), tmp_path)

    assert (failure.class_, failure.case) == ("unsafe_path", "unsafe_archive")
    assert "the archive is not what it seems: its " in failure.message
    assert "would become 839.9 MB" in failure.message
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_hard_link_to_a_file_is_that_file_and_one_to_a_link_of_it_too(tmp_path: Path) -> None:
    made = tar(
        tmp_path / "a.tar",
        (member("d/x", mode=0o755), b"bytes"),
        (member("y", COPY, "d/x"), b""),
        (member("z", COPY, "y"), b""),
    )

    folder = unpacked(made, tmp_path)

    assert [(folder / name).read_bytes() for name in ("y", "z")] == [b"bytes", b"bytes"]
    assert os.access(folder / "z", os.X_OK)


def test_a_zip_that_would_become_very_large_is_refused_before_it_does(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for number in range(6):
            made.writestr(f"{number}", bytes(64 * MIB))

    failure = refused(str(path), tmp_path)

    assert "would become 402.7 MB" in failure.message
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE], ids=repr)
def test_a_header_of_600_mb_is_not_read_into_memory(kind, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = member("x", kind)
    info.size = 600 * 1000 * 1000
    with open(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(info.size + 4096)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    failure = refused(str(path), tmp_path)

    assert failure.class_ == "not_a_model"
    assert "a header of 600000000 bytes, more than 1048576" in failure.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "in KiB"


def test_a_size_below_nothing_does_not_read_the_same_header_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = member("x")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 4 + struct.pack(">q", -1024)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(4096))
    began = time.monotonic()

    failure = refused(str(path), tmp_path)

    assert failure.class_ == "not_a_model"
    assert time.monotonic() - began < 10


def test_headers_within_headers_without_end_are_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = member("x", tarfile.XHDTYPE)
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) * 5000 + bytes(1024))

    assert refused(str(path), tmp_path).class_ == "not_a_model"


def test_members_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MOST_MEMBERS", 50)
    made = tar(tmp_path / "a.tar", *((member(f"f{number}"), b"x") for number in range(51)))

    assert "more than 50 members" in refused(made, tmp_path).message


def test_no_file_of_an_archive_runs_as_its_owner_and_the_old_one_is_not_written_through(
    tmp_path: Path,
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "kept").write_bytes(b"kept")
    os.link(tmp_path / "kept", tmp_path / "folder/x")
    os.symlink(tmp_path / "kept", tmp_path / "folder/y")

    folder = unpacked(
        tar(tmp_path / "a.tar", (member("x", mode=0o6777), b"new"), (member("y"), b"new")), tmp_path
    )

    assert stat.S_IMODE(os.stat(folder / "x").st_mode) & 0o7022 == 0
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert (folder / "x").read_bytes() == (folder / "y").read_bytes() == b"new"


def test_nothing_is_unpacked_into_the_tools_own_folder(tmp_path: Path) -> None:
    (tmp_path / "folder/.provision/agent").mkdir(parents=True)

    failure = refused(tar(tmp_path / "a.tar", (member(".provision/agent/x.pyz"), b"x")), tmp_path)

    assert failure.class_ == "unsafe_path"
    assert list((tmp_path / "folder/.provision/agent").iterdir()) == []


def test_names_that_differ_in_case_are_two_files_where_the_folder_tells_them_apart(tmp_path: Path) -> None:
    made = tar(tmp_path / "a.tar", (member("README"), b"1"), (member("readme"), b"2"))
    (tmp_path / "folder").mkdir()

    if ignores_case(str(tmp_path / "folder")):
        assert "does not tell cases apart" in refused(made, tmp_path).message
    else:
        assert len(list(unpacked(made, tmp_path).iterdir())) == 2


def test_a_link_of_an_archive_that_stays_inside_is_made(tmp_path: Path) -> None:
    folder = unpacked(
        tar(
            tmp_path / "a.tar",
            (member("lib/x.so.1"), b"x"),
            (member("lib/x.so", LINK, "x.so.1"), b""),
            (member("bin/x", LINK, "../lib/x.so"), b""),
            (member("lib64", LINK, "."), b""),
        ),
        tmp_path,
    )

    assert (folder / "bin/x").read_bytes() == b"x"
