"""Tokens that people have set: without an entry in a profile they go to their own host, when it refuses without them, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.content import Content
from harness.elsewhere import Elsewhere
from harness.file_server import Fault, FileServer, make_certificate
from harness.hostile import HostileInstance, event_line
from provision_agent.contract.findings import WhoamiAnswer
from provision_collector import Profile, Run, attach, start
from provision_collector.cli import main
from provision_collector.planning.token_owner import judged
from provision_collector.profile import compile_plan

from .conftest import Finished, Here

TOKEN = "hf_TokenOfTheEnvironment0123456789"
CLOSED = "http://127.0.0.1:9"
HUB = "huggingface.co"


@dataclass
class Hub:
    """The model hub under its own name, for whoever has `environment`."""

    server: FileServer
    way: Elsewhere
    environment: dict[str, str]

    def add(self, path: str, *, gated: bool = False) -> str:
        """A file, which only `TOKEN` opens if it is *gated*; its source as profiles write it."""
        content = Content.safetensors(1 << 20, seed=len(path))
        refused = Fault(
            status=401,
            headers={"X-Error-Code": "GatedRepo"},
            unless_header=("Authorization", f"Bearer {TOKEN}"),
        )
        self.server.add(f"/{path.replace(':', '/resolve/main/')}", content, *([refused] if gated else []))
        return f"hf://{path.replace(':', '/')}"

    @property
    def tokens_seen(self) -> set[str]:
        """Every authorization that reached it."""
        found = (request.headers.get("authorization") for request in self.server.requests)
        return {each for each in found if each is not None}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "tls"
    folder.mkdir()
    certificate = make_certificate(str(folder), HUB)
    with FileServer("127.0.0.1", certificate=certificate) as server:
        way = Elsewhere({HUB: server.port})
        yield Hub(server, way, way.environment(certificate))
        way.close()


@pytest.fixture
def instance_environment(hub: Hub) -> dict[str, str]:
    """The instance reaches the hub."""
    return hub.environment


def profile_of(*urls: str, more: str = "") -> str:
    lines = (
        f'  - {{url: "{url}", path: m/{number}.safetensors, level: critical}}'
        for number, url in enumerate(urls)
    )
    return "\n".join(["version: 1", "name: hub", "limits: {run: 60s}", "downloads:", *lines, more])


def leaks(here: Here) -> list[Path]:
    """Files of either side that hold the token."""
    places = [here.folder / "logs", here.folder / "state", here.instance.workspace]
    files = (
        file for place in places for file in place.rglob("*") if file.is_file() and not file.is_symlink()
    )
    return [file for file in files if TOKEN.encode() in file.read_bytes()]


def asked_for(here: Here) -> list[list[str]]:
    return [event["names"] for event in here.agent_events("s") if event["event"] == "secrets_needed"]


def up(here: Here, hub: Hub, text: str, *words: str, **environment: str) -> Finished:
    """A run whose own side reaches the hub too, unless *environment* says otherwise."""
    return here.up(
        here.profile(text), "--run-id", "s", *words, environment={**hub.environment, **environment}
    )


def test_a_token_that_is_set_opens_a_gated_file_without_an_entry_in_the_profile(here: Here, hub: Hub) -> None:
    text = profile_of(hub.add("o/open:a.safetensors"), hub.add("o/gated:b.safetensors", gated=True))
    done = up(here, hub, text, HF_TOKEN=TOKEN)

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout + done.stderr
    assert hub.tokens_seen == {f"Bearer {TOKEN}"}
    assert asked_for(here) == [], "it was asked from here before the start"
    assert leaks(here) == []


def test_a_token_stays_here_while_nothing_is_refused_without_it(here: Here, hub: Hub) -> None:
    done = up(here, hub, profile_of(hub.add("o/open:a.safetensors")), HF_TOKEN=TOKEN)

    assert done.code == 0, done.stdout + done.stderr
    assert hub.tokens_seen == set()
    assert asked_for(here) == []


def test_an_instance_that_is_refused_asks_for_the_token_where_this_side_cannot_ask(
    here: Here, hub: Hub
) -> None:
    text = profile_of(hub.add("o/gated:b.safetensors", gated=True))
    done = up(here, hub, text, HF_TOKEN=TOKEN, https_proxy=CLOSED)

    assert (done.code, done.outcome["verdict"]) == (0, "complete"), done.stdout + done.stderr
    assert asked_for(here) == [["HF_TOKEN"]]
    assert leaks(here) == []
    assert not here.remote("s", "secrets.pipe").exists()


def test_no_default_secrets_switches_them_off(here: Here, hub: Hub) -> None:
    text = profile_of(hub.add("o/gated:b.safetensors", gated=True))
    done = up(here, hub, text, "--no-default-secrets", HF_TOKEN=TOKEN)

    assert (done.code, done.outcome["errors"][0]["class"]) == (1, "gated"), done.stdout
    assert hub.tokens_seen == set()


def test_a_token_that_is_wanted_and_not_set_is_named_when_a_file_is_refused_and_not_before(
    here: Here, hub: Hub
) -> None:
    done = up(here, hub, profile_of(hub.add("o/gated:b.safetensors", gated=True)))
    fine = here.up(here.profile(profile_of(hub.add("o/open:a.safetensors"))), "--run-id", "t")

    assert (done.code, fine.code) == (1, 0), done.stdout + fine.stdout
    assert asked_for(here) == [["HF_TOKEN"]]
    assert "not set" not in done.stderr + fine.stderr
    assert fine.outcome["warnings"] == []


def test_plan_says_which_token_would_go_where(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in hub.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, gated in (("gated", True), ("open", False)):
        text = profile_of(hub.add(f"o/{name}:a.safetensors", gated=gated))
        (tmp_path / f"{name}.yaml").write_text(text)

    def planned(name: str, *words: str) -> str:
        try:
            main(["plan", str(tmp_path / f"{name}.yaml"), *words])
        except SystemExit as left:
            assert not left.code
        return capsys.readouterr().out

    hash_without = json.loads(planned("gated", "--json", "--offline"))["plan_hash"]
    token = tmp_path / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text(f"{TOKEN}\n")
    facts = json.loads(planned("gated", "--json"))

    said = f"HF_TOKEN (from {token}):"
    assert f"{said} goes to {HUB} if something is refused there without it" in planned("gated", "--offline")
    assert f"{said} goes to the instance, and from there to {HUB}" in planned("gated")
    assert f"{said} stays here: nothing was refused on {HUB} without it" in planned("open")
    assert facts["default_secrets"][0]["is_wanted"] is True
    assert facts["plan_hash"] == hash_without, "whether a value is set is no part of the work"
    assert "HF_TOKEN" not in planned("gated", "--no-default-secrets", "--offline")


# -- whom a token belongs to


def owner_of(role: str) -> Content:
    access = {
        "displayName": "laptop",
        "role": role,
        "fineGrained": {"canReadGatedRepos": False, "scoped": []},
    }
    auth = {"type": "access_token", "accessToken": access}
    return Content.of(json.dumps({"type": "user", "name": "alice", "auth": auth}).encode())


TOLD = {
    "valid": (WhoamiAnswer("valid", HUB, owner="alice", kind="read"), "HF_TOKEN belongs to `alice` (read)"),
    "invalid": (
        WhoamiAnswer("invalid", HUB, "it answered 401"),
        "HF_TOKEN is wrong or has expired: it answered 401",
    ),
    "other_kind": (
        WhoamiAnswer("other_kind", HUB, owner="alice", kind="fineGrained", name="x"),
        "HF_TOKEN belongs to `alice`, and its token `x` (fine-grained) reads no gated and no private repository",
    ),
    "unreachable": (
        WhoamiAnswer("unreachable", HUB, "no answer"),
        "whom HF_TOKEN belongs to is not known: no answer",
    ),
}


@pytest.mark.parametrize("state", TOLD)
def test_each_state_of_a_token_has_its_own_words_and_what_to_do(state: str) -> None:
    answer, said = TOLD[state]
    owner = judged("HF_TOKEN", answer)

    assert (owner.state, owner.message) == (state, said)
    assert bool(owner.hint) == (state != "valid")


def test_check_online_asks_whom_the_token_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "p.yaml").write_text(profile_of("hf://o/r/a.safetensors"))
    with FileServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url("").rstrip("/"))
        server.add("/o/r/resolve/main/a.safetensors", Content.safetensors(1 << 20))
        server.add("/api/whoami-v2", owner_of("fineGrained"))
        with pytest.raises(SystemExit) as left:
            main(["check", str(tmp_path / "p.yaml"), "--online", "--json"])
        facts = json.loads(capsys.readouterr().out)

    assert (left.value.code, facts["sources"][0]["state"]) == (0, "ok")
    assert [(token["name"], token["state"]) for token in facts["tokens"]] == [("HF_TOKEN", "other_kind")]
    assert TOKEN not in json.dumps(facts)


def test_doctor_says_whom_the_token_belongs_to_and_the_instance_never_sees_it(
    here: Here, tmp_path: Path
) -> None:
    with FileServer() as server:
        server.add("/api/whoami-v2", owner_of("write"))
        environment = {"HF_ENDPOINT": server.url("").rstrip("/"), "HF_TOKEN": TOKEN}
        done = here.run("doctor", *here.connection(), environment=environment)

    assert "token      HF_TOKEN belongs to `alice` (write `laptop`)" in done.stdout, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert leaks(here) == []


# -- an instance is a stranger

ASKS = event_line(1, "run_started", name="x") + event_line(
    2, "secrets_needed", names=["HF_TOKEN", "GITHUB_TOKEN"]
)
VALUES = {"HF_TOKEN": TOKEN, "GITHUB_TOKEN": "ghp-stolen"}
PLAIN = "{version: 1, name: plain, downloads: [{url: 'https://example.org/a', path: a}]}"
ON_HUB = "{version: 1, name: hub, downloads: [{url: 'hf://o/r/a', path: a}]}"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("https_proxy", CLOSED)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("own_state", "no_network")
async def test_an_instance_that_asks_gets_the_token_of_the_plans_hosts_and_no_other(tmp_path: Path) -> None:
    async with HostileInstance(tmp_path / "a", events=ASKS) as there:
        profile = Profile.from_text(ON_HUB, name="p.yaml")
        async with await start(there.instance, profile, logs_dir=tmp_path / "logs") as run:
            while "secrets" not in [name for name, _ in there.requests]:
                await there.asked.wait()
                there.asked.clear()
            await run.leave()
        requests: list[tuple[str, dict[str, Any]]] = there.requests

    assert [name for name, _ in requests] == ["start", "secrets"]
    assert requests[0][1]["secrets"] == {}, "nothing leaves before it is asked for"
    assert requests[0][1]["offered"] == ["HF_TOKEN"], "but that it is set, for conditions"
    assert requests[1][1]["secrets"] == {"HF_TOKEN": TOKEN}


@pytest.mark.usefixtures("own_state", "no_network")
@pytest.mark.parametrize("text", [PLAIN, None], ids=["no item is on those hosts", "a run of somebody else"])
async def test_an_instance_that_asks_gets_nothing_where(tmp_path: Path, text: str | None) -> None:
    async with HostileInstance(tmp_path / "a", events=ASKS) as there:
        stranger = compile_plan(Profile.from_text(ON_HUB, name="p.yaml")).to_json()
        there.answers["status"] = there.dead_run(stranger, is_alive=True)
        begun = (
            attach(there.instance, logs_dir=tmp_path / "logs")
            if text is None
            else start(there.instance, Profile.from_text(text, name="p.yaml"), logs_dir=tmp_path / "logs")
        )
        async with await begun as run:
            names = [event["names"] async for event in up_to(run, "secrets_needed")]
            await run._dispatch.give_what_is_needed(VALUES)

    assert names == [[]], "and its question is not shown as ours"
    assert [name for name, _ in there.requests] == ["status" if text is None else "start"]
    assert there.secrets_got() == []


async def up_to(run: Run, name: str) -> AsyncIterator[dict[str, Any]]:
    """The first event of that name."""
    async for event in run.events():
        if event["event"] == name:
            yield event
            return
