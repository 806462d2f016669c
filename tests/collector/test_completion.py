"""What a shell completes, a command that is nearly right, and the help of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from provision_collector.instance import Instance
from provision_collector.run import registry

PROVISION = str(Path(sys.executable).with_name("provision"))


def provision(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROVISION, *words], env={**os.environ, **environment}, capture_output=True, text=True, timeout=30
    )


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that knows one run and one host of its ssh configuration."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host gpu-box *.internal\n  User root\n")
    instance = registry.record_of(Instance("203.0.113.7", port=2222))
    registry.remember(registry.RunRecord("flux-a", str(tmp_path / "logs/x"), 1, instance, profile="flux"))


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("provision sta", ["plain,status"]),
        ("provision logs ", ["plain,flux-a"]),
        ("provision attach fl", ["plain,flux-a"]),
        ("provision status --host gpu", ["plain,gpu-box"]),
        ("provision status --host 203", ["plain,203.0.113.7:2222"]),
        ("provision up --profile comfyui-flux-", ["plain,comfyui-flux-fp8", "file,comfyui-flux-"]),
    ],
)
def test_a_shell_completes_commands_runs_hosts_and_profiles(words: str, completed: list[str]) -> None:
    count = str(len(words.split(" ")) - 1)

    done = provision(COMP_WORDS=words, COMP_CWORD=count, _PROVISION_COMPLETE="bash_complete")

    assert done.stdout.splitlines() == completed


@pytest.mark.usefixtures("known")
def test_bash_takes_what_is_printed_for_it() -> None:
    script = f'export PATH="{Path(PROVISION).parent}:$PATH"; eval "$(provision completion bash)"; complete -p provision'

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)

    assert "_provision_completion" in done.stdout


def test_a_command_that_is_nearly_right_is_named() -> None:
    done = provision("stauts")

    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no command `stauts`; did you mean `status`?" in done.stderr


@pytest.mark.parametrize("words", [("status",), ("hosts", "list"), ()])
def test_help_is_a_command_too(words: tuple[str, ...]) -> None:
    helped, asked = provision("help", *words), provision(*words, "--help")

    assert (helped.returncode, helped.stdout) == (0, asked.stdout)


def test_the_version_has_a_short_option() -> None:
    assert provision("-V").stdout == provision("--version").stdout != ""
