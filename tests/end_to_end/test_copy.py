"""`provision copy` both ways against a real sshd: names, modes, links, what differs, and a cut in the middle."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest

from .conftest import Here, eventually

pytestmark = pytest.mark.timeout(240)


def there(here: Here) -> Path:
    return here.instance.workspace


def where(here: Here) -> list[str]:
    return [*here.connection(), "--workspace", str(there(here)), "--json"]


def test_a_folder_goes_there_and_comes_back_as_it_was_and_only_what_differs_is_sent(here: Here) -> None:
    folder = here.folder / "loras"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a" * 300_000)
    (folder / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "sub" / "run.sh").chmod(0o750)
    (folder / "link").symlink_to("sub/run.sh")
    (folder / "x.tmp").write_text("no")
    there(here).mkdir(exist_ok=True)

    sent = here.run("copy", *where(here), "--exclude", "*.tmp", "loras", ":models/")
    (folder / "a.bin").write_bytes(b"b" * 300_000)
    again = here.run("copy", *where(here), "--exclude", "*.tmp", "loras", ":models/")
    back = here.run("copy", *where(here), ":models/loras/", "./back/")
    same = here.run("copy", *where(here), ":models/loras/", "./back/")
    single = here.run("copy", *where(here), ":models/loras/a.bin", "one.bin")

    assert [done.code for done in (sent, again, back, same, single)] == [0] * 5, [sent.stderr, back.stderr]
    assert json.loads(again.stdout)["files"] == 1 and json.loads(again.stdout)["there"] == 1
    assert json.loads(same.stdout) == {"files": 0, "there": 2, "bytes": 0, "failed": []}
    made = here.folder / "back"
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*")) == [
        "a.bin",
        "link",
        "sub",
        "sub/run.sh",
    ]
    assert (made / "a.bin").read_bytes() == b"b" * 300_000 == (here.folder / "one.bin").read_bytes()
    assert (made / "sub/run.sh").stat().st_mode & 0o777 == 0o750
    assert os.readlink(made / "link") == "sub/run.sh"


@pytest.mark.parametrize("way", ["there", "here"])
def test_a_kill_in_the_middle_costs_nothing_that_had_arrived(here: Here, way: str) -> None:
    content = random.Random(2).randbytes(160 << 20)
    there(here).mkdir(exist_ok=True)
    source, target = (here.folder, there(here)) if way == "there" else (there(here), here.folder)
    (source / "big.bin").write_bytes(content)
    words = ("big.bin", ":copy.bin") if way == "there" else (":big.bin", "copy.bin")
    child = here.spawn("copy", *where(here), *words)

    def part() -> int:
        return max((path.stat().st_size for path in target.glob(".copy.bin.*.part")), default=0)

    eventually(lambda: part() > 8 << 20)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    landed = part()
    assert not (target / "copy.bin").exists()
    done = here.run("copy", *where(here), *words, within_s=100)

    assert done.code == 0, done.stderr
    assert (target / "copy.bin").read_bytes() == content
    assert json.loads(done.stdout)["bytes"] <= len(content) - landed
    assert list(target.glob(".*.part")) == []


def test_what_cannot_be_copied_is_named_and_the_command_says_what_to_type(here: Here) -> None:
    there(here).mkdir(exist_ok=True)
    (there(here) / "taken").mkdir()
    (here.folder / "taken").mkdir()
    (here.folder / "ok").write_text("ok")

    both_here = here.run("copy", *where(here), "a", "b")
    missing = here.run("copy", *where(here), ":nothing", "x")
    here.profile("", "taken2")
    (there(here) / "sub").mkdir()
    (there(here) / "sub" / "taken").write_text("a file there, a folder here")
    (there(here) / "sub" / "good").write_text("good")
    some = here.run("copy", *where(here), ":sub/", ".")

    assert (both_here.code, "begins with `:`" in both_here.stderr) == (2, True)
    assert missing.code == 1 and "there is no" in missing.stderr
    assert some.code == 1 and "`taken`" in some.stderr.replace(str(here.folder) + "/", "")
    assert (here.folder / "good").read_text() == "good"


def test_a_followed_copy_brings_a_file_when_its_writer_closes_it_and_not_before(here: Here) -> None:
    output = there(here) / "output"
    output.mkdir(parents=True)
    (output / "first.png").write_bytes(b"1")
    with (output / "going.png").open("wb") as going:
        going.write(b"half")
        going.flush()
        child = here.spawn("copy", *where(here), "--follow", ":output/", "home/")
        eventually(lambda: (here.folder / "home" / "first.png").read_bytes() == b"1")
        (output / "sub").mkdir()
        (output / "sub" / "second.png").write_bytes(b"2")
        eventually(lambda: (here.folder / "home" / "sub" / "second.png").read_bytes() == b"2")
        assert not (here.folder / "home" / "going.png").exists()
        going.write(b" and whole")
    eventually(lambda: (here.folder / "home" / "going.png").read_bytes() == b"half and whole")
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=20) == 130
