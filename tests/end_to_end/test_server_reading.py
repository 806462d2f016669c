"""Profiles that take long to read, or would name files of the server: nobody else waits, and nothing goes on computing."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .conftest import eventually
from .server import Answer, Server
from .test_server_access import closed_port, error_of

HEAD = "version: 1\nname: x\n"
LARGE = HEAD + "downloads:\n" + "".join(f"  - {{url: 'https://h/{i}', path: 'x{i}'}}\n" for i in range(1500))
ENDLESS = (
    HEAD
    + "variables: {a: b}\nfiles:\n"
    + "".join(f"  - {{path: 'p{i}', content: '{'${a}' * 900}'}}\n" for i in range(260))
)


def asked(server: Server, text: str, **more: Any) -> Answer:
    body = {"host": "127.0.0.1", "port": closed_port(), "boot_grace": "1ms", "profile_yaml": text, **more}
    return server.ask("POST", "/api/runs", body)


def processes_of(server: Server) -> list[int]:
    """The server's child processes."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1] == str(
                server.pid
            ):
                found.append(int(name))
        except OSError:
            continue
    return found


def test_large_profiles_are_read_one_at_a_time_beside_the_server(server: Server) -> None:
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(asked(server, LARGE))) for _ in range(3)]
    for thread in threads:
        thread.start()
    [child] = eventually(lambda: processes_of(server))
    while any(thread.is_alive() for thread in threads):
        assert server.get("/healthz") == {"status": "ok"}
        assert processes_of(server) in ([child], [])
        time.sleep(0.05)

    assert [status for status, _, _ in answers] == [202, 202, 202]
    environment = Path(f"/proc/{child}/environ").read_bytes()
    assert b"PROVISION_TOKEN" not in environment
    run = json.loads(answers[0][2])["run"]
    assert server.get(f"/api/runs/{run}")["profile"] == "x"


def test_nobody_with_a_small_profile_waits_for_large_ones_and_not_all_large_ones_wait(server: Server) -> None:
    answers: list[Answer] = []

    def post() -> None:
        with suppress(OSError):  # the server goes before they are read
            answers.append(asked(server, ENDLESS))

    for _ in range(4):
        threading.Thread(target=post, daemon=True).start()
    eventually(lambda: len(answers) == 2)
    small = asked(server, HEAD)

    assert [(status, error_of((status, head, body))["hint"]) for status, head, body in answers] == [
        (503, "send the same request again in a few seconds")
    ] * 2, "the two others are read, or wait"
    assert small[0] == 202


def test_a_server_that_ends_reads_no_further(server: Server) -> None:
    reading = threading.Thread(target=lambda: _quietly(server, ENDLESS))
    reading.start()
    [child] = eventually(lambda: processes_of(server))

    assert server.end(within_s=60.0) == 0
    assert not os.path.exists(f"/proc/{child}")
    reading.join(10)


def test_a_killed_server_leaves_no_reader_behind(server: Server) -> None:
    reading = threading.Thread(target=lambda: _quietly(server, ENDLESS))
    reading.start()
    [child] = eventually(lambda: processes_of(server))

    os.kill(server.pid, 9)

    eventually(lambda: not os.path.exists(f"/proc/{child}"))
    reading.join(10)


def _quietly(server: Server, text: str) -> None:
    try:
        asked(server, text)
    except OSError:
        pass  # the server is gone


TOO_MUCH = {
    "aliases": (
        HEAD + "files: [" + "&a {path: a, content: b}, " + "*a, " * 10_001 + "]",
        "more than 10000 aliases",
    ),
    "depth": (HEAD + "files: " + "[" * 100 + "]" * 100, "nested deeper than 50 levels"),
    "laughs": (
        HEAD
        + "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "more than 50000 values once the aliases are followed",
    ),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_a_text_with_more_than_a_profile_may_have_is_refused_in_one_line(server: Server, what: str) -> None:
    text, message = TOO_MUCH[what]
    error = error_of(asked(server, text))
    assert error["class"] == "profile"
    assert len(error["problems"]) == 1
    assert message in error["problems"][0]


def test_only_the_first_of_very_many_problems_are_told(server: Server) -> None:
    text = (
        HEAD + "downloads:\n" + "".join(f"  - {{url: 'https://h/{i}', path: /x{i}}}\n" for i in range(1000))
    )
    problems = error_of(asked(server, text))["problems"]
    assert len(problems) == 201
    assert problems[-1] == "and 800 more"
