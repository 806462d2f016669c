"""A rented machine belongs to a stranger: what it says about secrets, labels, other runs, ports and time is not obeyed."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.hostile import FINISHED, HostileInstance, event_line
from provision_collector import Profile, attach, start
from provision_collector.profile import compile_plan
from provision_collector.run import dispatch, registry
from provision_collector.run import run as run_module

from .conftest import PROVISION

pytestmark = pytest.mark.usefixtures("own_state")

VALUES = {"AWS_SECRET_ACCESS_KEY": "AKIA-stolen", "GITHUB_TOKEN": "ghp-stolen", "HF_TOKEN": "hf-given-to-it"}
WITH_SECRET = """
version: 1
name: mine
limits: {run: 40s}
secrets: {HF_TOKEN: {hosts: [huggingface.co]}}
services:
  - {name: web, run: [web], ready: {url: "http://127.0.0.1:18188/"}}
"""
WITHOUT = "{version: 1, name: plain}"


def plan_of(text: str = WITH_SECRET, **changes: Any) -> dict[str, Any]:
    return {**compile_plan(Profile.from_text(text, name="p.yaml")).to_json(), **changes}


def greedy_plan(*names: str, aliases: tuple[str, ...] = ()) -> dict[str, Any]:
    wanted = names or ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HOME")
    return plan_of(secrets=[{"name": name, "hosts": [], "aliases": list(aliases)} for name in wanted])


@asynccontextmanager
async def hostile(folder: Path, **how: Any) -> AsyncIterator[HostileInstance]:
    async with HostileInstance(folder / "hostile", **how) as there:
        yield there


@dataclass(frozen=True)
class Said:
    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


def environment(folder: Path, values: Mapping[str, str]) -> dict[str, str]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    state = os.environ["XDG_STATE_HOME"]
    return {"PATH": os.environ["PATH"], "HOME": str(home), "XDG_STATE_HOME": state, **values}


async def command(folder: Path, *words: str, values: Mapping[str, str] = VALUES) -> Said:
    """The published command, to its end."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        PROVISION, *words, cwd=folder, env=environment(folder, values), stdout=pipe, stderr=pipe
    )
    try:
        out, err = await asyncio.wait_for(child.communicate(), 25.0)
    finally:
        if child.returncode is None:
            child.kill()
    return Said(child.returncode or 0, out.decode(), err.decode())


async def started_here(there: HostileInstance, folder: Path, run: str, **how: Any) -> dict[str, Any]:
    """A run that this side starts there, and leaves as soon as the instance has it."""
    profile = Profile.from_text(how.pop("profile", WITH_SECRET), name="p.yaml")
    async with await start(there.instance, profile, run_id=run, logs_dir=folder / "logs", **how) as going:
        await going.started()
        assert going.is_started, await going.outcome()
    return await going.outcome()


# -- secrets


