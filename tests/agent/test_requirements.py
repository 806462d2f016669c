"""`require`: an instance that falls short is refused with its figures, one that does not never is."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from harness.agent_runs import AgentRuns
from harness.environments import Surroundings
from harness.file_server import Content, Fault, FileServer
from provision_agent.contract.failures import next_of_kinds
from provision_agent.contract.plan import Download, Plan
from provision_agent.contract.plan_parts import Bound, Compared
from provision_agent.contract.plan_require import Require
from provision_agent.downloads import line_speed
from provision_agent.host import disk_speed
from provision_agent.run import requirements
from provision_agent.run.tally import Tally

GIB = 1 << 30
MODEL = Content.safetensors(8 << 20)
WANTED = 1_000_000
GOOD_FACTS: dict[str, Any] = {
    "gpus": [{"name": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9", "memory_bytes": 24564 << 20}],
    "memory_bytes": 31 * GIB,
}
SMI = """#!/bin/sh
case "$1" in
--query-gpu=pci.bus_id,memory.total*) echo "{use}";;
--query-gpu=pci.bus_id,ecc*) echo "{counted}";;
--query-remapped-rows=*) echo "{rows}";;
esac
exit {status}
"""
WHOLE = {
    "use": "00000000:41:00.0, 24564, 18",
    "counted": "00000000:41:00.0, 0, No",
    "rows": "00000000:41:00.0, 0, 0",
    "status": "0",
}
LOG = "[   12.5] nvidia: loading out-of-tree module\n[  900.1] NVRM: Xid (PCI:0000:41:00): {number}, pid=77, name=python, Ch 8\n"


class Here(NamedTuple):
    """A machine that is played: its programs, its workspace, and a server to fetch from."""

    programs: Path
    around: Surroundings
    server: FileServer

    def smi(self, **changed: str) -> None:
        """nvidia-smi says that all is well, but for what is *changed*."""
        self.play("nvidia-smi", SMI.format(**{**WHOLE, **changed}))

    def log(self, number: int) -> None:
        """The kernel's log has that Xid."""
        (self.programs / "log").write_text(LOG.format(number=number))
        self.play("dmesg", f"#!/bin/sh\ncat {self.programs}/log\n")

    def play(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def holds(self, require: Require, facts: dict[str, Any] | None = None) -> bool:
        """Whether a run of a plan with *require* would begin."""
        plan = Plan("p", require=require, downloads=(Download(url=self.server.url("/m"), path="m"),))
        about = (
            GOOD_FACTS if facts is None else facts,
            self.around.context,
            Tally(self.around.context.report),
        )
        return requirements.hold(plan, *about, {})

    @property
    def refusals(self) -> list[tuple[str, str]]:
        return [(each["item"], each["message"]) for each in self.around.of("preflight_failed")]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(line_speed, "TRY_S", 1.6)
    monkeypatch.setattr(line_speed, "WINDOW_S", 0.8)
    monkeypatch.setattr(line_speed, "_LEAST_S", 0.2)
    with FileServer() as server:
        server.add("/m", MODEL)
        made = Here(programs, Surroundings(str(tmp_path / "w")), server)
        made.smi()
        made.play("dmesg", "#!/bin/sh\n")
        yield made


REQUIRED = Require(
    gpu_name=("RTX 4090",),
    gpu_memory=Bound(">=", 24 * GIB),
    gpu_count=(Compared(">=", "1"),),
    gpu_capability=(Compared(">=", "8.9"),),
    line_bytes_per_s=WANTED,
    disk_write_bytes_per_s=WANTED,
    gpu_free=True,
    gpu_errors="none",
    memory_bytes=32 * GIB,
)


def slow_line(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.server.line_bytes_per_s = WANTED // 8


def silent_line(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.server.set_faults("/m", Fault(stall_after=2048))


def slow_disk(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_speed, "WRITE_S", 0.5)
    monkeypatch.setattr(requirements, "_ALONE_S", 2.0)
    real, paused = os.write, threading.Event()

    def write(descriptor: int, data: bytes) -> int:
        if len(data) == disk_speed.BLOCK_BYTES:
            paused.wait(0.6)  # 7 MB/s
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)


def hanging_disk(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    hung = threading.Event()
    monkeypatch.setattr(requirements, "_DISK_S", 1.0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: hung.wait(20.0))


def other_facts(**changed: Any) -> Callable[[Here, pytest.MonkeyPatch], dict[str, Any]]:
    def played(here: Here, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        return {**GOOD_FACTS, **changed}

    return played


def smi_says(**changed: str) -> Callable[[Here, pytest.MonkeyPatch], None]:
    return lambda here, monkeypatch: here.smi(**changed)


SMALL_CARD = {"name": "NVIDIA GeForce RTX 3060", "compute_capability": "8.6", "memory_bytes": 12288 << 20}
LEMONS: dict[str, tuple[Callable[[Here, pytest.MonkeyPatch], Any], str, str]] = {
    "slow line": (slow_line, "line", "8 Mbit/s are required"),
    "silent line": (silent_line, "line", "from 127.0.0.1; 8 Mbit/s are required"),
    "slow disk": (slow_disk, "disk_write", "10.0 MB/s are required"),
    "hanging disk": (
        hanging_disk,
        "disk_write",
        "the disk hangs: not done after 1 s; 10.0 MB/s are required",
    ),
    "wrong card": (other_facts(gpus=[SMALL_CARD]), "gpu_name", "RTX 3060, not `RTX 4090`"),
    "no card": (other_facts(gpus=[]), "gpu_count", "the number of GPUs is 0, not >= 1"),
    "little memory": (
        other_facts(memory_bytes=15 * GIB),
        "memory",
        "the memory is 15 GiB; 32 GiB are required",
    ),
    "taken memory": (
        smi_says(use="00000000:41:00.0, 24564, 22000"),
        "gpu_free",
        "somebody else has 21.48 GiB of 23.99 GiB of card 00000000:41:00.0",
    ),
    "ECC errors": (
        smi_says(counted="00000000:41:00.0, 3, No"),
        "gpu_errors",
        "card 00000000:41:00.0: 3 ECC errors that could not be corrected",
    ),
    "rows that cannot be replaced": (
        smi_says(rows="00000000:41:00.0, 0, 1"),
        "gpu_errors",
        "bad memory rows could not be replaced",
    ),
    "lost card": (
        smi_says(use="Unable to determine the device handle for GPU 0000:41:00.0: GPU is lost.", status="15"),
        "gpu_errors",
        "GPU is lost",
    ),
    "fell off the bus": (
        lambda here, monkeypatch: here.log(79),
        "gpu_errors",
        "kernel log: Xid 79 of card 0000:41:00, 1 times: it fell off the bus",
    ),
}


@pytest.mark.parametrize("name", LEMONS)
def test_an_instance_that_falls_short_is_refused_with_its_figures(
    name: str, machine: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, requirement, words = LEMONS[name]
    monkeypatch.setattr(requirements, "_ALONE_S", 600.0)  # once is enough here
    facts = play(machine, monkeypatch)

    assert not machine.holds(replace(REQUIRED, disk_write_bytes_per_s=10 * WANTED), facts)

    told = dict(machine.refusals)
    assert words in told[f"require.{requirement}"], told
    [measured] = machine.around.of("instance_measured")
    assert measured["duration_s"] < 60
    assert {each["class"] for each in machine.around.of("preflight_failed")} == {"unfit"}
    assert next_of_kinds(["unfit"]) == "replace_instance"


def test_an_instance_that_is_what_is_required_goes_on_and_tells_its_figures(machine: Here) -> None:
    assert machine.holds(REQUIRED)

    [measured] = machine.around.of("instance_measured")
    assert measured["line_bytes_per_s"] >= WANTED
    assert measured["line_host"] == "127.0.0.1"
    assert measured["disk_write_bytes_per_s"] >= WANTED
    assert (measured["memory_bytes"], measured["gpu_errors"]) == (31 * GIB, [])
    assert machine.refusals == []
    assert os.listdir(machine.around.workspace) == [".provision"]  # nothing of the measuring is left


def test_what_a_program_did_wrong_is_no_fault_of_the_card(machine: Here) -> None:
    machine.log(31)

    assert machine.holds(Require(gpu_errors="none"))


def test_the_errors_of_a_card_of_somebody_else_do_not_count(machine: Here) -> None:
    machine.log(79)
    machine.smi(use="00000000:81:00.0, 24564, 18")

    assert machine.holds(Require(gpu_errors="none"))


def test_the_line_is_not_blamed_for_one_slow_source(machine: Here) -> None:
    with FileServer("127.0.0.2", line_bytes_per_s=WANTED // 8) as slow:
        slow.add("/m", MODEL)
        item = Download(url=slow.url("/m"), mirrors=(machine.server.url("/m"),), path="m")
        plan = Plan("p", require=Require(line_bytes_per_s=WANTED), downloads=(item,))
        context = machine.around.context

        assert requirements.hold(plan, GOOD_FACTS, context, Tally(context.report), {})

    assert machine.around.of("instance_measured")[0]["line_host"] == "127.0.0.1"


def test_a_source_that_refuses_says_nothing_of_the_line(machine: Here) -> None:
    machine.server.set_faults("/m", Fault(status=503))

    assert machine.holds(Require(line_bytes_per_s=WANTED))

    [warning] = machine.around.of("warning")
    assert warning["message"].startswith("how fast the line is is not known: ")


def test_the_line_can_be_measured_against_a_named_file(machine: Here) -> None:
    machine.server.add("/100MB.bin", MODEL)

    assert machine.holds(Require(line_bytes_per_s=WANTED, line_from=machine.server.url("/100MB.bin")))

    assert machine.server.seen("/100MB.bin")
    assert not machine.server.seen("/m")


def test_speeds_are_not_measured_again_while_the_machine_stays_up(machine: Here) -> None:
    require = Require(line_bytes_per_s=WANTED, disk_write_bytes_per_s=WANTED)
    assert machine.holds(require)
    asked = len(machine.server.seen("/m"))

    assert machine.holds(require)

    assert len(machine.server.seen("/m")) == asked
    assert machine.around.of("instance_measured")[1]["earlier"] is True


def test_a_run_on_an_unfit_instance_fails_before_a_large_byte(tmp_path: Path) -> None:
    with FileServer() as server:
        server.add("/m", MODEL)
        downloads = [{"url": server.url("/m"), "path": "m.bin", "level": "critical"}]

        told = AgentRuns(tmp_path).run({"require": {"memory_bytes": 1 << 50}, "downloads": downloads})

        assert told.verdict == "failed"
        assert [each["item"] for each in told.of("preflight_failed")] == ["require.memory"]
        assert server.bytes_sent() == 0


def good_ones(machine: Here, seeds: range) -> list[int]:
    """The seeds whose instance, which is good in a way of its own, was refused."""
    refused = []
    for seed in seeds:
        chance = random.Random(seed)
        machine.server.line_bytes_per_s = round(WANTED * chance.uniform(4, 40))
        machine.server.set_faults(
            "/m",
            Fault(delay_s=chance.uniform(0, 0.1), times=chance.randrange(4)),
            Fault(reset_after=1 << 16, times=chance.randrange(3)),
        )
        used = chance.randrange(900)
        machine.smi(use=f"00000000:41:00.0, 24564, {used}", counted="00000000:41:00.0, [N/A], [N/A]", rows="")
        machine.log(chance.choice([13, 31, 43, 45, 63]))
        facts = {**GOOD_FACTS, "memory_bytes": round(32 * GIB * chance.uniform(0.94, 1.2))}
        if not machine.holds(Require(**{**vars(REQUIRED), "within_s": 60.0 + seed}), facts):  # measured anew
            refused.append(seed)
    return refused


def test_good_instances_are_not_refused(machine: Here) -> None:
    assert good_ones(machine, range(3)) == [], machine.refusals


@pytest.mark.soak
def test_none_of_fifty_good_instances_is_refused(machine: Here) -> None:
    assert good_ones(machine, range(50)) == [], machine.refusals
