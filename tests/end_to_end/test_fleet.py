"""`provision fleet` against several real instances: verdicts, the canary, equal failures, going on after a kill."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.file_server import Fault, FileServer
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import Child, Finished, Here, eventually
from .test_up import free_port, profile_of


@pytest.fixture
def instances(tmp_path: Path, instance: EmbeddedInstance) -> Iterator[list[EmbeddedInstance]]:
    """Three instances; the first is that of `here`."""
    others = [EmbeddedInstance(tmp_path / f"other{number}", server="sshd") for number in range(2)]
    for other in others:
        other.start()
    yield [instance, *others]
    for other in others:
        other.switch_off()


def inventory(here: Here, instances: list[EmbeddedInstance], *more: str) -> str:
    """A file that names the instances, each with its own key."""
    items = [
        f"- {{host: '{i.user}@{i.host}:{i.port}', key: {i.key_path}, instance_id: i-{number}, labels: {{zone: z{number}}}}}"
        for number, i in enumerate(instances)
    ]
    return here.profile("\n".join([*items, *more]) + "\n", "pool.yaml")


def words(here: Here, file: str, profile: str, *more: str) -> list[str]:
    return [
        "fleet",
        "up",
        file,
        "--profile",
        profile,
        "--workspace",
        "~/work",
        "--boot-grace",
        "2s",
        "--json",
        *more,
    ]


def last(done: Finished) -> dict[str, Any]:
    assert done.lines, done.stderr
    assert done.lines[-1]["event"] == "fleet_finished", done.stdout[-500:]
    return done.lines[-1]


def states(done: Finished) -> list[str]:
    return [member["state"] for member in last(done)["members"]]


def test_every_instance_gets_its_verdict_and_the_fleet_the_worst(
    here: Here, instances: list[EmbeddedInstance], files: FileServer
) -> None:
    off = f"- {{host: '127.0.0.1:{free_port()}', instance_id: i-off}}"
    file = inventory(here, instances, off)
    hook = here.folder / "hook.sh"
    hook.write_text(
        f'#!/bin/sh\ncat >/dev/null\necho "$PROVISION_HOOK $PROVISION_VERDICT" >> {here.folder}/hooks\n'
    )
    hook.chmod(0o755)
    profile = here.profile(profile_of(files))

    done = here.run(*words(here, file, profile, "--on-usable", str(hook), "--on-finished", str(hook)))

    assert states(done) == ["complete", "complete", "complete", "unreachable"], done.stderr
    assert (done.code, last(done)["exit_code"]) == (10, 10)
    outcomes = done.named("outcome")
    assert sorted(str(outcome["labels"].get("zone")) for outcome in outcomes) == ["None", "z0", "z1", "z2"]
    assert {outcome["labels"]["fleet"] for outcome in outcomes} == {"pool"}
    told = sorted((here.folder / "hooks").read_text().splitlines())
    assert told == ["finished complete"] * 3 + ["finished unreachable"] + ["usable "] * 3
    table = here.run("fleet", "status").stdout
    assert table.count("complete") == 3
    assert "fix_address" in table

    cards = here.run("hosts", "scores").stdout
    assert "i-0 (127.0.0.1:" in cards
    assert cards.count("1 complete, usable after") == 3
    assert here.run("hosts", "forget", "i-0").code == 0
    assert "i-0 (127.0.0.1:" not in here.run("hosts", "scores").stdout

    again = here.run(*words(here, file, profile))

    assert states(again) == ["complete", "complete", "complete", "unreachable"]
    assert len(again.named("run_accepted")) == 1, "what is complete is left alone"


def test_a_limit_for_each_source_host_sends_the_fleet_in_waves(
    here: Here, instances: list[EmbeddedInstance], files: FileServer
) -> None:
    profile = here.profile(profile_of(files))

    done = here.run(*words(here, inventory(here, instances[:2]), profile, "--per-source-host", "1"))

    assert states(done) == ["complete", "complete"]
    told = [(line["event"], line.get("step"), line["host"]) for line in done.lines if "host" in line]
    first = next(host for event, _, host in told if event == "run_accepted")
    over = told.index(("step_finished", "downloads", first))
    begun = [at for at, (event, _, host) in enumerate(told) if event == "run_accepted" and host != first]
    assert min(begun) > over, "the second begins when the first has fetched all"


def test_a_bad_canary_holds_the_others(
    here: Here, instances: list[EmbeddedInstance], files: FileServer
) -> None:
    profile = here.profile(profile_of(files))
    files.set_faults("/critical.safetensors", Fault(status=404))

    done = here.run(*words(here, inventory(here, instances), profile, "--canary", "1"))

    assert states(done) == ["failed", "held", "held"]
    assert done.code == 1
    assert "the canary" in done.stderr
    assert len(done.named("run_accepted")) == 1
    files.set_faults("/critical.safetensors")

    mended = here.run(*words(here, inventory(here, instances), profile, "--canary", "1"))

    assert (mended.code, states(mended)) == (0, ["complete"] * 3), mended.stderr


def test_equal_failures_stop_the_rest(
    here: Here, instances: list[EmbeddedInstance], files: FileServer
) -> None:
    profile = here.profile(profile_of(files))
    files.set_faults("/critical.safetensors", Fault(status=404))

    done = here.run(*words(here, inventory(here, instances), profile, "--parallel", "1", "--stop-after", "2"))

    assert states(done) == ["failed", "failed", "held"]
    assert (
        last(done)["held_because"]
        == "2 instances failed alike: failed: not_found models/critical.safetensors"
    )


def test_a_killed_fleet_is_taken_up_again_with_the_same_runs(
    here: Here, instances: list[EmbeddedInstance], files: FileServer
) -> None:
    profile = here.profile(profile_of(files))
    fault = Fault(slow_after=1 << 16, bytes_per_s=100_000)
    files.set_faults("/required.safetensors", fault)
    hook = teller(here)
    call = words(here, inventory(here, instances), profile, "--on-usable", hook, "--on-finished", hook)
    child = here.spawn(*call)
    eventually(lambda: here.said(child).count('"run_usable"') == 3 and len(told(here)) == 3)
    second = here.run(*call)
    kill(child)
    before = [
        json.loads(line)["run"] for line in here.run("fleet", "status", "pool", "--json").stdout.splitlines()
    ]
    fault.bytes_per_s = None

    done = here.run(*call)

    assert second.code == 2
    assert "another `provision fleet up`" in second.stderr
    assert (done.code, states(done)) == (0, ["complete"] * 3), done.stderr
    assert [member["run"] for member in last(done)["members"]] == before
    assert sorted(told(here)) == sorted(
        f"{run}:{kind}" for run in before for kind in ("usable:0", "finished:1")
    )


def test_what_a_killed_fleet_still_owed_its_hooks_is_told_by_the_next_under_the_same_key(
    here: Here, instances: list[EmbeddedInstance], files: FileServer
) -> None:
    profile = here.profile(profile_of(files))
    call = words(here, inventory(here, instances[:2]), profile, "--on-finished", teller(here, waits=True))
    child = here.spawn(*call)
    eventually(lambda: len(told(here)) == 2)
    eventually(lambda: here.run("fleet", "status", "pool", "--json").stdout.count('"complete"') == 2)
    kill(child)  # the runs are over, and nobody knows whether the hooks have come to their end
    first = told(here)
    (here.folder / "go").touch()

    again = here.run(*call)
    assert (again.code, again.named("run_accepted")) == (0, []), again.stderr
    assert sorted(told(here)) == sorted(first * 2), "once more, with the keys of before"
    assert here.run(*call).code == 0
    assert len(told(here)) == 4, "what was told stays told"


def teller(here: Here, *, waits: bool = False) -> str:
    """A hook that writes down its key; one that waits ends when the file `go` is there."""
    script = here.folder / "teller.sh"
    wait = f"for i in $(seq 200); do [ -e {here.folder}/go ] && exit; sleep 0.1; done\n" if waits else ""
    script.write_text(f'#!/bin/sh\ncat > /dev/null\necho "$PROVISION_KEY" >> {here.folder}/told\n{wait}')
    script.chmod(0o755)
    return str(script)


def told(here: Here) -> list[str]:
    path = here.folder / "told"
    return path.read_text().splitlines() if path.exists() else []


def kill(child: Child) -> None:
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def test_ctrl_c_leaves_the_runs_going(
    here: Here, instances: list[EmbeddedInstance], files: FileServer
) -> None:
    profile = here.profile(profile_of(files))
    fault = Fault(slow_after=1 << 16, bytes_per_s=100_000)
    files.set_faults("/required.safetensors", fault)
    call = words(here, inventory(here, instances[:1]), profile)
    child = here.spawn(*call)
    eventually(lambda: '"run_usable"' in here.said(child))
    os.kill(child.pid, signal.SIGINT)
    left = here.finish(child)
    fault.bytes_per_s = None

    assert left.code == 130
    assert "the same command takes them up again" in left.stderr
    assert here.run(*call).code == 0


def test_the_file_may_have_one_address_per_line_and_says_what_is_wrong_with_it(here: Here) -> None:
    profile = here.profile("version: 1\nname: x\nfiles: [{path: a, content: b}]\n")
    plain = here.profile(f"# mine\n127.0.0.1:{free_port()}\nroot@[::1]:{free_port()}  # six\n", "plain.txt")
    assert states(here.run(*words(here, plain, profile))) == ["unreachable", "unreachable"]
    for text, why in {
        "- {hots: x}\n": "item 1 is no instance",
        "": "there is no instance in",
        "a b c\n": "is not an address",
        "1.2.3.4:22\n1.2.3.4:22\n": "named twice",
    }.items():
        done = here.run(*words(here, here.profile(text, "wrong.txt"), profile))
        assert (done.code, why in done.stderr) == (2, True), done.stderr
