"""Failures that one machine can produce, each with what its advice says: one profile has them all, another none.

A `Row` names the class and the case that must be told, the profile's item that fails so, and the item after the
advice was followed; where the advice is about the instance, `follow` does there what it says.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.content import Content
from harness.file_server import Fault, FileServer
from harness.git_server import GitServer, Origin, git

Item = dict[str, Any]
GOOD = Content.safetensors(1 << 16, seed=1)
OTHER = Content.safetensors(1 << 16, seed=2)
RIGHT = "the-right-value"
"""Of every secret here."""


@dataclass
class Stage:
    """What the rows stand on: servers, folders on the instance, and secrets that somebody has set."""

    folder: Path
    workspace: Path
    programs: Path
    """A folder of the instance's PATH."""
    bundle: Path
    """The authorities that the instance trusts."""
    files: FileServer
    trusted: dict[str, FileServer]
    """Servers of https that the instance trusts, by the secret that they want."""
    stranger: FileServer
    stranger_authority: Path
    repos: GitServer
    origins: dict[str, Origin]
    environment: dict[str, str] = field(default_factory=dict)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    hints: dict[str, str] = field(default_factory=dict)
    """What was said of each item in the first run."""

    def good(self) -> str:
        """The URL of a file that nothing is wrong with."""
        return self.files.url("/good.safetensors")

    def url(self, name: str, *faults: Fault) -> str:
        """The URL of a file of its own, with *faults*."""
        self.files.add(f"/{name}.safetensors", GOOD, *faults)
        return self.files.url(f"/{name}.safetensors")

    def secret_url(self, secret: str) -> str:
        """The URL of a file that wants the value `RIGHT` of *secret*."""
        server = self.trusted[secret]
        wanted = ("Authorization", f"Bearer {RIGHT}")
        server.add("/x.safetensors", GOOD, Fault(status=401, unless_header=wanted))
        return f"https://localhost:{server.port}/x.safetensors"

    def origin(self, name: str) -> Origin:
        """A repository of its own, with one commit."""
        if name not in self.origins:
            self.origins[name] = Origin(str(self.folder / "origins" / name))
            self.origins[name].commit({"a.txt": "one\n"})
        return self.origins[name]

    def hinted(self, item: str) -> list[str]:
        """The words in backticks of what was said of *item*: commands to type on the instance."""
        return re.findall(r"`([^`]+)`", self.hints[item])

    def type(self, command: str) -> None:
        """Do *command* as a person would, on the instance."""
        environment = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
        environment.update(GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@example.org")
        subprocess.run(
            command,
            shell=True,
            check=True,
            cwd=self.workspace,
            env=environment,
            capture_output=True,
            timeout=20,
        )


Make = Callable[[Stage], Item]


@dataclass(frozen=True)
class Row:
    """One failure, and what mends it."""

    step: str
    item: str
    class_: str
    broken: Make
    mended: Make
    case: str | None = None
    next: str | None = None
    """None: as the class has it."""
    follow: Callable[[Stage], None] = lambda stage: None
    also: dict[str, list[Item]] = field(default_factory=dict)
    """What the advice adds to the profile besides."""
    secrets: dict[str, Item] = field(default_factory=dict)
    mended_secrets: dict[str, Item] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.class_}-{self.case}" if self.case else self.class_


def file(name: str, url: Callable[[Stage], str], **more: Any) -> Make:
    """An item of `downloads` at ``m/NAME.safetensors``."""
    return lambda stage: {"path": f"m/{name}.safetensors", "url": url(stage), "level": "required", **more}


def good(name: str, **more: Any) -> Make:
    """The same item with a URL that works."""
    return file(name, Stage.good, **more)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


CLOSED, READY, TAKEN, OWN = (free_port() for _ in range(4))


def _hosts(secret: str, value: str | None = None) -> Callable[[Stage], Item]:
    def rule(stage: Stage) -> Item:
        if value is not None:
            stage.environment[secret] = value
        return {"hosts": [f"localhost:{stage.trusted[secret].port}"]}

    return rule


