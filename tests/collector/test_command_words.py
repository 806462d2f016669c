"""What the command line says when words are missing, wrong, or lead nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from provision_collector.cli import main
from provision_collector.cli.options import instance_of, words_there
from provision_collector.instance import Instance
from provision_collector.run import registry
from provision_collector.run.registry import RunFiles, RunRecord

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command in an empty folder: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("HF_TOKEN", "CIVITAI_TOKEN", "GITHUB_TOKEN", "GH_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        try:
            main(words)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def remembered(run: str, folder: Path, *, at: int = 1, **facts: object) -> RunRecord:
    """A run that this machine knows, with an instance that boots for two minutes."""
    instance = Instance("h", 22, "me", **facts)  # type: ignore[arg-type]
    record = RunRecord(run, RunFiles.of(folder, run, at).stem, at, registry.record_of(instance))
    registry.remember(record)
    return record


def test_only_a_command_that_starts_or_watches_something_waits_for_an_instance_to_boot(
    says: Said, tmp_path: Path
) -> None:
    remembered("known", tmp_path)

    asked = [instance_of({"host": "h"}), instance_of({}, "known")]
    waits = [
        instance_of(where, run, waits_for_boot=True) for where, run in (({"host": "h"}, None), ({}, "known"))
    ]

    assert [one.boot_grace_s for one in asked] == [3, 3]
    assert [one.boot_grace_s for one in waits] == [120, 120]
    assert instance_of({"host": "h", "boot_grace_s": 60.0}).boot_grace_s == 60, "who asks for it gets it"


def test_a_command_that_is_advised_has_the_connection_as_it_was_given(says: Said, tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    where = {"host": "me@h", "port": 99, "key": "key", "host_key": "off"}

    assert words_there(where, instance_of(where), None, "/my work") == (
        "--host me@h:99 --key key --host-key off --workspace '/my work'"
    )
    remembered("known", tmp_path)
    given = {"key": "key", "boot_grace_s": 1.0}
    assert words_there(given, instance_of(given, "known"), "known") == "known --key key"
