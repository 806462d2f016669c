"""Every command, in every way that it can fail before it has an instance: with `--json` its last line is an outcome."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from provision_agent.contract.verdicts import NEXT, VERDICTS
from provision_collector.cli import cli, complain, main
from provision_collector.errors import ProvisionError

PROFILE = "version: 1\nname: p\ncommands: [{name: a, run: ['true']}]\n"
WORDS: dict[str, tuple[str, ...]] = {
    "collect": ("--remote-log", "/var/log/x.log"),
    "fleet up": ("--profile", "p.yaml"),
    "up": ("--profile", "p.yaml"),
    "lock": ("p.yaml",),
    "plan": ("p.yaml",),
    "check": ("p.yaml",),
    "doctor": (),
    "profiles show": ("p.yaml",),
    "profiles from-workflow": ("w.json",),
    "profiles import": ("s.sh",),
    "hosts forget": ("h",),
    "copy": (":there", "here"),
    "services restart": ("web",),
    "services stop": ("web",),
    "services logs": ("web",),
    "keep": ("--for", "2h"),
    "bundle": ("-o", "b.py"),
}
"""What a command must be told besides what is wrong."""
TELL_RESULTS = ("doctor", "fleet up")
"""What they found is the result even if it is bad: their last object has the exit code, and is no outcome."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command of the command line, with the words that call it."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", found) for below, found in command.commands.items())
        else:
            yield name, command


ALL = dict(commands())
SPEAK_JSON = {
    name: command
    for name, command in ALL.items()
    if any("--json" in parameter.opts for parameter in command.params)
}


def has(command: click.Command, parameter: str) -> bool:
    return any(parameter in (each.name, *each.opts) for each in command.params)


def failures() -> Iterator[tuple[str, str, tuple[str, ...], int]]:
    """Command, way to fail, its words, exit code."""
    for name, command in SPEAK_JSON.items():
        words = WORDS.get(name, ())
        yield name, "an option that there is not", (*words, "--nonsense"), 2
        if has(command, "run"):
            yield name, "an unknown run", ("nope",), 2
        if has(command, "--host") and not has(command, "hosts"):
            away = ("--host", "127.0.0.1:{closed}", "--boot-grace", "100ms", "--contact-timeout", "100ms")
            more = ("nope",) if name == "forward" else ()
            yield name, "an instance that is not there", (*more, *words, *away), 10
            yield name, "a port that is none", (*words, "--host", "h", "--port", "0"), 2
        if has(command, "--profile"):
            host = ("--host", "127.0.0.1:{closed}") if has(command, "--host") else ()
            yield name, "a profile that is not there", (*_without(words), *host, "--profile", "none.yaml"), 3
            yield name, "a profile that is wrong", (*_without(words), *host, "--profile", "wrong.yaml"), 3
    yield "fleet status", "an unknown fleet", ("nope",), 2
    yield "fleet up", "no instance", WORDS["fleet up"], 2
    yield "hosts forget", "a host that was never seen", ("h",), 2
    yield "logs", "no run at all", (), 2
    yield "verify", "neither run nor host", (), 2
    yield "up", "no host", WORDS["up"], 2
    yield "up", "a folder that cannot be made", (*WORDS["up"], "--host", "h", "--logs-dir", "/proc/x/y"), 10
    yield "serve", "an address that is none", ("--listen", "nowhere"), 2
    yield "profiles show", "a profile that is not there", ("none.yaml",), 3


def _without(words: tuple[str, ...]) -> tuple[str, ...]:
    """*words* without the profile in them."""
    return () if words in (("p.yaml",), ("--profile", "p.yaml")) else words


@pytest.fixture
def end_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[dict[str, object]], str]]:
    """Calls the command line; its exit code, the objects on stdout, and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.yaml").write_text(PROFILE)
    (tmp_path / "wrong.yaml").write_text("version: 1\naptt: 1\n")
    (tmp_path / "w.json").write_text("{}")
    (tmp_path / "s.sh").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = taken.getsockname()[1]

    def call(*words: str) -> tuple[int, list[dict[str, object]], str]:
        with pytest.raises(SystemExit) as ended:
            main([word.replace("{closed}", str(closed)) for word in words])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), [json.loads(line) for line in out.splitlines()], err

    return call


@pytest.mark.parametrize(
    ("name", "way", "words", "code"), list(failures()), ids=lambda value: str(value).replace(" ", "-")
)
def test_a_command_that_fails_ends_with_one_outcome_object(
    end_of: Callable[..., tuple[int, list[dict[str, object]], str]],
    name: str,
    way: str,
    words: tuple[str, ...],
    code: int,
) -> None:
    ended, lines, err = end_of(*name.split(), *words, "--json")

    last = lines[-1]
    assert "Traceback" not in err
    if name == "check" and code == 3:
        assert (ended, last["valid"], len(lines)) == (3, False, 1), "its own object says where it is wrong"
        return
    assert last["exit_code"] == ended, err
    if name in TELL_RESULTS and last.get("event") != "outcome":
        assert ended != 0
        return
    assert ended == code, err
    assert last["event"] == "outcome"
    assert last["verdict"] in VERDICTS and last["next"] in NEXT
    assert VERDICTS[str(last["verdict"])].code == code
    assert [line["event"] for line in lines].count("outcome") == 1
    [error] = last["errors"]  # type: ignore[misc]
    assert error["message"]


def test_an_address_that_is_wrong_is_to_be_corrected_and_no_reason_for_another_instance(
    end_of: Callable[..., tuple[int, list[dict[str, object]], str]],
) -> None:
    grace = ("--boot-grace", "100ms", "--json")
    _, closed, _ = end_of("verify", "--profile", "p.yaml", "--host", "127.0.0.1:{closed}", *grace)
    _, typo, _ = end_of("verify", "--profile", "p.yaml", "--host", "no-such-host.invalid", *grace)

    assert [lines[-1]["next"] for lines in (closed, typo)] == ["fix_address", "fix_address"]
    assert [lines[-1]["errors"][0]["class"] for lines in (closed, typo)] == ["refused", "unknown-name"]  # type: ignore[index]


def test_the_outcome_names_what_is_known_of_host_run_and_labels(
    end_of: Callable[..., tuple[int, list[dict[str, object]], str]],
) -> None:
    _, lines, _ = end_of(
        *("up", "--host", "root@h:2222", "--profile", "none.yaml"),
        *("--run-id", "a", "--label", "k=v", "--json"),
    )

    assert {name: lines[-1][name] for name in ("host", "run", "labels")} == {
        "host": "root@h:2222",
        "run": "a",
        "labels": {"k": "v"},
    }


def test_a_command_that_was_not_told_json_prints_no_object(
    end_of: Callable[..., tuple[int, list[dict[str, object]], str]],
) -> None:
    assert end_of("attach", "nope")[:2] == (2, [])
    assert end_of("stop", "--nonsense")[:2] == (2, [])


def test_what_an_instance_said_in_an_error_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    complain(ProvisionError("it says \x1b]0;owned\x07\n  second \u202eline\x9b2J", hint="\x1b[2J"))

    said = capsys.readouterr().err
    assert not set("\x1b\x07\x9b\u202e") & set(said)
    assert said.count("\n") == 3