def _downloads() -> list[Row]:
    def row(name: str, class_: str, broken: Make, mended: Make | None = None, **more: Any) -> Row:
        return Row("downloads", f"m/{name}.safetensors", class_, broken, mended or good(name), **more)

    def faulty(name: str, fault: Fault) -> Make:
        return file(name, lambda stage: stage.url(name, fault))

    page = Fault(status=200, body=b"<!doctype html><html>moved</html>", headers={"Content-Type": "text/html"})

    def passing(name: str, class_: str, fault: Fault) -> Row:
        """The same file of the same server, once that is well again."""
        return row(
            name,
            class_,
            faulty(name, fault),
            follow=lambda stage: stage.files.set_faults(f"/{name}.safetensors"),
            mended=file(name, lambda stage: stage.files.url(f"/{name}.safetensors")),
        )

    def trust(stage: Stage) -> None:
        with stage.bundle.open("ab") as bundle:
            bundle.write(stage.stranger_authority.read_bytes())

    def in_the_way(stage: Stage) -> Item:
        (stage.workspace / "taken").write_text("a file")
        return {"path": "taken/x.safetensors", "url": stage.good(), "level": "required"}

    def archive(stage: Stage) -> str:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as made:
            made.writestr("../outside.txt", "x")
        stage.files.add("/bad.zip", Content.of(packed.getvalue()))
        return stage.files.url("/bad.zip")

    def zipped(unpack: bool) -> Make:
        return lambda stage: {
            "path": "m/bad.zip",
            "url": archive(stage),
            "unpack": unpack,
            "level": "required",
        }

    def huge(stage: Stage) -> str:
        stage.files.add("/huge.safetensors", Content.safetensors(10**15))
        return stage.files.url("/huge.safetensors")

    def nameless(stage: Stage) -> str:
        stage.files.add("/", GOOD)
        return stage.files.url("/")

    def same_name(path: str) -> Make:
        def make(stage: Stage) -> Item:
            for number, content in enumerate((GOOD, OTHER)):
                stage.files.add(f"/{number}/same.safetensors", content)
            return {"path": path, "url": stage.files.url("/1/same.safetensors"), "level": "required"}

        return make

    def local(path: str) -> Make:
        return file("local", lambda stage: f"file://{stage.folder}/{path}")

    return [
        row("gone", "not_found", file("gone", lambda stage: stage.files.url("/nothing.safetensors"))),
        row("page", "not_a_model", faulty("page", page)),
        row("hash", "checksum", good("hash", sha256="0" * 64), good("hash", sha256=GOOD.sha256)),
        row("length", "size", good("length", size=12345), good("length", size=GOOD.size)),
        row(
            "closed",
            "unreachable",
            file("closed", lambda stage: f"http://127.0.0.1:{CLOSED}/x.safetensors"),
            lambda stage: {
                **file("closed", lambda _: f"http://127.0.0.1:{CLOSED}/x.safetensors")(stage),
                "mirrors": [stage.good()],
            },
        ),
        row(
            "typo",
            "unreachable",
            file("typo", lambda stage: "http://no-such-host.invalid/x.safetensors"),
            case="unknown_host",
            next="fix_profile",
        ),
        passing("broken", "upstream_down", Fault(status=500)),
        passing("cut", "truncated", Fault(end_after=1000)),
        passing("mute", "stalled", Fault(stall_after=1000)),
        row(
            "refused",
            "not_found",
            faulty("refused", Fault(status=400)),
            case="refused_url",
        ),
        row(
            "undeclared",
            "unauthorized",
            file("undeclared", lambda stage: stage.secret_url("T_UNDECLARED")),
            file("undeclared", lambda stage: stage.secret_url("T_UNDECLARED")),
            case="no_secret_for_host",
            next="fix_profile",
            mended_secrets={"T_UNDECLARED": _hosts("T_UNDECLARED", RIGHT)},
        ),
        row(
            "unset",
            "unauthorized",
            file("unset", lambda stage: stage.secret_url("T_UNSET")),
            file("unset", lambda stage: stage.secret_url("T_UNSET")),
            case="token_unset",
            secrets={"T_UNSET": _hosts("T_UNSET")},
            mended_secrets={"T_UNSET": _hosts("T_UNSET", RIGHT)},
        ),
        row(
            "wrong",
            "unauthorized",
            file("wrong", lambda stage: stage.secret_url("T_WRONG")),
            file("wrong", lambda stage: stage.secret_url("T_WRONG")),
            case="token_refused",
            secrets={"T_WRONG": _hosts("T_WRONG", "another-value")},
            mended_secrets={"T_WRONG": _hosts("T_WRONG", RIGHT)},
        ),
        row(
            "plain",
            "unauthorized",
            file("plain", lambda stage: stage.url("plain", Fault(status=401))),
            file("plain", lambda stage: stage.secret_url("T_PLAIN")),
            case="token_needs_https",
            next="fix_profile",
            secrets={"T_PLAIN": lambda stage: {"hosts": [f"127.0.0.1:{stage.files.port}"]}},
            mended_secrets={"T_PLAIN": _hosts("T_PLAIN", RIGHT)},
        ),
        row(
            "stranger",
            "tls",
            file("stranger", lambda stage: f"https://localhost:{stage.stranger.port}/good.safetensors"),
            file("stranger", lambda stage: f"https://localhost:{stage.stranger.port}/good.safetensors"),
            follow=trust,
        ),
        row("huge", "disk_full", file("huge", huge, level="optional"), good("huge", level="optional")),
        row("local", "not_found", local("none"), local("here.safetensors"), case="file_url"),
        Row("downloads", "taken/x.safetensors", "conflict", in_the_way, good("taken"), case="path_taken"),
        Row("downloads", "m/bad.zip", "unsafe_path", zipped(True), zipped(False), case="unsafe_archive"),
        Row(
            "downloads",
            "m/nameless/",
            "unsafe_path",
            lambda stage: {"path": "m/nameless/", "url": nameless(stage), "level": "required"},
            lambda stage: {
                "path": "m/nameless/named.safetensors",
                "url": nameless(stage),
                "level": "required",
            },
            case="no_file_name",
        ),
    ]


