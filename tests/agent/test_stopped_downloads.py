"""A run that is stopped in mid-download, and the one after it: its words and figures."""

from __future__ import annotations

from pathlib import Path

from harness.agent_runs import AgentRuns, finished, until
from harness.file_server import Content, Fault, FileServer

MIB = 1 << 20


def test_what_a_stop_cut_short_has_not_failed_and_only_its_rest_is_still_to_be_fetched(
    tmp_path: Path,
) -> None:
    runs = AgentRuns(tmp_path)
    with FileServer() as server:
        server.add("/m.safetensors", Content.safetensors(8 * MIB), Fault(slow_after=MIB, bytes_per_s=1000))
        plan = {"downloads": [{"url": server.url("/m.safetensors"), "path": "models/"}]}
        events = runs.start(plan)
        journal = runs.workspace / "models/m.safetensors.part.journal"
        until(lambda: journal.exists() and journal.read_text().count("\n") > 1)

        runs.ask("stop", {})
        stopped = finished(events)
        landed = landed_bytes(journal)
        server.set_faults("/m.safetensors")
        again = runs.run(plan)

    assert stopped.verdict == "cancelled"
    assert stopped.of("step_finished")[0]["failed"] == 0
    assert not stopped.of("download_failed")
    assert 0 < landed < 8 * MIB
    assert again.of("preflight_passed")[0]["bytes_to_fetch"] == 8 * MIB - landed
    assert again.verdict == "complete"


def landed_bytes(journal: Path) -> int:
    """What the journal of a part says; its spans do not overlap."""
    _, *lines, _torn = journal.read_text().split("\n")
    return sum(int(line.split()[1]) for line in lines if line[0].isdigit())
