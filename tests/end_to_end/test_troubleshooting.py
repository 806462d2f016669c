"""The advice helps: each failure of the table that one machine can have is produced, its advice followed, and it is gone.

All that fails within a run fails in one and the same run, and is mended in the next.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.file_server import FileServer, make_certificate
from harness.git_server import GitServer
from provision_agent.contract.cases import CASES
from provision_agent.contract.failures import FAILURES, hint_of, next_of_kinds
from provision_collector.demo.instance import EmbeddedInstance

from .conftest import Finished, Here, needs_sshd
from .failing import GOOD, ROWS, Row, Stage, profile

Told = dict[str, dict[str, Any]]
LONG_S = 120.0
pytestmark = pytest.mark.timeout(240)
SECRETS = ("T_UNDECLARED", "T_UNSET", "T_WRONG", "T_PLAIN")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The servers; the instance's folders are those of `here`."""
    folder = Path(tempfile.mkdtemp())
    for name in ("authority", "stranger", "origins", "programs"):
        (folder / name).mkdir()
    certificate = make_certificate(str(folder / "authority"), "localhost")
    stranger = make_certificate(str(folder / "stranger"), "localhost")
    bundle = folder / "bundle.pem"
    shutil.copy(certificate + ".crt", bundle)
    (folder / "here.safetensors").write_bytes(GOOD.bytes())
    servers = {name: FileServer("localhost", certificate=certificate) for name in SECRETS}
    with (
        FileServer() as files,
        FileServer("localhost", certificate=stranger) as strange,
        GitServer(str(folder / "origins")) as repos,
    ):
        for server in (files, strange):
            server.add("/good.safetensors", GOOD)
        made = Stage(
            folder=folder,
            workspace=folder / "instance" / "workspace",
            programs=folder / "programs",
            bundle=bundle,
            files=files,
            trusted=servers,
            stranger=strange,
            stranger_authority=Path(stranger + ".crt"),
            repos=repos,
            origins={},
        )
        yield made
    for child in made.children:
        child.kill()
        child.wait()
    for server in servers.values():
        server.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def here(stage: Stage) -> Iterator[Here]:
    if not needs_sshd:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no sshd on this machine")
    environment = {"SSL_CERT_FILE": str(stage.bundle), "PATH": f"{stage.programs}:{os.environ['PATH']}"}
    with EmbeddedInstance(stage.folder / "instance", server="sshd", environment=environment) as instance:
        stage.workspace = instance.workspace
        here = Here(stage.folder / "here", instance)
        yield here
        here.close()


def told_in(done: Finished) -> Told:
    """What was told of each item that failed in the end, by item."""
    told: Told = {}
    for line in done.lines:
        name = str(line["event"])
        item = str(line.get("item") or line.get("step") or "")
        if name.endswith("_failed"):
            told[item] = line
        elif name.endswith(("_finished", "_passed", "_ready", "_skipped")):
            told.pop(item, None)
    return told


def runs(stage: Stage, here: Here) -> tuple[Told, Told]:
    """What failed in the run of the broken profile, and what in the run after the advice was followed."""
    first = told_in(_up(here, stage, is_mended=False))
    stage.hints.update({item: str(told["hint"]) for item, told in first.items()})
    for row in ROWS:
        if row.item in first:
            row.follow(stage)
    return first, told_in(_up(here, stage, is_mended=True))


def _up(here: Here, stage: Stage, *, is_mended: bool) -> Finished:
    path = here.profile(profile(stage, is_mended=is_mended))
    done = here.up(path, environment=stage.environment, within_s=LONG_S)
    assert done.lines and done.outcome["verdict"] in ("complete", "incomplete", "failed"), done.stderr
    return done


def test_each_failure_is_told_with_advice_that_ends_it(stage: Stage, here: Here) -> None:
    """All rows in one test, since two runs show them all."""
    first, second = runs(stage, here)

    wrong = {row.item: found for row in ROWS if (found := wrong_with(row, first, second))}

    assert wrong == {}
    assert stage.files.url("/nothing.safetensors") in first["m/gone.safetensors"]["message"]


def wrong_with(row: Row, first: Told, second: Told) -> list[str]:
    """What is wrong with the advice of *row*; nothing when it ended the failure."""
    told = next((told for item, told in first.items() if item.partition(" from ")[0] == row.item), None)
    if told is None:
        return ["it did not fail"]
    pairs = [
        ("class", told["class"], row.class_),
        ("case", told.get("case"), row.case),
        ("hint", told["hint"], hint_of(row.class_, row.case, told.get("about"))),
        ("next", next_of_kinds([(row.class_, row.case)]), row.next or FAILURES[row.class_].next),
    ]
    wrong = [f"{name} {found!r}, not {wanted!r}" for name, found, wanted in pairs if found != wanted]
    if row.case is not None and told["hint"] == FAILURES[row.class_].hint:
        wrong.append("its particulars are not in its hint")
    if row.item in second:
        wrong.append(f"the advice did not help: {told['hint']}: {second[row.item]['message']}")
    return wrong


