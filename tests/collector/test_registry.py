"""The runs that this machine knows, and the names of their files."""

from __future__ import annotations

from pathlib import Path

import pytest
from provision_collector import registry
from provision_collector.errors import UsageError
from provision_collector.instance import Instance
from provision_collector.registry import RunFiles, RunRecord


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


def test_the_newest_run_comes_first_and_a_broken_record_is_no_run(tmp_path: Path) -> None:
    for number, run in enumerate(("a", "b", "c")):
        registry.remember(record(run, started_unix=number))
    (tmp_path / "state/provision/runs/b.json").write_text('{"run": ')

    assert [found.run for found in registry.all_runs()] == ["c", "a"]
    with pytest.raises(UsageError, match="knows no run `b`"):
        registry.known("b")
