"""Hooks and the gone check: delivered until they arrive, signed, with one key; commands get facts, never secrets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from provision_collector.errors import UsageError
from provision_collector.pool import hooks
from provision_collector.pool.gone import is_gone
from provision_collector.pool.local_command import facts_of
from provision_collector.pool.store.store import Store


class Receiver(HTTPServer):
    """A webhook's other end; answers what `answers` says, 204 at last."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook?x=1"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def at_once(_: float) -> None:
    """A wait that a test does not wait for."""


async def test_a_webhook_is_repeated_with_one_key_until_it_arrives(receiver: Receiver) -> None:
    receiver.answers = [503, 429, 500]
    hook = hooks.Hook.parse("finished", receiver.url, {"PROVISION_WEBHOOK_SECRET": "s3cret"})

    assert await hooks.deliver(hook, "run:finished:0", '{"run":"run"}', sleep=at_once) == (True, 4)

    assert [headers["idempotency-key"] for headers, _ in receiver.got] == ["run:finished:0"] * 4
    headers, body = receiver.got[-1]
    stamp, _, digest = headers["x-provision-signature"].partition(",v1=")
    expected = hmac.new(b"s3cret", stamp[2:].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert (stamp[:2], digest, body) == ("t=", expected, b'{"run":"run"}')


async def test_a_webhook_that_is_refused_is_not_repeated(receiver: Receiver) -> None:
    receiver.answers = [400]
    hook = hooks.Hook.parse("usable", receiver.url, {})

    assert await hooks.deliver(hook, "k", "{}", sleep=at_once) == (False, 1)
    assert "x-provision-signature" not in receiver.got[0][0]


async def test_a_webhook_that_is_never_there_is_given_up_after_ten_attempts(receiver: Receiver) -> None:
    receiver.answers = [500] * 20

    hook = hooks.Hook.parse("usable", receiver.url, {})
    assert await hooks.deliver(hook, "k", "{}", sleep=at_once) == (False, hooks.ATTEMPTS)


async def test_a_receiver_that_hangs_keeps_nobody_else_waiting() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=32) as silent:
        hook = hooks.Hook.parse("finished", f"http://127.0.0.1:{silent.getsockname()[1]}/", {})
        deliveries = [asyncio.create_task(hooks.deliver(hook, str(number), "{}")) for number in range(12)]
        async with asyncio.timeout(10):
            await asyncio.gather(*(asyncio.to_thread(int) for _ in range(20)))
        for delivery in deliveries:
            delivery.cancel()
        await asyncio.gather(*deliveries, return_exceptions=True)


async def test_a_command_gets_facts_and_the_payload_and_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVISION_TOKEN", "the-servers-own")
    script = tmp_path / "it's a hook.sh"
    script.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\ncat > {tmp_path}/stdin\n")
    script.chmod(0o755)
    payload = hooks.payload_of(
        "finished", "r1", {"host": "h:1", "verdict": "failed", "labels": {"pool-a": "x; rm -rf /"}}
    )
    hook = hooks.Hook.parse("finished", f'"{script}" finished')

    assert await hooks.deliver(hook, "r1:finished:0", payload) == (True, 1)

    environment = (tmp_path / "env").read_text()
    assert json.loads((tmp_path / "stdin").read_text())["verdict"] == "failed"
    for line in (
        "PROVISION_RUN=r1",
        "PROVISION_VERDICT=failed",
        "PROVISION_HOST=h:1",
        "PROVISION_LABEL_POOL_A=x; rm -rf /",
    ):
        assert line in environment
    assert "the-servers-own" not in environment


class AnswersLate:
    """A store of hooks whose first answer to what is owed is held back until `may_answer`."""

    def __init__(self, store: Store) -> None:
        self.owe, self.settle = store.owe, store.settle
        self._store = store
        self.has_read, self.may_answer = asyncio.Event(), asyncio.Event()

    async def owed(self) -> list[tuple[str, str]]:
        found = await self._store.owed()
        if not self.has_read.is_set():
            self.has_read.set()
            await self.may_answer.wait()
        return found


async def test_what_was_told_while_somebody_asked_what_is_owed_is_not_told_again(
    receiver: Receiver, tmp_path: Path
) -> None:
    store = await Store.open(tmp_path)
    try:
        late = AnswersLate(store)
        queue = hooks.HookQueue([hooks.Hook.parse("usable", receiver.url)], late)
        assert await store.owe("r:usable:0", hooks.payload_of("usable", "r", {}))
        first = asyncio.create_task(queue.resume())
        await late.has_read.wait()
        await queue.resume()
        await queue.finish()
        assert await store.owed() == []
        late.may_answer.set()
        await first
        await queue.finish()
        assert len(receiver.got) == 1
    finally:
        await store.close()


async def test_a_command_runs_once_whatever_its_exit_status() -> None:
    assert await hooks.deliver(hooks.Hook.parse("usable", "false"), "k", '{"run": "r"}') == (False, 1)
    assert await hooks.deliver(hooks.Hook.parse("usable", "/nowhere"), "k", '{"run": "r"}') == (False, 1)


async def test_only_exit_status_0_says_that_an_instance_is_gone(tmp_path: Path) -> None:
    facts = facts_of("r", "h", "i-7", {})
    check = tmp_path / "check"
    check.write_text('#!/bin/sh\ntest "$PROVISION_INSTANCE_ID" = i-7\n')
    check.chmod(0o755)

    assert await is_gone([str(check)], facts)
    assert not await is_gone([str(check)], {**facts, "PROVISION_INSTANCE_ID": "other"})
    assert not await is_gone(["/nowhere/at/all"], facts)


@pytest.mark.parametrize("text", ["", "'unclosed", "https://", "http://h:x/", "http://[::1"])
def test_what_is_neither_command_nor_url_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        hooks.Hook.parse("usable", text)