def test_thirty_failures_and_more_are_produced() -> None:
    assert len({(row.class_, row.case) for row in ROWS}) >= 30
    assert {row.class_ for row in ROWS} <= set(FAILURES)
    assert {row.case for row in ROWS if row.case} <= set(CASES)


# -- before there is a run


def _verdict_of(done: Finished) -> tuple[str, str, str]:
    [error] = done.outcome["errors"]
    return done.outcome["verdict"], error["class"], done.outcome["next"]


WELL = "version: 1\nname: well\ncommands: [{name: a, run: ['true']}]\n"


def test_what_keeps_a_run_from_beginning_ends_when_its_advice_is_followed(here: Here, stage: Stage) -> None:
    well, user = here.profile(WELL, "well.yaml"), here.instance.user
    other_key = here.folder / "other_key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other_key)], check=True, timeout=20
    )
    connection = here.connection()
    grace = ["--boot-grace", "1s"]

    def to(host: str, *more: str) -> list[str]:
        return ["--host", f"{user}@{host}", "--key", str(here.instance.key_path), *grace, *more]

    config = here.folder / "no_alias"
    config.write_text("Host another\n  HostName 127.0.0.1\n")
    ways = {
        "a name with a typo": to("no-such-host.invalid"),
        "an alias that is not in the configuration": to("gpu", "--ssh-config", str(config)),
        "a port that nothing listens at": to(f"127.0.0.1:{_closed_port()}"),
        "a port that speaks another language": to(f"127.0.0.1:{stage.files.port}"),
        "another key": [*connection, "--key", str(other_key), *grace],
        "an unwritable folder": [*connection, "--workspace", "/proc/nowhere"],
    }
    children = {name: here.spawn_up(well, *_where(words), connection=words) for name, words in ways.items()}
    told = {name: _verdict_of(here.finish(child, LONG_S)) for name, child in children.items()}

    assert told == {
        "a name with a typo": ("unreachable", "unknown-name", "fix_address"),
        "an alias that is not in the configuration": ("unreachable", "unknown-name", "fix_address"),
        "a port that nothing listens at": ("unreachable", "refused", "fix_address"),
        "a port that speaks another language": ("unreachable", "closed", "fix_address"),
        "another key": ("auth-refused", "auth-refused", "fix_credentials"),
        "an unwritable folder": ("failed", "read_only", "fix_instance"),
    }
    assert here.up(well, within_s=LONG_S).code == 0, "the right address, key and folder"


def _where(connection: list[str]) -> list[str]:
    """`up` names the workspace before what *connection* says: the last one counts."""
    return connection[connection.index("--workspace") :] if "--workspace" in connection else []


def _closed_port() -> int:
    from .failing import free_port

    return free_port()


def test_the_run_of_another_plan_is_ended_by_the_command_that_the_refusal_names(here: Here) -> None:
    going = here.profile(
        "version: 1\nname: going\ncommands: [{name: a, run: [sleep, '600']}]\n", "going.yaml"
    )
    well = here.profile(WELL, "well.yaml")
    words = ["--workspace", str(here.instance.workspace), "--run-id", "going", "--detach"]
    assert here.run("up", *here.connection(), "--profile", going, *words, within_s=LONG_S).code == 0

    refused = here.up(well, within_s=LONG_S)

    assert (refused.outcome["verdict"], refused.outcome["next"]) == ("refused", "fix_instance")
    hint = refused.outcome["errors"][0]["hint"]
    [stop] = [command for command in re.findall(r"`(provision [^`]+)`", hint) if " stop " in command]
    assert here.run(*stop.split()[1:], within_s=LONG_S).code == 0
    assert here.up(well, within_s=LONG_S).code == 0


def test_a_changed_host_key_is_forgotten_by_the_command_that_is_named(here: Here) -> None:
    well = here.profile(WELL, "well.yaml")
    assert here.up(well, within_s=LONG_S).code == 0
    known = Path(here.environment["XDG_STATE_HOME"]) / "provision" / "known_hosts"
    lines = known.read_text().splitlines()
    key = str(here.folder / "third_key")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=20)
    public = subprocess.run(
        ["ssh-keygen", "-y", "-f", key],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    ).stdout
    known.write_text("".join(f"{line.split()[0]} {' '.join(public.split()[:2])}\n" for line in lines))

    changed = here.up(well, within_s=LONG_S)

    assert changed.outcome["verdict"] == "host-key", changed.stderr
    [forget] = re.findall(r"`provision (hosts forget [^`]+)`", changed.outcome["errors"][0]["hint"])
    assert here.run(*forget.replace("'", "").split()).code == 0
    assert here.up(well, within_s=LONG_S).code == 0
