"""The runs that this machine knows, and the names of their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from provision_collector.errors import UsageError
from provision_collector.instance import Instance
from provision_collector.run import registry
from provision_collector.run.registry import RunFiles, RunRecord


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def record(run: str, *, started_unix: int = 5) -> RunRecord:
    where = registry.record_of(Instance("h", port=22, key="~/.ssh/id"))
    return RunRecord(run=run, stem=f"/logs/{run}", started_unix=started_unix, instance=where)


@pytest.mark.parametrize("run", ["../x", "a/b", "", ".hidden", "a\0b", "a\n", "x" * 65])
def test_an_id_from_an_instance_cannot_leave_the_logs_directory(tmp_path: Path, run: str) -> None:
    with pytest.raises(UsageError, match="is not a run id"):
        RunFiles.of(tmp_path, run, 5)
    with pytest.raises(UsageError, match="is not a run id"):
        registry.find(run)


def test_a_run_is_found_again_from_any_folder() -> None:
    registry.remember(record("a"))

    found = registry.known("a")

    assert found.to_instance().key == str(Path("~/.ssh/id").expanduser())
    assert (found.files.core, found.files.errors) == (Path("/logs/a.log"), Path("/logs/a.errors.log"))


def test_a_record_in_which_nothing_has_changed_is_not_written_again(tmp_path: Path) -> None:
    file = tmp_path / "state/provision/runs/a.json"
    registry.remember(record("a"))
    first = file.stat()

    registry.remember(record("a"))
    assert file.stat() == first
    registry.remember(replace(record("a"), verdict="complete"))
    assert file.stat().st_ino != first.st_ino
    assert registry.known("a").verdict == "complete"


def test_the_newest_run_comes_first_and_a_broken_record_is_no_run(tmp_path: Path) -> None:
    for number, run in enumerate(("a", "b", "c")):
        registry.remember(record(run, started_unix=number))
    (tmp_path / "state/provision/runs/b.json").write_text('{"run": ')

    assert [found.run for found in registry.all_runs()] == ["c", "a"]
    with pytest.raises(UsageError, match="knows no run `b`"):
        registry.known("b")


def test_a_run_with_nearly_the_id_is_named_and_the_command_says_what_it_can_do() -> None:
    registry.remember(record("nightly-7"))

    with pytest.raises(UsageError, match="no run `nihgtly-7`; did you mean `nightly-7`") as refused:
        registry.known("nihgtly-7")
    assert refused.value.hint == "`provision status` lists the runs; or give `--host`"
    with pytest.raises(UsageError) as refused:
        registry.known("other", hint="no host is taken here")
    assert refused.value.hint == "no host is taken here"


def test_two_instances_with_a_run_of_one_id_have_a_record_each() -> None:
    first, second = record("a"), record("a", started_unix=9)
    elsewhere = registry.record_of(Instance("other", port=22))
    joined = replace(second, instance=elsewhere, is_named_here=False)
    registry.remember(first)
    registry.remember(joined)

    assert registry.known("a") == first
    assert registry.find("a", Instance("other")) == joined, (
        "port 22 and root are what is meant when none is given"
    )
    assert registry.find("a", Instance("other", user="alice")) is None
    assert registry.find("a", Instance("h", port=22, instance_id="i-1")) is None

    registry.remember(replace(joined, is_named_here=True))
    assert registry.known("a").started_unix == 9, "the newest whose id was chosen here"


@pytest.mark.parametrize(
    "known", [None, {}, {"secrets": "x"}, {"secrets": [{"name": 1}], "services": {}}, []]
)
def test_a_record_that_tells_nothing_readable_of_a_run_counts_as_one_that_tells_nothing(known: Any) -> None:
    assert replace(record("a"), known=known).what_is_known() is None
