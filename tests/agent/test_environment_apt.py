"""apt, played by small programs on PATH: this machine's own packages are left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.environments import Surroundings
from provision_agent.contract.failures import Failure
from provision_agent.steps import apt

APT_GET = """#!/bin/sh
echo "$*" >> "$FAKE/calls"
[ "$DEBIAN_FRONTEND" = noninteractive ] || { echo "E: it would ask"; exit 9; }
if [ -s "$FAKE/locked" ]; then
    sed -i 1d "$FAKE/locked"
    echo "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 77 (unattended-upgr)"
    exit 100
fi
if [ -e "$FAKE/interrupted" ]; then
    echo "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem."
    exit 100
fi
case "$1" in
    update) if [ -e "$FAKE/no-lists" ]; then echo "E: Failed to fetch http://archive"; exit 100; fi; exit 0;;
esac
for word; do
    case "$word" in misspelt) echo "E: Unable to locate package misspelt"; exit 100;; esac
done
while [ "$1" != "--" ]; do shift; done
shift
for name; do echo "$name" >> "$FAKE/installed"; done
"""
DPKG_QUERY = """#!/bin/sh
for name; do :; done
grep -qx "$name" "$FAKE/installed" && echo "installed 1.0"
"""
DPKG = """#!/bin/sh
rm -f "$FAKE/interrupted"
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in (("apt-get", APT_GET), ("dpkg-query", DPKG_QUERY), ("dpkg", DPKG)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "installed").write_text("git\n")
    (folder / "calls").write_text("")
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(apt, "LOCK_WAIT_S", 0.01)
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    return Surroundings(str(tmp_path / "workspace"))


def calls(fake: Path) -> list[str]:
    return [line.split()[0] for line in (fake / "calls").read_text().splitlines()]


def test_what_is_installed_costs_nothing(fake: Path, here: Surroundings) -> None:
    apt.install(["git"], here.context)

    assert calls(fake) == []
    assert here.events == [
        ("package_skipped", {"item": "apt:git", "level": "critical", "reason": "verified"})
    ]


def test_the_missing_ones_are_installed_together_after_one_update(fake: Path, here: Surroundings) -> None:
    apt.install(["git", "ffmpeg", "unzip"], here.context)

    assert calls(fake) == ["update", "install"]
    assert [f["item"] for f in here.of("package_finished")] == ["apt:ffmpeg", "apt:unzip"]
    assert "git" not in (fake / "calls").read_text()


def test_a_misspelt_name_costs_only_itself(fake: Path, here: Surroundings) -> None:
    with pytest.raises(Failure) as caught:
        apt.install(["ffmpeg", "misspelt", "unzip"], here.context)

    assert caught.value.class_ == "not_found"
    assert [f["item"] for f in here.of("package_finished")] == ["apt:ffmpeg", "apt:unzip"]
    assert [f["item"] for f in here.of("package_failed")] == ["apt:misspelt"]


def test_a_held_lock_is_waited_for_and_its_holder_named(fake: Path, here: Surroundings) -> None:
    (fake / "locked").write_text("1\n2\n3\n")

    apt.install(["ffmpeg"], here.context)

    said = [f["message"] for f in here.of("package_progress")]
    assert said.count("waiting for the package lock, held by unattended-upgr (77)") == 3
    assert [f["item"] for f in here.of("package_finished")] == ["apt:ffmpeg"]


def test_a_lock_that_is_never_given_up_ends_as_a_failure_that_can_be_retried(
    fake: Path, here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake / "locked").write_text("1\n" * 1000)
    monkeypatch.setattr(apt, "LOCK_S", 0.05)

    with pytest.raises(Failure) as caught:
        apt.install(["ffmpeg"], here.context)

    assert caught.value.class_ == "timed_out"
    assert caught.value.retriable
    assert "unattended-upgr" in caught.value.message