def _programs() -> list[Row]:
    def command(name: str, *run: str, **more: Any) -> Make:
        return lambda stage: {"name": name, "run": list(run), "level": "required", **more}

    def row(name: str, class_: str, broken: Make, mended: Make, **more: Any) -> Row:
        return Row("commands", name, class_, broken, mended, **more)

    def install(stage: Stage) -> None:
        program = stage.programs / "no-such-program"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)

    def service(name: str, *run: str, **more: Any) -> Make:
        return lambda stage: {"name": name, "run": list(run), "level": "required", **more}

    def web(port: int, within: str = "20s") -> Item:
        ready = {"url": f"http://127.0.0.1:{port}/", "within": within}
        return {
            "run": [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
            "ready": ready,
        }

    def somebody_else(stage: Stage) -> Item:
        listening = subprocess.Popen(web(TAKEN)["run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stage.children.append(listening)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", TAKEN), timeout=1).close()
                break
            except OSError:
                listening.poll()
        return {"name": "taken", "level": "required", **web(TAKEN)}

    def end_it(stage: Stage) -> None:
        [kill] = [words for words in stage.hinted("taken") if words.startswith("kill ")]
        assert int(kill.split()[1]) == stage.children[-1].pid
        stage.type(kill)
        stage.children[-1].wait(timeout=10)

    plain = {"files": [{"path": "plain.sh", "content": "true\n"}]}
    return [
        row("fails", "command", command("fails", "false"), command("fails", "true")),
        row(
            "script",
            "command",
            command("script", "./setup.sh"),
            command("script", "./setup.sh"),
            case="no_script",
            also={"files": [{"path": "setup.sh", "content": "#!/bin/sh\n", "mode": "0755"}]},
        ),
        row(
            "program",
            "command",
            command("program", "no-such-program"),
            command("program", "no-such-program"),
            case="no_program",
            next="fix_instance",
            follow=install,
        ),
        row(
            "folder",
            "command",
            command("folder", "true", directory="nowhere"),
            command("folder", "true", directory="."),
            case="no_folder",
        ),
        row(
            "plain",
            "command",
            lambda stage: (
                (stage.workspace / "plain.sh").write_text("true\n") and command("plain", "./plain.sh")(stage)
            ),
            command("plain", "sh", "./plain.sh"),
            case="not_executable",
            also=plain,
        ),
        row(
            "slow",
            "timed_out",
            command("slow", "sleep", "2", timeout="500ms"),
            command("slow", "sleep", "2", timeout="30s"),
        ),
        row(
            "secret",
            "unauthorized",
            command("secret", "true", secrets=["T_COMMAND"]),
            command("secret", "true", secrets=["T_COMMAND"]),
            case="secrets_unset",
            secrets={"T_COMMAND": lambda stage: {}},
            mended_secrets={
                "T_COMMAND": lambda stage: stage.environment.update(T_COMMAND=RIGHT) or {}  # type: ignore[func-returns-value]
            },
        ),
        Row(
            "checks",
            "made by nobody",
            "missing",
            lambda stage: {"name": "made by nobody", "path": "nothing/here.txt", "level": "required"},
            lambda stage: {"name": "made by nobody", "path": "nothing/here.txt", "level": "required"},
            also={"files": [{"path": "nothing/here.txt", "content": "x"}]},
        ),
        Row(
            "checks",
            "module",
            "missing",
            lambda stage: {"name": "module", "imports": ["no_such_module_at_all"], "level": "required"},
            lambda stage: {"name": "module", "imports": ["json"], "level": "required"},
            case="import",
        ),
        Row(
            "services",
            "ends",
            "crashed",
            service("ends", "sh", "-c", "exit 3", ready={"url": f"http://127.0.0.1:{OWN}/", "within": "10s"}),
            lambda stage: {"name": "ends", "level": "required", **web(OWN)},
            case="service_log",
        ),
        Row(
            "services",
            "none",
            "crashed",
            service("none", "no-such-daemon"),
            service("none", "sleep", "60"),
            case="service_command",
        ),
        Row(
            "services",
            "lost",
            "missing",
            service("lost", "sleep", "60", directory="nowhere"),
            service("lost", "sleep", "60"),
            case="service_folder",
        ),
        Row(
            "services",
            "late",
            "not_ready",
            service("late", "sleep", "60", ready={"url": f"http://127.0.0.1:{READY}/", "within": "2s"}),
            lambda stage: {"name": "late", "level": "required", **web(READY)},
            case="service_log",
        ),
        Row(
            "services",
            "taken",
            "port_taken",
            somebody_else,
            lambda stage: {"name": "taken", "level": "required", **web(TAKEN)},
            case="port_of_process",
            follow=end_it,
        ),
    ]


def _repos() -> list[Row]:
    def repo(name: str, **more: Any) -> Make:
        def make(stage: Stage) -> Item:
            stage.origin(name)
            return {
                "path": f"r/{name}",
                "url": stage.repos.smart(name),
                "ref": "main",
                "level": "required",
                **more,
            }

        return make

    def row(name: str, class_: str, broken: Make, mended: Make | None = None, **more: Any) -> Row:
        return Row("repos", f"r/{name}", class_, broken, mended or repo(name), **more)

    def cloned(name: str, change: Callable[[str], None]) -> Make:
        """Somebody has the repository there already, and has changed it; the origin went on."""

        def make(stage: Stage) -> Item:
            origin, path = stage.origin(name), str(stage.workspace / "r" / name)
            git(str(stage.folder), "clone", "--quiet", stage.repos.smart(name), path)
            change(path)
            return repo(name, ref=origin.commit({"a.txt": "two\n"}))(stage)

        return make

    def edit(path: str) -> None:
        Path(path, "a.txt").write_text("mine\n")

    def commit(path: str) -> None:
        Path(path, "b.txt").write_text("mine\n")
        git(path, "add", "--all")
        git(path, "commit", "--quiet", "--message=mine")

    def pinned(name: str) -> Make:
        return lambda stage: repo(name, ref=git(stage.origin(name).path, "rev-parse", "main"))(stage)

    def in_the_way(stage: Stage) -> Item:
        folder = stage.workspace / "r" / "taken"
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("mine\n")
        return repo("taken")(stage)

    def move_away(stage: Stage) -> None:
        [path] = [words for words in stage.hinted("r/taken") if words.startswith("/")]
        shutil.move(path, f"{path}.away")

    def private(stage: Stage) -> Item:
        made = repo("private")(stage)
        stage.repos.statuses["/smart/private"] = 401
        return made

    def is_public(stage: Stage) -> None:
        stage.repos.statuses.clear()

    def type_hint(name: str, number: int) -> Callable[[Stage], None]:
        return lambda stage: stage.type(stage.hinted(f"r/{name}")[number])

    return [
        row(
            "absent",
            "not_found",
            lambda stage: {**repo("absent")(stage), "url": stage.repos.smart("absent-from-here")},
            case="url_or_ref",
        ),
        row("branch", "not_found", repo("branch", ref="no-such-branch"), case="ref"),
        row("private", "unauthorized", private, case="private_repository", follow=is_public),
        row(
            "edited",
            "conflict",
            cloned("edited", edit),
            pinned("edited"),
            case="local_changes",
            next="fix_instance",
            follow=type_hint("edited", 0),
        ),
        row(
            "ahead",
            "conflict",
            cloned("ahead", commit),
            pinned("ahead"),
            case="local_commits",
            next="fix_instance",
            follow=type_hint("ahead", 0),
        ),
        row("taken", "conflict", in_the_way, case="repo_path_taken", next="fix_instance", follow=move_away),
    ]


ROWS = [*_downloads(), *_programs(), *_repos()]
HEAD = {
    "version": 1,
    "name": "failing",
    "limits": {
        **{"run": "120s", "attempts": 2, "patience": "1s", "lookup": "5s"},
        "stall": {"below": "1KiB", "for": "1s"},
    },
}


def profile(stage: Stage, *, is_mended: bool) -> str:
    """The profile with every row broken, or with every row's advice followed."""
    document: dict[str, Any] = {**HEAD, "secrets": {}}
    for row in ROWS:
        document.setdefault(row.step, []).append((row.mended if is_mended else row.broken)(stage))
        rules = row.mended_secrets if is_mended else row.secrets
        document["secrets"].update({name: rule(stage) for name, rule in rules.items()})
        for step, items in (row.also if is_mended else {}).items():
            document.setdefault(step, []).extend(items)
    return json.dumps(document)
