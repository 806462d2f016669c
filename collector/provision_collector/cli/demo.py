"""`provision demo`: the whole thing on this machine, by the same command that everyone uses."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from .output import tell

if TYPE_CHECKING:
    from ..demo.stage import Stage

PATIENCE_S = 5.0
"""How long `up` may take to end by itself after Ctrl-C."""


@click.command("demo")
@click.option("--keep", is_flag=True, help="Keep the folder with the profile, the logs and the workspace.")
def command(keep: bool) -> None:
    """Run `provision up` against an embedded instance and embedded file hosts; nothing is left behind."""
    if not sys.platform.startswith("linux"):
        raise UsageError(
            "the demo plays the instance on this machine, and instances are Linux",
            hint="run it in a container, from a clone of the repository: "
            "docker run -it --rm -v \"$PWD\":/clone python:3 sh -c 'pip install /clone && provision demo'",
        )
    from ..demo.stage import set_up

    directory = Path(tempfile.mkdtemp(prefix="provision-demo-"))
    with _signals() as received:
        try:
            with set_up(directory) as stage:
                _introduce(stage)
                status = _run(stage, received) if not received else 128 + received[0]
        finally:
            if not keep:
                shutil.rmtree(directory, ignore_errors=True)
    _say(
        f"\nThe instance is switched off; its folder is {'kept' if keep else 'removed, with these logs (--keep keeps it)'}."
    )
    sys.exit(status)


def _introduce(stage: Stage) -> None:
    from ..demo.stage import MOODS

    instance = stage.instance
    because = f" ({instance.why_not_sshd})" if instance.why_not_sshd else ""
    rows = [("instance", f"{instance.host}:{instance.port}  {instance.kind}, user {instance.user}{because}")]
    hosts = [f"{host.address}  {MOODS[name]}" for name, host in stage.hosts.items()]
    rows += zip(["file hosts", *[""] * len(hosts)], hosts, strict=False)
    rows += [("folder", str(stage.directory))]
    for label, text in rows:
        _say(f"{label:12}{text}")
    _say(f"\nThe same command as for a rented instance:\n\n$ {_shown(stage)}\n")


def _shown(stage: Stage) -> str:
    """The command as a person would write it: one option a line."""
    lines: list[str] = []
    for word in ["provision", *stage.arguments]:
        if word.startswith("--"):
            lines.append(word)
        elif lines:
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(word)
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in stage.environment.items())
    return f"{variables} \\\n    " + " \\\n    ".join(lines)


def _run(stage: Stage, received: list[int]) -> int:
    up = subprocess.Popen([*_program(), *stage.arguments], env=dict(os.environ, **stage.environment))
    try:
        while True:
            try:
                return _exit_code(up.wait(timeout=0.2))
            except subprocess.TimeoutExpired:
                if received:
                    return _end(up, received[0])
    finally:
        if up.poll() is None:
            up.kill()
            up.wait()


def _end(up: subprocess.Popen[bytes], number: int) -> int:
    """Ctrl-C reaches `up` from the terminal too; what does not, is passed on."""
    until = time.monotonic() + (2.0 if number == signal.SIGINT else 0.0)
    for sign in (number, signal.SIGTERM, signal.SIGKILL):
        try:
            return _exit_code(up.wait(timeout=max(until - time.monotonic(), 0.0)))
        except subprocess.TimeoutExpired:
            up.send_signal(sign)
            until = time.monotonic() + PATIENCE_S
    return _exit_code(up.wait(timeout=PATIENCE_S))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask for the end, so that everything is cleaned up first."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {
        number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _program() -> list[str]:
    """`provision` as it is installed beside this Python; else the same entry point."""
    installed = Path(sys.executable).with_name("provision")
    if installed.is_file():
        return [str(installed)]
    return [sys.executable, "-c", "from provision_collector.cli import main; main()"]


def _exit_code(status: int) -> int:
    return status if status >= 0 else 128 - status


def _say(line: str) -> None:
    tell(line)