def test_an_interrupted_dpkg_is_finished_first(fake: Path, here: Surroundings) -> None:
    (fake / "interrupted").touch()

    apt.install(["ffmpeg"], here.context)

    assert "dpkg was interrupted" in here.of("warning")[0]["message"]
    assert [f["item"] for f in here.of("package_finished")] == ["apt:ffmpeg"]


def test_lists_that_cannot_be_refreshed_are_a_warning(fake: Path, here: Surroundings) -> None:
    (fake / "no-lists").touch()

    apt.install(["ffmpeg"], here.context)

    assert "apt-get update" in here.of("warning")[0]["message"]
    assert [f["item"] for f in here.of("package_finished")] == ["apt:ffmpeg"]


def test_somebody_who_is_not_root_is_told_so_when_sudo_asks_for_a_password(
    fake: Path, here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake / "sudo").write_text("#!/bin/sh\necho 'sudo: a password is required'\nexit 1\n")
    (fake / "sudo").chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(Failure) as caught:
        apt.install(["ffmpeg"], here.context)

    assert "the step `apt` needs root" in caught.value.message
    assert "--skip apt" in caught.value.hint


def test_sudo_without_a_password_is_used_and_keeps_the_settings(
    fake: Path, here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake / "sudo").write_text('#!/bin/sh\nshift\nunset DEBIAN_FRONTEND\nexec "$@"\n')
    (fake / "sudo").chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    apt.install(["ffmpeg"], here.context)

    assert [f["item"] for f in here.of("package_finished")] == ["apt:ffmpeg"]


def test_archives_that_cannot_be_reached_are_tried_again_until_they_are_back(
    fake: Path, here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt-get update ends with 0 all the same, and its old lists do not know the package."""
    (fake / "apt-get").write_text(
        """#!/bin/sh
echo "$*" >> "$FAKE/calls"
case "$1" in
    update)
        if [ -s "$FAKE/outage" ]; then
            sed -i 1d "$FAKE/outage"
            echo "W: Failed to fetch http://archive/InRelease  Temporary failure resolving 'archive'"
        fi
        exit 0;;
esac
[ -s "$FAKE/outage" ] && { echo "E: Unable to locate package ffmpeg"; exit 100; }
while [ "$1" != "--" ]; do shift; done
shift
for name; do echo "$name" >> "$FAKE/installed"; done
"""
    )
    (fake / "outage").write_text("1\n2\n3\n")
    here = Surroundings(here.workspace, patience_s=30.0)

    apt.install(["ffmpeg"], here.context)

    assert [f["item"] for f in here.of("package_finished")] == ["apt:ffmpeg"]
    assert {f["class"] for f in here.of("package_retried")} == {"network"}


def test_a_package_that_no_archive_has_is_no_matter_of_patience(fake: Path, here: Surroundings) -> None:
    here = Surroundings(here.workspace, patience_s=60.0)

    with pytest.raises(Failure) as caught:
        apt.install(["misspelt"], here.context)

    assert caught.value.class_ == "not_found"
    assert calls(fake) == ["update", "install"]


def test_what_people_asked_apt_for_is_read_from_its_history_since_the_container_was_made() -> None:
    def said(date: str, command: str) -> str:
        return f"\nStart-Date: {date}  08:00:00\nCommandline: {command}\nInstall: x:amd64 (1, automatic)\nEnd-Date: x\n"

    history = said("2020-01-01", "apt-get install -y of-the-image")
    history += said(
        "2026-02-03", "apt-get install -y --no-install-recommends ffmpeg=7:5 libgl1:amd64 ./own.deb"
    )
    history += said("2026-02-04", "/usr/bin/apt install libgl1:amd64 aria2/stable") + said(
        "2026-02-05", "apt-get remove nano"
    )

    found = apt.asked_for(history, since_unix=1_700_000_000)

    assert found == ["aria2", "ffmpeg", "libgl1:amd64"]
