"""`provision collect` from outside: any log, exact, to the line that says how it ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from provision_collector.collect import marker_log
from provision_collector.collect.collect import CollectOrder, LogToCollect, collect
from provision_collector.demo.instance import EmbeddedInstance
from provision_collector.instance import Instance

from .collecting import END, Case, case_of, cases_of, collected_here, kill, reached
from .conftest import Here, eventually


def test_a_log_is_mirrored_to_its_success_marker(case: Case) -> None:
    child = case.watch()
    case.write("every:0.01", "lines:60", f"end:{END}")

    done = case.here.finish(child)

    case.assert_complete(done)
    assert [line["event"] for line in done.lines] == ["run_accepted", "connected", "marker_found", "outcome"]
    assert done.outcome["line"] == END
    assert not list(case.here.instance.home.iterdir()), "nothing is left on the instance"


def test_a_failure_marker_ends_it_with_1_after_what_is_already_there(case: Case) -> None:
    child = case.watch("--marker-failure", "went wrong", "--marker-success", "went well")
    case.written("lines:3", "end:x: it went wrong, sorry", "lines:50")

    done = case.here.finish(child)

    assert (done.code, done.outcome["verdict"]) == (1, "failed"), done.stdout
    assert done.outcome["line"] == "x: it went wrong, sorry"
    assert case.record.read_bytes().startswith(case.mirror.read_bytes())


def test_several_logs_each_have_their_mirror(case: Case, here: Here) -> None:
    with case_of(here, "second.log") as second:
        second.written("lines:20")
        child = case.collect("--remote-log", str(second.log), "--output", str(second.mirror))
        eventually(second.has_arrived)
        case.write("lines:20", f"end:{END}")

        done = here.finish(child)

        case.assert_complete(done)
        second.assert_exact()
        assert done.outcome["logs"] == {str(case.log): str(case.mirror), str(second.log): str(second.mirror)}


def test_started_again_it_goes_on_and_a_marker_in_the_mirror_ends_it_at_once(case: Case) -> None:
    child = case.collect()
    case.written("lines:200")
    case.await_all()
    kill(child)
    case.write("lines:100", f"end:{END}", seed=2)
    case.assert_complete(case.collected())
    case.here.instance.stop()

    again = case.collected()

    case.assert_complete(again)
    assert not again.named("connected")


async def test_a_marker_that_was_already_there_counts_only_when_the_log_stays_unwritten(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(marker_log, "STALE_AFTER_S", 2.0)
    instance = here.instance
    reached = Instance(instance.host, port=instance.port, user=instance.user, key=str(instance.key_path))

    async def collected(case: Case, *, timeout_s: float, is_written: bool) -> dict[str, Any]:
        case.written("lines:5", f"end:{END}", "lines:1")
        order = CollectOrder((LogToCollect(str(case.log), case.mirror),), timeout_s=timeout_s)
        work = asyncio.create_task(collect(reached, order, on_event=lambda _: None))
        if is_written:
            while not (case.mirror.exists() and case.has_arrived()):
                await asyncio.sleep(0.01)
            case.written("lines:1", seed=2)
        return await work

    with cases_of(here, 2) as (quiet, going):
        ended, timed_out = await asyncio.gather(
            collected(quiet, timeout_s=20, is_written=False), collected(going, timeout_s=8, is_written=True)
        )

    assert (ended["verdict"], ended["line"]) == ("complete", END)
    assert timed_out["verdict"] == "timeout", "what came after it says that it was of an earlier run"


async def test_a_marker_without_a_newline_counts_when_nothing_follows_it(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(marker_log, "STALE_AFTER_S", 0.5)
    case.append(f"a line\n{END}".encode())

    outcome = await collected_here(case, reached(case.here), timeout_s=25)

    assert (outcome["verdict"], outcome["line"]) == ("complete", END)
    case.assert_exact()


def test_a_log_that_never_comes_is_named_at_the_timeout(case: Case) -> None:
    done = case.collected("--timeout", "2")

    assert done.code == 124
    assert done.named("log_missing")
    assert "was never there" in done.outcome["errors"][0]["message"]


EDITS = {
    "a line added after it was left": (signal.SIGTERM, lambda data: data + b"mine\n"),
    "a byte changed after it was left": (signal.SIGTERM, lambda data: data[:10] + b"?" + data[11:]),
    "cut after it was left": (signal.SIGTERM, lambda data: data[:-5]),
    "a line added after it was killed": (signal.SIGKILL, lambda data: data + b"mine\n"),
    "the end added after it was killed": (signal.SIGKILL, lambda data: data + f"{END}\n".encode()),
    "a byte changed after it was killed": (signal.SIGKILL, lambda data: data[:10] + b"?" + data[11:]),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_mirror_that_was_edited_is_refused(case: Case, name: str) -> None:
    end, edit = EDITS[name]
    child = case.watch()
    case.written("lines:30", seed=2)
    case.await_all()
    os.killpg(child.pid, end)
    assert case.here.finish(child).code == (143 if end == signal.SIGTERM else -9)
    case.mirror.write_bytes(edit(case.mirror.read_bytes()))
    before = case.mirror.read_bytes()

    done = case.collected("--timeout", "15")

    assert (done.code, done.outcome["verdict"]) == (2, "usage"), done.stdout
    assert case.mirror.read_bytes() == before


IN_THE_WAY: dict[str, tuple[Callable[[Path], object], str]] = {
    "a directory": (Path.mkdir, "is a directory, and not a file"),
    "a pipe": (os.mkfifo, "is a pipe, a socket or a device, and not a file"),
}


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_is_no_file_is_said_at_once(case: Case, name: str) -> None:
    make, said = IN_THE_WAY[name]
    make(case.log)

    done = case.collected()

    assert done.code == 2, done.stdout
    assert said in done.outcome["errors"][0]["message"]
    assert "ls -ld" in done.outcome["errors"][0]["hint"]


def test_a_file_that_is_no_mirror_is_never_appended_to(case: Case) -> None:
    case.mirror.write_text("my thesis\n")
    case.written("lines:3")

    done = case.collected("--timeout", "5")

    assert done.code == 2
    assert case.mirror.read_text() == "my thesis\n"


def test_ctrl_c_leaves_a_mirror_that_goes_on(case: Case) -> None:
    case.written("lines:3")
    child = case.collect()
    case.await_all()
    os.killpg(child.pid, signal.SIGINT)

    done = case.here.finish(child)

    assert (done.code, done.outcome["verdict"], done.outcome["exit_code"]) == (130, "cancelled", 130)
    case.written("lines:3", f"end:{END}", seed=2)
    case.assert_complete(case.collected())


def test_a_mirror_becomes_no_longer_than_it_may(case: Case) -> None:
    case.written("bytes:300000")

    done = case.collected("--max-mirror-size", "100KB")

    assert done.code == 74
    assert case.mirror.stat().st_size == 100_000
    case.write(f"end:{END}", seed=2)
    case.assert_complete(case.collected("--max-mirror-size", "1MB"))


def test_the_plain_view_talks_on_stderr_and_ends_with_the_mirror_on_stdout(case: Case) -> None:
    case.written("lines:3")
    child = case.here.spawn(
        "collect", *case.here.connection(), "--remote-log-path", str(case.log), "--output", str(case.mirror), "--timeout", "20",
    )  # fmt: skip
    case.await_all()
    case.written("end:\x1b[31mCRITICAL ERROR: \x1b]0;title\x07disk", seed=2)

    done = case.here.finish(child)

    assert (done.code, done.stdout) == (1, f"failed: {case.mirror}\n")
    assert "connected to" in done.stderr
    assert "\x1b" not in done.stderr and "\x07" not in done.stderr


def test_the_default_output_is_named_after_the_contract(case: Case) -> None:
    child = case.here.spawn(
        "collect", *case.here.connection(), "--remote-log", str(case.log), "--contract-id", "8154", "--timeout", "20", "--json",
    )  # fmt: skip
    eventually(lambda: "log_missing" in case.here.said(child))
    case.written("lines:3", f"end:{END}")

    done = case.here.finish(child)

    path = Path(done.outcome["logs"][str(case.log)])
    assert done.code == 0
    assert path.parent.name == "logs"
    assert path.name.startswith("provision_8154_")
    assert (case.here.folder / path).read_bytes() == case.record.read_bytes()
    assert json.loads((case.here.folder / f"{path}.state.json").read_text())["format"] == 2


WRONG = {
    "more outputs than logs": ["--output", "a", "--output", "b"],
    "a relative log": ["--remote-log", "x.log"],
    "a contract id that is a path": ["--contract-id", "../x"],
    "an empty marker": ["--marker-success", " "],
}


@pytest.mark.parametrize("name", WRONG)
def test_an_order_that_can_mean_nothing_is_a_usage_error(here: Here, name: str) -> None:
    words = ["collect", *here.connection(), *WRONG[name]]

    done = here.run(*words, *([] if "--remote-log" in words else ["--remote-log", "/x.log"]))

    assert done.code == 2, done.stderr
    assert "next:" in done.stderr


def test_a_host_that_is_not_there_is_unreachable(here: Here, instance: EmbeddedInstance) -> None:
    instance.stop()

    done = here.run("collect", *here.connection(), "--boot-grace", "1s", "--remote-log", "/x.log", "--json")

    assert (done.code, done.outcome["errors"][0]["class"]) == (10, "refused")
