"""The Python API for a warm-pool server: the example of the documentation, and several runs in one event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from harness.file_server import Fault, FileServer
from provision_collector import Profile, UsageError, attach, start
from provision_collector.demo.instance import EmbeddedInstance
from provision_collector.run import watcher

from .conftest import Here, instance_of
from .test_up import profile_of

pytestmark = pytest.mark.usefixtures("own_state")


async def test_events_come_in_order_and_the_outcome_is_the_last(
    here: Here, files: FileServer, tmp_path: Path
) -> None:
    profile = Profile.from_text(profile_of(files), name="test.yaml")
    instance = instance_of(here.instance, tmp_path)
    async with await start(
        instance,
        profile,
        workspace=str(here.instance.workspace),
        logs_dir=tmp_path / "logs",
        labels={"a": "b"},
    ) as run:
        first = [event async for event in run.events()]
        second = [event async for event in run.events()]
        outcome = await run.outcome()

    assert (outcome["verdict"], outcome["labels"]) == ("complete", {"a": "b"})
    assert first[0]["event"] == "run_accepted"
    assert first[-1]["event"] == second[-1]["event"] == "outcome"
    ours = [event["seq"] for event in first if event.get("from") == "collector"]
    theirs = [event["seq"] for event in first if event.get("from") != "collector"]
    assert ours == list(range(1, len(ours) + 1))
    assert theirs == list(range(1, len(theirs) + 1))
    assert sorted(map(str, first)) == sorted(map(str, second))


async def test_several_runs_live_in_one_event_loop(files: FileServer, tmp_path: Path) -> None:
    text = profile_of(files, levels=("critical",))

    async def one(number: int) -> str:
        async with EmbeddedInstance(tmp_path / f"i{number}", server="sshd") as embedded:
            run = await start(
                instance_of(embedded, tmp_path),
                Profile.from_text(text),
                workspace=str(embedded.workspace),
                logs_dir=tmp_path / "logs",
            )
            async with run:
                return str((await run.outcome())["verdict"])

    assert await asyncio.gather(*(one(number) for number in range(3))) == ["complete"] * 3


async def test_one_run_id_on_two_instances_in_one_second_makes_two_mirrors(
    files: FileServer, tmp_path: Path
) -> None:
    profile = Profile.from_text(profile_of(files, levels=("critical",)), name="test.yaml")

    async def both(name: str, *instances: EmbeddedInstance) -> list[dict[str, Any]]:
        runs = [
            await start(
                instance_of(embedded, tmp_path),
                profile,
                run_id=name,
                workspace=str(embedded.workspace),
                logs_dir=tmp_path / "logs",
            )
            for embedded in instances
        ]
        return [await run.outcome() for run in runs]

    async with (
        EmbeddedInstance(tmp_path / "one", server="sshd") as one,
        EmbeddedInstance(tmp_path / "two", server="sshd") as two,
    ):
        outcomes = await both("same", one, two)
        for embedded, outcome in zip((one, two), outcomes, strict=True):
            written = embedded.workspace / ".provision/runs/same/core.log"
            assert Path(outcome["logs"]["core"]).read_bytes() == written.read_bytes()

    assert [outcome["verdict"] for outcome in outcomes] == ["complete"] * 2
    assert outcomes[0]["logs"]["core"] != outcomes[1]["logs"]["core"]


async def test_stop_ends_it_and_leaving_does_not(here: Here, files: FileServer, tmp_path: Path) -> None:
    profile = Profile.from_text(profile_of(files))
    files.set_faults("/required.safetensors", Fault(slow_after=1 << 18, bytes_per_s=50_000))
    instance = instance_of(here.instance, tmp_path)
    workspace, logs = str(here.instance.workspace), tmp_path / "logs"

    async with await start(instance, profile, workspace=workspace, logs_dir=logs) as run:
        await run.started()
    left = await run.outcome()
    again = await attach(instance, run_id=run.id, workspace=workspace, logs_dir=logs)
    await again.started()
    await again.stop()
    stopped = await again.outcome()

    assert (left["verdict"], left["exit_code"]) == ("cancelled", 130)
    assert (stopped["verdict"], stopped["run"]) == ("cancelled", run.id)
    assert here.agent_events(run.id)[-1]["verdict"] == "cancelled"


async def test_a_run_id_that_was_used_is_refused_at_once(
    here: Here, files: FileServer, tmp_path: Path
) -> None:
    profile = Profile.from_text(profile_of(files, levels=("critical",)))
    instance = instance_of(here.instance, tmp_path)
    workspace, logs = str(here.instance.workspace), tmp_path / "logs"
    async with await start(instance, profile, workspace=workspace, logs_dir=logs, run_id="one") as run:
        await run.outcome()

    with pytest.raises(UsageError, match="finished"):
        await start(instance, profile, workspace=workspace, logs_dir=logs, run_id="one")


@pytest.mark.parametrize("why", ["the log is too long", "this disk is nearly full"])
async def test_a_log_without_end_is_cut_and_the_run_is_followed_to_its_end(
    why: str, here: Here, files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "the log is too long":
        monkeypatch.setattr(watcher, "MAX_LOG_BYTES", 300)
    else:
        monkeypatch.setattr(watcher, "RESERVE_BYTES", 1 << 62)
        monkeypatch.setattr("provision_collector.mirror.mirror.SHARE_IN_RESERVE", 1)
    async with await start(
        instance_of(here.instance, tmp_path),
        Profile.from_text(profile_of(files, levels=("critical",)), name="test.yaml"),
        workspace=str(here.instance.workspace),
        logs_dir=tmp_path / "logs",
    ) as run:
        outcome = await run.outcome()

    assert (outcome["verdict"], outcome["exit_code"]) == ("complete", 0)
    assert "core" in [gap["file"] for gap in outcome["gaps"]]
    remote = next(here.instance.workspace.glob(".provision/runs/*/core.log")).read_bytes()
    mirror = Path(outcome["logs"]["core"]).read_bytes()
    assert remote.startswith(mirror)
    assert len(mirror) <= 300 < len(remote)


async def test_a_flood_of_events_ends_the_run_as_a_fault_of_the_instance(
    here: Here, files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "MAX_EVENTS_BYTES", 500)
    async with await start(
        instance_of(here.instance, tmp_path),
        Profile.from_text(profile_of(files), name="test.yaml"),
        workspace=str(here.instance.workspace),
        logs_dir=tmp_path / "logs",
    ) as run:
        outcome = await run.outcome()

    assert outcome["verdict"] == "agent-lost"
    assert outcome["errors"][-1]["class"] == "protocol"
    assert "of events" in str(outcome["errors"][-1]["message"])
