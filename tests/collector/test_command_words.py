"""What the command line says when words are missing, wrong, or lead nowhere."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from provision_agent.contract.messages import StartAnswer
from provision_agent.contract.service_messages import ServiceTold
from provision_collector.cli import main
from provision_collector.cli.options import instance_of, words_there
from provision_collector.cli.services import _Place
from provision_collector.console.summary import told_next
from provision_collector.instance import Instance
from provision_collector.run import registry
from provision_collector.run.registry import RunFiles, RunRecord
from provision_collector.run.told import refusal_of

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Said:
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
        said = capfd.readouterr()
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


def test_a_check_says_which_secrets_are_not_set_and_ends_well(says: Said, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("version: 1\nsecrets: {MY_TOKEN: {hosts: [h.example]}}\n")

    code, _, err = says("check", "my.yaml")

    assert code == 0
    assert "warning" in err and "MY_TOKEN" in err


def test_a_profile_that_is_not_there_is_not_to_be_corrected(says: Said) -> None:
    code, _, err = says("check", "nosuch.yaml")

    assert code == 3
    assert "no such file" in err and "provision profiles list" in err and "lines above" not in err


def test_what_cannot_be_written_is_named_as_it_was_given(says: Said, tmp_path: Path) -> None:
    record = remembered("known", tmp_path)
    record.files.events.write_text("")

    code, _, err = says("explain", "known", "--html", "nowhere/run.html")

    assert code == 74
    assert "`nowhere/run.html`: No such file or directory" in err and ".tmp" not in err and "Errno" not in err


def test_a_prune_says_why_nothing_is_removed(says: Said, tmp_path: Path) -> None:
    remembered("known", tmp_path)

    code, out, _ = says("prune", "--keep", "2")

    assert (code, out) == (
        0,
        "no run is removed (`--keep 2`: the newest 2 stay; those that go on stay, too)\n",
    )


def test_the_last_line_names_the_secrets_that_are_to_be_put_right() -> None:
    errors = [
        {"class": "unauthorized", "hint": "set `HF_TOKEN` in your environment, then the same command again"},
        {"class": "not_found", "hint": "set `OTHER_NAME`"},
    ]
    outcome = {"verdict": "failed", "next": "fix_credentials", "errors": errors}

    [words] = [line.text for line in told_next(outcome) if line.text]

    assert words == "correct `HF_TOKEN` as said above, then the same command again"


def test_the_failures_of_an_earlier_run_are_not_shown_as_those_of_this_one(
    says: Said, tmp_path: Path
) -> None:
    record = remembered("known", tmp_path, at=2)
    registry.remember(replace(record, verdict="failed"))
    old, own = "2026-01-01T10:00:00.000Z FAILED: old\n", "2026-01-01T11:00:00.500Z FAILED: own\n"
    record.files.errors.write_text(old + own)
    record.files.events.write_text('{"event": "run_started", "seq": 1, "ts": "2026-01-01T11:00:00.500Z"}\n')

    code, out, err = says("logs", "known", "--errors")
    assert (code, out, err) == (0, own, ""), err

    record.files.errors.write_text(old)
    code, out, err = says("logs", "known", "--errors")
    assert (code, out) == (0, "") and "has no failures" in err


def test_an_item_alone_is_one_of_the_newest_run(says: Said, tmp_path: Path) -> None:
    remembered("old", tmp_path)
    told = [("run_started", {"name": "p"}), ("download_started", {"item": "models/data.bin", "key": "k"})]
    events = [
        {
            "event": name,
            "seq": number,
            "ts": f"2026-01-01T11:00:0{number}.500Z",
            "run": "new",
            "format": 2,
            **facts,
        }
        for number, (name, facts) in enumerate(told, start=1)
    ]
    text = "".join(json.dumps(event) + "\n" for event in events)
    remembered("new", tmp_path, at=2).files.events.write_text(text)

    for word in ("data.bin", "models/data.bin"):
        code, out, err = says("explain", word)
        assert code == 0 and "data.bin" in out, err
    code, _, err = says("explain", "nothing.bin")
    assert code == 2 and "--host" not in err and "ITEM" in err


def test_ssh_takes_all_behind_the_dashes_as_the_command(
    says: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, argv: ran.append(argv))
    remembered("new", tmp_path)

    for words in (["--", "echo", "hi"], ["new", "--", "echo", "hi"], ["--host", "h", "--", "echo", "hi"]):
        says("ssh", *words)

    assert [argv[-2:] for argv in ran] == [["echo", "hi"]] * 3 or [argv[-1] for argv in ran] == [
        "echo hi"
    ] * 3


def test_what_only_reads_takes_the_instance_of_the_newest_run_and_the_rest_names_it(
    says: Said, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        instance = Instance("127.0.0.1", taken.getsockname()[1])
        record = RunRecord("new", RunFiles.of(tmp_path, "new", 1).stem, 1, registry.record_of(instance))
        registry.remember(record)
        for words in (["copy", ":out", "./"], ["audit"], ["verify"], ["doctor"], ["services", "list"]):
            code, _, err = says(*words, "--boot-grace", "0")
            assert code == 10 and "the instance of the newest run, new" in err, words

    for words in (["copy", "./a", ":out"], ["audit", "--repair"], ["stop"]):
        code, _, err = says(*words)
        assert code == 2 and "such as new, the newest" in err, words


def test_a_file_that_is_given_as_a_run_is_the_profile(says: Said, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("version: 1\nnonsense: 1\n")

    for command in ("audit", "verify", "doctor"):
        code, _, err = says(command, "my.yaml", "--host", "h")
        assert code == 3 and "nonsense" in err


def test_of_several_services_of_one_name_each_has_a_command_that_can_be_typed(says: Said) -> None:
    place = _Place({"host": "me@h", "port": 9}, None, None)  # type: ignore[typeddict-item]
    found = [ServiceTold("site", folder, "running") for folder in ("/a", "/b c")]

    assert place.which("restart", "site", found) == (
        "`provision services restart site --host me@h:9 --workspace /a`, or "
        "`provision services restart site --host me@h:9 --workspace '/b c'`"
    )
    assert place.which("restart", "site", found[:1]) == ""


def test_a_run_that_is_in_the_way_can_be_attached_to_where_nobody_knows_it(
    says: Said, tmp_path: Path
) -> None:
    answer = StartAnswer("refused", "going", "refused", "another", case="other_plan", about={"run": "going"})
    instance = Instance("h", 22, "me", key="k")

    unknown = refusal_of(answer, instance).hint
    remembered("going", tmp_path)
    known = refusal_of(answer, instance).hint

    assert "`provision attach going --host me@h:22 --key k` follows it" in unknown
    assert "`provision attach going` follows it" in known
