"""Files that come here from an instance: into one folder and nowhere else, whatever they are called; and what is sent."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import pytest
from provision_agent.contract import file_frames as wire
from provision_agent.contract.failures import Failure
from provision_agent.contract.file_frames import FileFrame
from provision_agent.contract.file_messages import CompleteFile, FilesTold, FileTold, SettledFile, Trouble
from provision_agent.contract.frames import Bytes, ProtocolError
from provision_agent.contract.parsing import to_json
from provision_agent.contract.plan import Plan
from provision_agent.contract.plan_files import Upload
from provision_collector.errors import HostUnreachableError, ProfileError, UsageError
from provision_collector.files import receiver as receiving
from provision_collector.files import sources_of, sources_within
from provision_collector.files.copied import Copied
from provision_collector.files.copying import words_of
from provision_collector.files.local_tree import RECORD, LocalTree, RefusedHereError
from provision_collector.files.receiver import Receiver
from provision_collector.files.session import FileSession
from provision_collector.files.sources import UploadSource, refuse_missing
from provision_collector.files.tree import list_source
from provision_collector.profile import Profile, compile_plan
from provision_collector.run.outputs import bound
from provision_collector.storage import LockBusyError


def told(path: str, content: bytes = b"abc", n: int = 0) -> FileTold:
    return FileTold(n, "0", path, size_bytes=len(content), mtime_ns=1_000_000_000)


def complete(content: bytes, n: int = 0, mtime_ns: int = 1_000_000_000) -> CompleteFile:
    return CompleteFile(n, hashlib.sha256(content).hexdigest(), len(content), mtime_ns)


def take(tree: LocalTree, path: str, content: bytes = b"abc") -> bool:
    """Have a file come; True when bytes were wanted."""
    file = told(path, content)
    if tree.wanted(file) is None:
        return False
    tree.write(file, 0, content)
    assert tree.finish(file, complete(content))
    return True


def opened(root: Path, **options: object) -> LocalTree:
    tree = LocalTree(root, **options)  # type: ignore[arg-type]
    tree.open()
    return tree


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a\0b", "a/./b", "x" * 300])
def test_a_hostile_name_leads_nowhere(tmp_path: Path, path: str) -> None:
    tree = opened(tmp_path / "home")
    file = FileTold(0, "0", path, size_bytes=1)
    with pytest.raises(RefusedHereError, match="leads out"):
        tree.wanted(file)
    assert sorted(os.listdir(tmp_path)) == ["home"]
    assert os.listdir(tmp_path / "home") == [RECORD]


def test_nothing_is_written_through_a_link_and_a_link_in_the_place_of_a_file_is_kept_beside_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "precious").write_text("mine")
    root = tmp_path / "home"
    root.mkdir()
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "file").symlink_to(tmp_path / "precious")
    tree = opened(root)
    with pytest.raises(RefusedHereError, match="nothing is written through it"):
        tree.wanted(told("out/x"))
    assert take(tree, "file")

    assert os.listdir(tmp_path / "elsewhere") == []
    assert (tmp_path / "precious").read_text() == "mine"
    assert (root / "file").read_bytes() == b"abc" and not (root / "file").is_symlink()
    assert (root / "file.kept-1").is_symlink()


def test_names_that_differ_in_case_or_form_only_are_two_files(tmp_path: Path) -> None:
    tree = opened(tmp_path)
    for number, name in enumerate(["a.png", "A.png", "caf\u00e9.txt", "cafe\u0301.txt", RECORD]):
        assert take(tree, name, b"%d" % number)
    names = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != RECORD}

    assert names == {
        "a.png": b"0", "A~2.png": b"1", "caf\u00e9.txt": b"2", "cafe\u0301~2.txt": b"3",
        f"{RECORD[:-6]}~2.jsonl": b"4",
    }  # fmt: skip
    tree.close()
    again = opened(tmp_path)
    assert not any(take(again, name, b"%d" % number) for number, name in enumerate(["a.png", "A.png"]))


def test_what_the_user_changed_here_is_kept_when_a_newer_one_comes(tmp_path: Path) -> None:
    tree = opened(tmp_path)
    take(tree, "a.txt", b"old")
    assert take(tree, "a.txt", b"newer")
    (tmp_path / "a.txt").write_text("edited by hand")
    assert take(tree, "a.txt", b"newest")

    assert (tmp_path / "a.txt").read_bytes() == b"newest"
    assert (tmp_path / "a.txt.kept-1").read_text() == "edited by hand"


def test_caps_the_reserve_and_a_lie_about_a_size_bound_what_comes(tmp_path: Path) -> None:
    tree = opened(tmp_path, max_bytes=5)
    assert take(tree, "a", b"abc")
    with pytest.raises(RefusedHereError, match="--max-outputs"):
        tree.wanted(told("b", b"abc"))
    small = told("c", b"c")
    tree.wanted(small)
    with pytest.raises(ProtocolError):
        tree.write(small, 0, b"much more")
    with pytest.raises(RefusedHereError, match="no room here"):
        opened(tmp_path / "other").wanted(FileTold(0, "0", "x", size_bytes=1 << 50))


def test_a_folder_belongs_to_one_instance_and_one_process(tmp_path: Path) -> None:
    first = opened(tmp_path, owner="run a on h:22")
    with pytest.raises(LockBusyError, match="another process"):
        opened(tmp_path, owner="run a on h:22")
    first.close()
    with pytest.raises(UsageError, match="files of run a on h:22"):
        opened(tmp_path, owner="run b on h:22")
    opened(tmp_path, owner="run a on h:22, workspace /w", also="run a on h:22").close()


def test_a_cut_leaves_a_part_and_what_is_damaged_never_gets_its_name(tmp_path: Path) -> None:
    tree = opened(tmp_path)
    file = told("sub/a", b"0123456789")
    tree.wanted(file)
    tree.write(file, 0, b"01234")
    tree.close()

    tree = opened(tmp_path)
    wanted = tree.wanted(file)
    assert wanted is not None and wanted.offset == 5
    assert wanted.proof == hashlib.sha256(b"01234").hexdigest()
    tree.write(file, 5, b"XXXXX")
    assert not tree.finish(file, complete(b"0123456789"))
    assert not (tmp_path / "sub/a").exists()
    tree.write(file, 0, b"0123456789")
    assert tree.finish(file, complete(b"0123456789"))
    assert (tmp_path / "sub/a").read_bytes() == b"0123456789"


def test_by_hand_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    tree = opened(tmp_path / "home", is_bare=True)
    tree.make(FileTold(0, "0", "d/in", "link", target="../x"))
    with pytest.raises(RefusedHereError, match="leads out"):
        tree.make(FileTold(1, "0", "out", "link", target="../x"))
    assert os.readlink(tmp_path / "home/d/in") == "../x"


# -- what is sent


def test_an_upload_is_relative_to_the_file_of_the_profile_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "base.yaml").write_text("version: 1\nuploads: [{from: a, path: a/}]\n")
    (tmp_path / "own.yaml").write_text(
        "version: 1\nextends: shared/base.yaml\nuploads: [{from: b, path: b/, level: optional}]\n"
    )
    profile = Profile.from_file(tmp_path / "own.yaml")
    sources = sources_of(profile, compile_plan(profile))
    assert [source.source for source in sources] == [str(tmp_path / "shared" / "a"), str(tmp_path / "b")]
    with pytest.raises(ProfileError) as error:
        refuse_missing(sources)
    [problem] = error.value.problems
    assert problem.startswith(f"{tmp_path}/shared/base.yaml:2:") and "cannot be read here" in problem


def test_the_files_of_an_upload_are_no_part_of_the_plans_hash_and_a_plan_says_nothing_of_where_they_lie() -> (
    None
):
    plan = Plan("x", uploads=(Upload(path="a/", from_="./a"),))
    assert "uploads" in plan.to_json() and Plan.from_json(plan.to_json()) == plan
    assert plan.hash != Plan("x").hash
    assert plan.hash == Plan("x", uploads=(Upload(path="a/", from_="./a"),)).hash


@pytest.mark.parametrize("source", ["../x", "/etc", "~/x", "a/../../x", "out", "nothing"])
def test_somebody_elses_profile_names_only_what_lies_in_the_folder(tmp_path: Path, source: str) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "out").symlink_to("/etc")
    plan = Plan("x", uploads=(Upload(path="a/", from_=source),))
    with pytest.raises(UsageError, match=r"`uploads\[0\].from` names nothing that this server sends"):
        sources_within(plan, tmp_path / "shared")
    with pytest.raises(UsageError, match="sends no files"):
        sources_within(plan, None)


def test_a_pipe_is_left_out_and_a_link_that_leads_out_refuses_the_whole(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a").write_text("a")
    source = UploadSource(0, str(tmp_path), "x/")
    assert [file.path for file in list_source(source).files] == ["a"]
    assert list_source(source).skipped == ["pipe"]
    (tmp_path / "z").symlink_to("/etc/passwd")
    failure = list_source(source).failure
    assert failure is not None and "`z` leads out" in failure.message


def test_the_words_of_a_copy_say_which_side_is_there() -> None:
    assert words_of(["a", "b", ":c/"]) == (("a", "b"), "c/", True)
    assert words_of([":a", ":b", "c"]) == (("a", "b"), "c", False)
    for words in (["a", "b"], [":a", ":b"], ["a", ":b", ":c"], [":a", "b", "c"]):
        with pytest.raises(UsageError):
            words_of(words)


def test_what_cannot_be_copied_is_said_once_for_all_files_alike_with_what_to_type() -> None:
    copied = Copied()
    for name in "abcde":
        full = SettledFile(
            0, "failed", "disk_full", f"`{name}` cannot be written here: no space", "full_here"
        )
        copied.settle(name, told(name), full)
    copied.settle("big", told(""), SettledFile(0, "failed", "truncated", "it came damaged twice"))
    copied.refuse("pipe", Failure("unsafe_path", "`pipe` is no file", case="odd_name"))
    copied.settle("big", told(""), SettledFile(0, "ok"))

    assert copied.lines() == [
        "`a` cannot be written here: no space; the same of `b`, `c`, `d` and 1 more",
        "`pipe` is no file",
    ]
    assert copied.hints() == [
        "free space here, or choose another target: the same command again goes on where it was",
        "leave it out with `--exclude`, or give it another name",
    ]
    assert copied.files == 1


def test_every_instance_of_a_fleet_has_a_folder_of_its_own_whatever_it_is_called() -> None:
    from provision_collector.instance import Instance
    from provision_collector.pool.fleet import Target
    from provision_collector.pool.fleet.up import outputs_of
    from provision_collector.run.spec import OutputsHere

    here = OutputsHere(Path("/home"))
    names = [
        Instance("h", port=2222), Instance("h", port=2223), Instance("::1"), Instance("h", instance_id="../../x"),
    ]  # fmt: skip
    folders = [outputs_of(here, Target(instance)) for instance in names]
    assert [str(each.folder) for each in folders if each is not None] == [
        "/home/h_2222", "/home/h_2223", "/home/__1_22", "/home/_.._x",
    ]  # fmt: skip
    assert outputs_of(None, Target(names[0])) is None


def test_the_variables_of_outputs_mean_here_what_they_mean_on_the_instance() -> None:
    text = 'version: 1\nname: x\noutputs: [{path: "made/${run_id}", include: ["${run_id}-*.png", "$${x}"]}]\n'
    plan = compile_plan(Profile.from_text(text, name="x.yaml"))

    assert plan.outputs[0].path == "made/${run_id}"
    assert bound(plan.outputs, workspace="/w", run="r1") == (
        plan.bind(workspace="/w", home="/h", run_id="r1").outputs
    )


class Told:
    """In the place of a session: hands these frames over, then is cut. What is said to it goes nowhere."""

    def __init__(self, *frames: FileFrame) -> None:
        self.frames = frames
        self.is_paused: list[bool] = []
        self.go_on = asyncio.Event()

    async def hand(self, to: Callable[[FileFrame], None]) -> None:
        for frame in self.frames:
            to(frame)
            if self.is_paused[-1:] == [True]:
                await self.go_on.wait()
        raise HostUnreachableError("the transfer of files was cut")

    def pause(self) -> None:
        self.is_paused.append(True)

    def resume(self) -> None:
        self.is_paused.append(False)
        self.go_on.set()

    def send(self, kind: bytes, payload: object) -> None: ...

    def send_list(self, kind: bytes, name: str, entries: Iterable[object]) -> None: ...


def said(kind: bytes, payload: object) -> FileFrame:
    return FileFrame(kind, 0, json.dumps(to_json(payload)).encode())


async def test_why_a_file_cannot_come_keeps_its_case_and_what_it_is_about(tmp_path: Path) -> None:
    tree, failures = opened(tmp_path / "home"), []
    session = Told(
        said(wire.LISTED, FilesTold((told("a"),))),
        said(wire.PROBLEM, Trouble("conflict", "it changes", "changes_meanwhile", {"path": "a"}, n=0)),
        said(wire.PROBLEM, Trouble("unsafe_path", "`x` is no file", "odd_name", {"path": "x"}, item="")),
    )
    receiver = Receiver(
        cast(FileSession, session), {"0": tree}, on_settled=lambda told, settled: failures.append(settled),
        on_problem=lambda path, failure: failures.append((path, failure)),
    )  # fmt: skip
    with pytest.raises(HostUnreachableError):
        await receiver.run(until_idle=True)
    tree.close()

    of_a_file, (path, failure) = failures
    assert (of_a_file.case, of_a_file.about) == ("changes_meanwhile", {"path": "a"})
    assert (path, failure.case, failure.about) == ("x", "odd_name", {"path": "x"})
    assert receiver.failed == {"a": "it changes", "x": "`x` is no file"}


async def test_who_sends_more_than_the_disk_takes_is_kept_waiting_and_all_that_came_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, piece = opened(tmp_path / "home"), os.urandom(1 << 16)
    monkeypatch.setattr(receiving, "MOST_WAITING_BYTES", 4 << 16)
    is_ready = threading.Event()
    write = tree.write

    def slowly(told: FileTold, offset: int, data: Bytes) -> None:
        assert is_ready.wait(60)
        write(told, offset, data)

    monkeypatch.setattr(tree, "write", slowly)
    pieces = [FileFrame(wire.DATA, 0, piece, number << 16) for number in range(16)]
    session = Told(
        said(wire.LISTED, FilesTold((told("a", piece * 16),))),
        *pieces,
        said(wire.COMPLETE, complete(piece * 16)),
    )
    receiver = Receiver(cast(FileSession, session), {"0": tree})
    running = asyncio.create_task(receiver.run(until_idle=False))
    while not session.is_paused:
        await asyncio.sleep(0)
    is_ready.set()
    with pytest.raises(HostUnreachableError):
        await running
    tree.close()

    assert session.is_paused[:2] == [True, False]
    assert (tmp_path / "home" / "a").read_bytes() == piece * 16
    assert not receiver.left


def test_files_that_are_named_and_do_not_come_hold_no_descriptor_and_count_once(tmp_path: Path) -> None:
    tree = opened(tmp_path / "home", max_bytes=1000)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):  # as in a second session
        for number in range(100):
            tree.wanted(told(f"f{number}", b"12345"))
    assert tree.held_bytes == 500
    tree.write(told("f1", b"12345"), 0, b"123")
    tree.leave(told("f1", b"12345"))
    found = tree.wanted(told("f1", b"12345"))

    assert found is not None and found.offset == 3
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    tree.close()


def test_what_is_held_counts_a_file_that_came_again_once_also_after_a_restart(tmp_path: Path) -> None:
    tree = opened(tmp_path / "home")
    take(tree, "a", b"12345")
    take(tree, "a", b"123456789")
    take(tree, "b", b"1")
    tree.close()
    again = opened(tmp_path / "home")

    assert (tree.held_bytes, again.held_bytes) == (10, 10)
    again.close()
