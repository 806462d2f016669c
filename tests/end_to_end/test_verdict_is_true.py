"""`complete` if and only if everything critical and required is there with the right bytes.

The profiles, the failures of their sources and the damage between two runs are random; the agent is the real one. The
judge knows the profile, the disk and what the service has, and nothing that the agent says but its verdict.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from harness.content import Content
from harness.file_server import Fault, FileServer
from harness.git_server import Origin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provision_agent.contract.plan import Download, File, ItemLimits, Plan, Repo, Substitute
from provision_agent.host.detach import agent_argv

WITHIN_S = 60.0
LEVELS = ("critical", "required", "optional")
MODELS = [Content.safetensors(20_000 + 8 * n, seed=n).bytes() for n in range(4)]
INSTEAD = Content.safetensors(30_000, seed=99).bytes()
OTHER = Content.safetensors(30_016, seed=98).bytes()

FAULTS: dict[str, Fault | None] = {
    "ok": None,
    "flaky": Fault(reset_after=5_000, times=1),
    "gone": Fault(status=404),
    "forbidden": Fault(status=403),
    "page": Fault(content=Content.of(b"<!doctype html><html>sign in"), headers={"Content-Type": "text/html"}),
}
HONEST = ("ok", "flaky")


@dataclass(frozen=True)
class Source:
    """One URL: how it behaves in the first run, and in the second."""

    first: str
    second: str


@dataclass(frozen=True)
class Thing:
    """One download of a random profile."""

    content: int
    is_archive: bool
    is_folder: bool
    """The server tells the name."""
    name: str
    folder: str
    level: str
    pin: str
    """none, right or wrong."""
    sources: tuple[Source, ...]
    substitute: Source | None
    is_twin: bool
    """It has the URL of the one before."""


@dataclass(frozen=True)
class Clone:
    """One repository of a random profile."""

    level: str
    ref: str
    """commit, branch or nowhere."""
    is_there: tuple[bool, ...]
    """Of its URL, and of its mirror: whether there is a repository."""


@dataclass(frozen=True)
class World:
    """A random profile with all that happens to it."""

    things: tuple[Thing, ...]
    clones: tuple[Clone, ...]
    file_level: str | None
    damages: tuple[tuple[int, str], ...]
    """After the first run: which file, counted among all that are there, and what is done to it."""


SOURCES = st.builds(Source, st.sampled_from(["ok"] * 8 + [*FAULTS]), st.sampled_from(["ok"] * 4 + [*FAULTS]))
"""Mostly good: in half of the worlds the verdict should be `complete`."""
THINGS = st.builds(
    Thing,
    content=st.integers(0, 3),
    is_archive=st.booleans(),
    is_folder=st.booleans(),
    name=st.sampled_from("xyz"),
    folder=st.sampled_from(["m/", "n/deep/"]),
    level=st.sampled_from(LEVELS),
    pin=st.sampled_from(["none", "right"] * 6 + ["wrong"]),
    sources=st.lists(SOURCES, min_size=1, max_size=2).map(tuple),
    substitute=st.none() | SOURCES,
    is_twin=st.booleans(),
)
CLONES = st.builds(
    Clone,
    level=st.sampled_from(LEVELS),
    ref=st.sampled_from(["commit", "branch"] * 3 + ["nowhere"]),
    is_there=st.lists(st.sampled_from([True] * 5 + [False]), min_size=1, max_size=2).map(tuple),
)
WORLDS = st.builds(
    World,
    things=st.lists(THINGS, min_size=1, max_size=4).map(tuple),
    clones=st.lists(CLONES, max_size=2).map(tuple),
    file_level=st.none() | st.sampled_from(LEVELS),
    damages=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(["delete", "truncate", "edit", "link"])), max_size=4
    ).map(tuple),
)


def members_of(number: int) -> dict[str, bytes]:
    return {f"{number}/one.txt": b"one %d" % number * 50, f"{number}/deep/two.txt": b"two %d" % number}


class Service:
    """What the sources have, behind a server that behaves as the world says."""

    def __init__(self, server: FileServer, origin: Origin, commit: str, world: World) -> None:
        self._server = server
        self._origin = origin
        self._commit = commit
        self.world = world
        self.bytes_of: list[bytes] = []
        self.names: list[str] = []
        self._routes: list[tuple[str, Source]] = []
        self.downloads: list[Download] = []
        for number, thing in enumerate(world.things):
            self.downloads.append(self._download(number, thing))
        self.clones = [self._clone(number, clone) for number, clone in enumerate(world.clones)]

    def plan(self, workspace: Path) -> Plan:
        level = self.world.file_level
        return Plan(
            name="random",
            workspace=str(workspace),
            downloads=tuple(self.downloads),
            repos=tuple(self.clones),
            files=(File(path="conf/x.yaml", content="a: 1\n", level=level),) if level else (),
        )

    def begin(self, *, is_first: bool) -> None:
        """From now on the sources behave as in that run."""
        for path, source in self._routes:
            fault = FAULTS[source.first if is_first else source.second]
            self._server.set_faults(path, *([replace(fault)] if fault is not None else []))

    def _download(self, number: int, thing: Thing) -> Download:
        taken = {item.path for item in self.downloads}
        is_twin = thing.is_twin and number > 0 and len(self.world.things[number - 1].sources) > 0
        truth = self._truth(number, thing) if not is_twin else self.bytes_of[-1]
        self.bytes_of.append(truth)
        suffix = ".zip" if truth[:2] == b"PK" else ".safetensors"
        # files that meet under one name are the same: two that are not fail both, whichever is there
        name = f"{thing.name}{hashlib.sha256(truth).hexdigest()[:4]}{suffix}"
        self.names.append(name)
        path = thing.folder if thing.is_folder else thing.folder + name
        if path in taken and not thing.is_folder:
            path = f"{thing.folder}own{number}{suffix}"
        urls = [self._serve(number, at, truth, name, source) for at, source in enumerate(thing.sources)]
        if is_twin and (path, self.downloads[-1].url) not in {
            (item.path, item.url) for item in self.downloads
        }:
            urls = [self.downloads[-1].url, *self.downloads[-1].mirrors]
        sha256 = {"none": None, "right": hashlib.sha256(truth).hexdigest(), "wrong": "0" * 64}[thing.pin]
        substitute = None
        if thing.substitute is not None and suffix != ".zip":
            url = self._serve(number, 9, INSTEAD, "s.safetensors", thing.substitute)
            substitute = Substitute(url, f"instead/{number}.safetensors")
        return Download(
            url=urls[0],
            mirrors=tuple(urls[1:]),
            path=path,
            level=thing.level,
            sha256=sha256,
            substitute=substitute,
            unpack="zip" if suffix == ".zip" else "no",
            limits=ItemLimits(connect_s=5.0, lookup_s=10.0),
        )

    def _truth(self, number: int, thing: Thing) -> bytes:
        if not thing.is_archive:
            return MODELS[thing.content]
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in members_of(number).items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return out.getvalue()

    def _serve(self, number: int, at: int, data: bytes, name: str, source: Source) -> str:
        path = f"/{number}/{at}/file"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        url = self._server.add(path, Content.of(data), headers=headers)
        self._routes.append((path, source))
        return url

    def _clone(self, number: int, clone: Clone) -> Repo:
        urls = [self._origin.url if there else f"file:///nonexistent/{number}" for there in clone.is_there]
        ref = {"commit": self._commit, "branch": "main", "nowhere": "no-such-ref"}[clone.ref]
        return Repo(url=urls[0], mirrors=tuple(urls[1:]), path=f"repos/{number}", ref=ref, level=clone.level)

    # -- the judge

    def everything_wanted_is_there(self, root: Path, *, is_first: bool) -> bool:
        """By the profile, the disk and what the sources have."""
        downloads = all(
            item.level == "optional" or self._is_there(number, item, root, is_first=is_first)
            for number, item in enumerate(self.downloads)
        )
        repos = all(
            repo.level == "optional" or self._is_checked_out(clone, repo, root)
            for clone, repo in zip(self.world.clones, self.clones, strict=True)
        )
        is_written = self.world.file_level in (None, "optional") or has(root / "conf/x.yaml", b"a: 1\n")
        return downloads and repos and is_written

    def _is_there(self, number: int, item: Download, root: Path, *, is_first: bool) -> bool:
        truth = self.bytes_of[number]
        is_right = item.sha256 in (None, hashlib.sha256(truth).hexdigest())
        if is_right:
            for name in self._names(item) if item.path.endswith("/") else [item.path]:
                is_whole = has(root / name, truth)
                inside = (root / name).parent
                if truth[:2] == b"PK":
                    with zipfile.ZipFile(io.BytesIO(truth)) as archive:
                        is_whole = is_whole and all(
                            has(inside / each, archive.read(each)) for each in archive.namelist()
                        )
                if is_whole:
                    return True
        can_be_had = is_right and any(
            self._behaves(url, is_first) in HONEST for url in (item.url, *item.mirrors)
        )
        return bool(
            item.substitute is not None and not can_be_had and has(root / item.substitute.path, INSTEAD)
        )

    def _behaves(self, url: str, is_first: bool) -> str:
        source = next(source for path, source in self._routes if url.endswith(path))
        return source.first if is_first else source.second

    def _names(self, item: Download) -> Iterator[str]:
        """Where a file of a folder may be: the names that its sources tell."""
        for url in (item.url, *item.mirrors):
            number = int(url.split("/")[-3])
            yield item.path + self.names[number]

    def _is_checked_out(self, clone: Clone, repo: Repo, root: Path) -> bool:
        return clone.ref != "nowhere" and any(clone.is_there) and has(root / repo.path / "main.py", MAIN)


MAIN = b"print('main')\n" * 20


def has(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def verdict_of(plan: Plan, run: str, home: Path) -> str:
    """Run the real agent: start, keeper, steps, verdict."""
    end = time.monotonic() + WITHIN_S
    request = json.dumps({"run": run, "plan": plan.to_json()}).encode()
    environment = {**os.environ, "HOME": str(home), "no_proxy": "*"}
    while True:
        done = subprocess.run(
            agent_argv("start"),
            input=request,
            stdout=subprocess.PIPE,
            env=environment,
            timeout=WITHIN_S,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout.partition(b"provision-answer ")[2])
        if answer["state"] == "started":
            break
        assert time.monotonic() < end, answer  # the keeper of the run before is about to leave
        time.sleep(0.05)
    events = Path(answer["files"]["events"])
    while True:
        lines = events.read_text().splitlines() if events.exists() else []
        if lines and '"run_finished"' in lines[-1] and lines[-1].endswith("}"):
            return str(json.loads(lines[-1])["verdict"])
        assert time.monotonic() < end, lines[-5:]
        time.sleep(0.02)


def damage(root: Path, service: Service) -> None:
    """Do to the files that the plan made what the world says. People's edits of checkouts are not damage."""
    made = sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not {".provision", ".git"} & set(path.relative_to(root).parts)
    )
    for number, how in service.world.damages:
        path = made[number % len(made)] if made else None
        if path is None or not path.exists() or path.name.startswith("provision_"):
            continue
        is_tracked = "repos" in path.parts
        if how == "delete":
            path.unlink()
        elif how == "truncate" or is_tracked:
            os.truncate(path, path.stat().st_size // 2)
        elif how == "edit":
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            os.utime(path, (1, 1))
        else:
            path.unlink()
            path.symlink_to("nowhere")


def check(world: World) -> None:
    folder = Path(tempfile.mkdtemp(prefix="provision-random-"))
    try:
        origin = Origin(str(folder / "origin"))
        commit = origin.commit({"main.py": MAIN.decode()})
        with FileServer() as server:
            service = Service(server, origin, commit, world)
            root = folder / "workspace"
            for run in ("first", "second"):
                service.begin(is_first=run == "first")
                verdict = verdict_of(service.plan(root), run, folder)
                is_there = service.everything_wanted_is_there(root, is_first=run == "first")
                assert (verdict == "complete") == is_there, (run, verdict, said(root, run))
                if not world.damages:
                    return
                damage(root, service)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def said(root: Path, run: str) -> str:
    return (root / ".provision/runs" / run / "core.log").read_text()


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@pytest.mark.slow
@pytest.mark.timeout(300)
@given(world=WORLDS)
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=QUIET)
def test_complete_means_that_everything_wanted_is_there(world: World) -> None:
    check(world)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@given(world=WORLDS)
@settings(max_examples=500, deadline=None, suppress_health_check=QUIET, print_blob=True)
def test_complete_means_that_everything_wanted_is_there_however_often_one_looks(world: World) -> None:
    check(world)