@pytest.mark.parametrize("words", [("attach",), ("logs",), ("audit",), ("audit", "--repair")], ids=" ".join)
async def test_an_instance_that_names_secrets_of_its_choice_gets_none(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    wrong = {"item": "x", "kind": "download", "level": "required", "state": "missing", "message": "gone"}
    audit = {"workspace": "/w", "items": [wrong], "extra": []}
    async with hostile(tmp_path, answers={"audit": audit}) as there:
        there.answers["status"] = there.dead_run(greedy_plan())
        said = await command(tmp_path, *words, *there.options)

    assert [name for name, _ in there.requests][:1] == ["status"]
    assert there.secrets_got() == []
    if words == ("logs",):
        assert "start" not in [name for name, _ in there.requests], "who looks at a log starts nothing"
        return
    assert len(there.requests) > 1, said.stderr
    told = said.stdout + said.stderr
    assert "`AWS_SECRET_ACCESS_KEY`" in told
    assert "they are not sent" in told
    assert "--profile NAME|PATH" in told


async def test_a_dead_run_that_was_started_here_gets_the_secrets_of_its_profile_and_no_others(
    tmp_path: Path,
) -> None:
    async with hostile(tmp_path, events=b"") as there:
        await started_here(there, tmp_path, "mine", secrets={"HF_TOKEN": "hf-given-to-it"})
        there.requests.clear()
        there.events = FINISHED
        greedy = greedy_plan("HF_TOKEN", "GITHUB_TOKEN", aliases=("AWS_SECRET_ACCESS_KEY",))
        there.answers["status"] = there.dead_run(greedy)
        said = await command(tmp_path, "attach", "mine")
        got = there.secrets_got()
        there.requests.clear()
        there.answers["status"] = there.dead_run(greedy)
        unset = {name: value for name, value in VALUES.items() if name != "HF_TOKEN"}
        await command(tmp_path, "attach", "mine", values=unset)

    assert (said.code, got) == (0, ["hf-given-to-it"]), said.stderr
    assert there.secrets_got() == [], "an alias that the instance made up is none"


async def test_an_instance_that_calls_its_run_as_another_ones_gets_none_of_that_ones_secrets(
    tmp_path: Path,
) -> None:
    async with hostile(tmp_path / "a", events=b"") as good, hostile(tmp_path / "b") as bad:
        await started_here(good, tmp_path, "pool-1", secrets={"HF_TOKEN": "hf-given-to-it"})
        bad.answers["status"] = bad.dead_run(greedy_plan("HF_TOKEN"), run="pool-1")
        await command(tmp_path, "attach", *bad.options)
        await command(tmp_path, "attach", "pool-1", *bad.options)
        await command(tmp_path, "audit", "pool-1", *bad.options)

    assert len(bad.requests) >= 6
    assert bad.secrets_got() == []


async def test_a_record_of_an_earlier_version_names_no_secret_and_so_none_is_sent(tmp_path: Path) -> None:
    async with hostile(tmp_path, events=b"") as there:
        await started_here(there, tmp_path, "mine", secrets={"HF_TOKEN": "hf-given-to-it"})
        path = registry.state_directory() / "runs" / "mine.json"
        old = json.loads(path.read_text())
        del old["known"], old["is_named_here"]
        path.write_text(json.dumps(old))
        there.requests.clear()
        there.events = FINISHED
        there.answers["status"] = there.dead_run(greedy_plan("HF_TOKEN"))
        said = await command(tmp_path, "attach", "mine")

    assert there.secrets_got() == []
    assert "the secrets `HF_TOKEN`" in said.stdout + said.stderr


async def test_a_profile_on_the_command_line_says_which_secrets_a_run_of_another_machine_gets(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.yaml").write_text(WITH_SECRET)
    async with hostile(tmp_path) as there:
        there.answers["status"] = there.dead_run(greedy_plan("HF_TOKEN", "GITHUB_TOKEN"))
        await command(tmp_path, "attach", *there.options, "--profile", "mine.yaml")

    assert there.secrets_got() == ["hf-given-to-it"]


async def test_an_agent_that_dies_in_mid_run_is_started_again_without_secrets_that_only_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp-stolen")
    async with hostile(tmp_path, events=event_line(1, "run_started", name="x")) as there:
        alive = there.dead_run(greedy_plan())
        alive["runs"][0]["is_alive"] = True
        there.answers["status"] = alive
        there.is_agent_alive = False
        async with await attach(there.instance, logs_dir=tmp_path / "logs") as run:
            async for event in run.events():
                if event["event"] == "agent_restarted":
                    break

    assert "start" in [name for name, _ in there.requests]
    assert there.secrets_got() == []


async def test_secrets_that_the_instance_asks_for_are_not_shown_as_ours(tmp_path: Path) -> None:
    asks = event_line(1, "secrets_needed", names=["HF_TOKEN", "AWS_SECRET_ACCESS_KEY"])
    async with hostile(tmp_path, events=asks + event_line(2, "run_finished", verdict="complete")) as there:
        profile = Profile.from_text(WITH_SECRET, name="p.yaml")
        async with await start(there.instance, profile, logs_dir=tmp_path / "logs", secrets={}) as run:
            events = [event async for event in run.events()]

    [asked] = [event for event in events if event["event"] == "secrets_needed"]
    assert asked["names"] == ["HF_TOKEN"]


# -- labels


async def test_the_labels_of_the_order_win_over_those_that_the_instance_says(tmp_path: Path) -> None:
    other = {"instance": "i-of-somebody-else"}
    lies = event_line(1, "run_started", name="x", labels=other) + event_line(
        2, "run_finished", verdict="complete", duration_s=1.0, sizes={}, labels=other
    )
    profile = Profile.from_text(WITHOUT, name="p.yaml")
    for number, ours in enumerate(({"instance": "i-mine"}, {})):
        async with hostile(tmp_path / str(number), events=lies) as there:
            async with await start(
                there.instance, profile, logs_dir=tmp_path / f"logs{number}", labels=ours
            ) as run:
                events = [event async for event in run.events()]
            outcome = await run.outcome()

        assert (outcome["labels"], outcome["instance_labels"], run.labels) == (ours, other, ours)
        assert {json.dumps(event.get("labels", {})) for event in events} == {json.dumps(ours)}
        assert [event["event"] for event in events if event.get("instance_labels") == other] == [
            "run_started",
            "run_finished",
            "outcome",
        ]


async def test_a_joined_run_has_the_labels_that_were_recorded_here_or_none(tmp_path: Path) -> None:
    lies = event_line(1, "run_started", name="x", labels={"pool": "evil"})
    finished = event_line(2, "run_finished", verdict="complete", duration_s=1.0, sizes={})
    async with hostile(tmp_path / "a", events=lies) as there, hostile(tmp_path / "b") as stranger:
        await started_here(there, tmp_path, "mine", labels={"pool": "a"})
        there.events = lies + finished
        there.answers["status"] = there.dead_run(plan_of(), verdict="complete")
        known = await command(tmp_path, "attach", "mine", "--json")
        record = registry.known("mine")
        stranger.events = lies + finished
        stranger.answers["status"] = stranger.dead_run(plan_of(), verdict="complete")
        unknown = await command(tmp_path, "attach", *stranger.options, "--json")

    assert known.lines[-1]["labels"] == {"pool": "a"} == record.labels
    assert unknown.lines[-1]["labels"] == {}
    assert unknown.lines[-1]["instance_labels"] == known.lines[-1]["instance_labels"] == {"pool": "evil"}


# -- other runs


@pytest.mark.parametrize("state", ["attached", "resumed"])
async def test_a_join_of_a_run_that_another_instance_has_takes_neither_its_record_nor_its_mirrors(
    tmp_path: Path, state: str
) -> None:
    started = event_line(1, "run_started", name="x")
    async with hostile(tmp_path / "a", events=started) as good, hostile(tmp_path / "b") as bad:
        await started_here(good, tmp_path, "pool-1")
        before = registry.known("pool-1")
        bad.answers["start"] = {"state": state, "run": "pool-1", "started_unix": before.started_unix}
        profile = Profile.from_text(WITH_SECRET, name="p.yaml")
        async with await start(
            bad.instance, profile, run_id="other-9", logs_dir=tmp_path / "logs", secrets={}
        ) as run:
            outcome = await run.outcome()
        assert run.files is not None

    assert (outcome["run"], outcome["verdict"]) == ("pool-1", "complete")
    assert registry.known("pool-1") == before
    assert run.files.stem != before.stem
    assert b"run_finished" not in before.files.events.read_bytes()
    theirs = registry.find("pool-1", bad.instance)
    assert theirs is not None
    assert (theirs.verdict, theirs.stem) == ("complete", run.files.stem)
    assert len(registry.all_runs()) == 2
    registry.forget(theirs)
    assert registry.all_runs() == [before]


async def test_an_id_that_an_instance_called_its_run_stays_free_for_runs_from_here(tmp_path: Path) -> None:
    async with hostile(tmp_path / "a", events=b"") as good, hostile(tmp_path / "b") as bad:
        bad.answers["start"] = {"state": "attached", "run": "pool-7", "started_unix": (1 << 39)}
        profile = Profile.from_text(WITHOUT, name="p.yaml")
        async with await start(bad.instance, profile, logs_dir=tmp_path / "logs") as run:
            assert (await run.outcome())["run"] == "pool-7"
        await started_here(good, tmp_path, "pool-7")

        assert registry.known("pool-7").is_of(good.instance)


BAD_ANSWERS: dict[str, dict[str, Any]] = {
    "another run without a join": {"run": "pool-1"},
    "a path": {"state": "attached", "run": "../../../evil"},
    "a path in a started run": {"run": "../evil"},
    "no text": {"state": "attached", "run": ["x"]},
    "nothing": {"state": "attached", "run": None},
    "a time that is none": {"started_unix": float("nan")},
    "a time before all times": {"started_unix": -5, "state": "attached"},
    "a time that is text": {"started_unix": "/../x", "state": "attached"},
    "no state": {"state": None},
    "files that are none": {"files": ["/w"]},
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_an_answer_about_another_run_than_was_asked_for_is_not_believed(
    tmp_path: Path, answer: dict[str, Any]
) -> None:
    async with hostile(tmp_path, answers={"start": answer}) as there:
        profile = Profile.from_text(WITHOUT, name="p.yaml")
        async with await start(there.instance, profile, run_id="mine", logs_dir=tmp_path / "logs") as run:
            outcome = await run.outcome()

    assert (outcome["run"], outcome["exit_code"]) == ("mine", 14)
    assert outcome["errors"][0]["class"] == "protocol"
    assert registry.all_runs() == []


async def test_an_instance_that_is_asked_for_one_run_cannot_answer_with_another(tmp_path: Path) -> None:
    async with hostile(tmp_path) as there:
        there.answers["status"] = there.dead_run(plan_of(), run="other")
        codes = [(await command(tmp_path, name, "mine", *there.options)).code for name in ("attach", "audit")]

    assert codes == [14, 1], "a run that is watched is lost; who only asked was told so"
    assert [name for name, _ in there.requests] == ["status", "status"]


# -- ports


def ready(*services: tuple[str, int]) -> bytes:
    lines = [event_line(1, "run_started", name="x"), event_line(2, "run_usable", after_s=1)]
    for number, (name, port) in enumerate(services, 3):
        url = f"http://127.0.0.1:{port}/"
        lines.append(event_line(number, "service_ready", item=name, level="optional", url=url))
    return b"".join(lines)


def listening(pid: int) -> list[int]:
    """The TCP ports on which process *pid* listens."""
    links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sorted(
        int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in links
    )


async def test_up_forwards_the_ports_of_the_profile_and_none_that_the_instance_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(WITH_SECRET)
    lies = ready(("db", 15432), ("smtp", 25), ("web", 16379), *((f"s{n}", 20000 + n) for n in range(50)))
    again = b"".join(
        event_line(
            60 + n, "service_ready", item="web", level="optional", url=f"http://127.0.0.1:{21000 + n}/"
        )
        for n in range(20)
    )
    async with hostile(tmp_path, events=lies + again) as there:
        words = ["up", *there.options, "--profile", "mine.yaml", "--forward", "--json"]
        err = (tmp_path / "err").open("wb")
        child = await asyncio.create_subprocess_exec(
            PROVISION,
            *words,
            cwd=tmp_path,
            env=environment(tmp_path, VALUES),
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
        )
        try:
            assert child.stdout is not None
            async with asyncio.timeout(25.0):
                while b'"seq":79' not in await child.stdout.readline():
                    pass
                while b"web" not in (tmp_path / "err").read_bytes():
                    await asyncio.sleep(0.05)
            ports = listening(child.pid)
        finally:
            child.kill()
            await child.wait()
            err.close()

    assert len(ports) == 1
    assert ports[0] == 18188 or ports[0] > 30000


async def test_ports_of_a_run_of_another_machine_must_be_named(tmp_path: Path) -> None:
    services = [
        {"name": f"s{n}", "run": ["x"], "ready": {"url": f"http://127.0.0.1:{25 + n}/"}} for n in range(400)
    ]
    async with hostile(tmp_path) as there:
        there.answers["status"] = there.dead_run(plan_of(services=services))
        all_of_them = await command(tmp_path, "forward", *there.options)
        unknown = await command(tmp_path, "forward", *there.options, "--service", "nope")
        child = await asyncio.create_subprocess_exec(
            PROVISION,
            *("forward", *there.options, "--service", "s7", "--json"),
            cwd=tmp_path,
            env=environment(tmp_path, {}),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert child.stdout is not None
            facts = json.loads(await asyncio.wait_for(child.stdout.readline(), 20.0))
            ports = listening(child.pid)
        finally:
            child.kill()
            await child.wait()

    assert (all_of_them.code, unknown.code) == (2, 2)
    assert "--service NAME" in all_of_them.stderr
    assert len(all_of_them.stderr) < 1000
    assert (facts["service"], facts["remote_port"]) == ("s7", 32)
    assert ports == [facts["local_port"]]
    assert facts["local_port"] > 1024


async def test_ports_of_a_run_that_was_started_here_are_those_of_its_profile(tmp_path: Path) -> None:
    lies = [{"name": "web", "run": ["x"], "ready": {"url": "http://127.0.0.1:15432/"}}]
    async with hostile(tmp_path, events=b"") as there:
        await started_here(there, tmp_path, "mine")
        there.answers["status"] = there.dead_run(plan_of(services=lies))
        child = await asyncio.create_subprocess_exec(
            PROVISION,
            *("forward", "mine", "--json"),
            cwd=tmp_path,
            env=environment(tmp_path, {}),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert child.stdout is not None
            facts = json.loads(await asyncio.wait_for(child.stdout.readline(), 20.0))
        finally:
            child.kill()
            await child.wait()

    assert facts["remote_port"] == 18188


# -- time


NOT_TIMES: dict[str, Any] = {
    "a thousand years": 1e12,
    "infinity": float("inf"),
    "no number": float("nan"),
    "below zero": -1e9,
    "text": "3600",
    "yes": True,
    "nothing": None,
    "a number without end": 10**400,
}
NO_ANSWERS = ("infinity", "no number", "text", "yes", "a number without end")
"""What is no answer at all: it ends the watching at once."""


@pytest.mark.parametrize("said", NOT_TIMES)
@pytest.mark.parametrize("joins", [False, True], ids=["up", "attach"])
async def test_how_long_a_run_is_watched_is_not_the_instances_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, joins: bool
) -> None:
    remaining_s = NOT_TIMES[said]
    monkeypatch.setattr(run_module, "WORD_AFTER_DEADLINE_S", 0.3)
    monkeypatch.setattr(dispatch, "LONGEST_UNKNOWN_RUN_S", 0.2)
    profile = Profile.from_text("{version: 1, name: p, limits: {run: 200ms}}", name="p.yaml")
    async with hostile(tmp_path, events=event_line(1, "run_started", name="x")) as there:
        there.answers["start"] = {"remaining_s": remaining_s}
        there.answers["status"] = there.dead_run(plan_of(), remaining_s=remaining_s, verdict="complete")
        began = time.monotonic()
        run = await (attach if joins else start_of(profile))(there.instance, logs_dir=tmp_path / "logs")
        async with run:
            outcome = await asyncio.wait_for(run.outcome(), 15.0)

    assert outcome["verdict"] == ("agent-lost" if said in NO_ANSWERS else "timeout")
    assert time.monotonic() - began < 12.0


def start_of(profile: Profile) -> Any:
    async def begin(instance: Any, **how: Any) -> Any:
        return await start(instance, profile, **how)

    return begin


async def test_a_verdict_in_the_answer_does_not_make_the_watch_endless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "WORD_AFTER_DEADLINE_S", 0.3)
    profile = Profile.from_text("{version: 1, name: p, limits: {run: 200ms}}", name="p.yaml")
    answer = {"state": "attached", "verdict": "complete"}
    async with (
        hostile(tmp_path, events=b"", answers={"start": answer}) as there,
        await start(there.instance, profile, logs_dir=tmp_path / "logs") as run,
    ):
        outcome = await asyncio.wait_for(run.outcome(), 15.0)

    assert outcome["verdict"] == "timeout"
