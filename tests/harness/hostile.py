"""An instance that belongs to a stranger: an SSH server on loopback that speaks the wire and says what it likes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import asyncssh
from provision_agent.contract import frames
from provision_agent.contract.frames import ANSWER_MAGIC
from provision_collector.instance import Instance

BEAT_S = 0.2


def event_line(seq: int, name: str, /, **fields: Any) -> bytes:
    """One event as an agent writes it."""
    head = {"format": 1, "ts": "2026-01-01T00:00:00.000Z", "run": "r", "seq": seq, "event": name}
    return json.dumps({**head, **fields}).encode() + b"\n"


FINISHED = event_line(1, "run_finished", verdict="complete", duration_s=1.0, sizes={})


class HostileInstance:
    """Answers `start`, `status` and others by `answers` (a request's subcommand to fields that replace the honest ones).

    `events` is what it sends as the run's events; `requests` is what it got, with the secrets in it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        events: bytes = FINISHED,
        answers: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self.events = events
        self.answers = dict(answers or {})
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.asked = asyncio.Event()
        """Set by every request."""
        self.is_agent_alive = True
        self.port = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.key_path = folder / "id_ed25519"
        self._run = "r"

    async def __aenter__(self) -> Self:
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(self.key_path))
        os.chmod(self.key_path, 0o600)
        self._server = await asyncssh.create_server(
            _Anybody,
            "127.0.0.1",
            0,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            process_factory=self._serve,
            encoding=None,
            line_editor=False,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    @property
    def instance(self) -> Instance:
        """How the library reaches it."""
        return Instance(
            "127.0.0.1",
            port=self.port,
            user="root",
            key=str(self.key_path),
            known_hosts=str(self.folder / "known_hosts"),
            boot_grace_s=5.0,
            contact_timeout_s=5.0,
        )

    @property
    def options(self) -> list[str]:
        """How the command line reaches it."""
        known_hosts = str(self.folder / "known_hosts")
        where = f"root@127.0.0.1:{self.port}"
        return ["--host", where, "--key", str(self.key_path), "--known-hosts", known_hosts]

    def run_facts(self, **more: Any) -> dict[str, Any]:
        """What an honest instance says of its run, and *more*."""
        files = {"core": "/w/core.log", "errors": "/w/errors.log", "events": "/w/events.jsonl"}
        facts = {"run": self._run, "workspace": "/w", "started_unix": int(time.time()), "remaining_s": 60.0}
        return {**facts, "files": files, **more}

    def dead_run(self, plan: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """An answer to `status`: a run whose processes are gone, with *plan*."""
        state = {
            "verdict": None,
            "is_alive": False,
            "is_current": True,
            "started": "2026",
            "state": "running",
        }
        return {"runs": [self.run_facts(plan=plan, **{**state, **more})]}

    def first_frames(self) -> bytes:
        """What it says before anything else to who follows."""
        return b""

    def secrets_got(self) -> list[str]:
        """Every value of a secret that reached it."""
        return [value for _, request in self.requests for value in (request.get("secrets") or {}).values()]

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            if (process.command or "").startswith("exec sh -c"):
                await self._answer(process)
            else:
                await self._follow(process)
        except (asyncssh.Error, OSError, asyncio.IncompleteReadError):
            pass  # the other side has left

    async def _answer(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        head = json.loads(await process.stdin.readline())
        hello = {"have": True, "python": "python3", "path": "/w/agent.pyz"}
        process.stdout.write(b"\n\x02provision-agent " + json.dumps(hello).encode() + b"\n")
        request = json.loads(await process.stdin.read() or b"{}")
        subcommand = head["arguments"][0]
        self.requests.append((subcommand, request))
        self.asked.set()
        answer = dict(self.answers.get(subcommand, {}))
        if subcommand == "start":
            self._run = request["run"]
            answer = self.run_facts(state="started", plan_hash="x") | answer
            self._run = str(answer["run"])
        process.stdout.write(ANSWER_MAGIC + json.dumps({"format": 1, **answer}).encode() + b"\n")
        await process.stdout.drain()
        process.exit(0)

    async def _follow(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        request = json.loads(await process.stdin.readline())
        process.stdout.write(frames.magic(request["nonce"]) + self.first_frames())
        for number, file in enumerate(request["files"]):
            resumed = {
                "resumed": True,
                "edited": False,
                "offset": file["offset"],
                "dev": 1,
                "ino": 10 + number,
            }
            process.stdout.write(frames.pack(frames.RESUMED, number, {**resumed, "at": time.time()}))
        offset = request["files"][2]["offset"]
        if rest := self.events[offset:]:
            process.stdout.write(frames.data_head(2, 0, offset, len(rest)) + rest)
        beat = {"sizes": [0, 0, 0], "unread": [0, 0, 0], "late": [0, 0, 0]}
        while True:
            alive = {"run": self._run, "keeper": self.is_agent_alive, "agent": self.is_agent_alive}
            process.stdout.write(frames.pack(frames.BEAT, 0, beat))
            process.stdout.write(frames.pack(frames.STATUS, 0, alive))
            await process.stdout.drain()
            await asyncio.sleep(BEAT_S)


class _Anybody(asyncssh.SSHServer):
    """Lets everybody in."""

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True
