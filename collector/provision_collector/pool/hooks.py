"""Tell a command or a webhook that a run is usable or finished.

What is owed is written down before the first attempt and outlives the process that owes it. A webhook is tried
until it answers 2xx or says that it never will, and carries a key by which the receiver knows a repetition.
Commands get facts in their environment and the payload on stdin; neither ever gets a secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http.client
import json
import os
import shlex
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import structlog
from provision_agent.contract.retry import full_jitter_s

from ..errors import UsageError
from .local_command import WEBHOOK_SECRET, argv_of, execute, facts_of

Kind = Literal["usable", "finished"]
COMMAND_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 15.0
ATTEMPTS = 10
RETRY_CAP_S = 60.0
RETRIED = frozenset((408, 425, 429))
"""Answers below 500 that mean: later."""
_SENDERS = ThreadPoolExecutor(16, thread_name_prefix="webhook")
"""Threads of their own: a receiver that hangs must not keep the disk's readers waiting."""

log = structlog.get_logger()


class _Again(Exception):
    """The delivery did not arrive, and may arrive later."""


class _Never(Exception):
    """The receiver does not want it."""


@dataclass(frozen=True)
class Hook:
    """What is told: a command (an argv, no shell) or a URL."""

    kind: Kind
    target: str
    secret: bytes = b""
    """Signs what is sent to a URL; empty: unsigned."""

    @classmethod
    def parse(cls, kind: Kind, text: str, environ: Mapping[str, str] = os.environ) -> Hook:
        """Read ``https://…`` or a command line. Raises UsageError when it is neither."""
        if text.startswith(("http://", "https://")):
            _check_url(kind, text)
            return cls(kind, text, environ.get(WEBHOOK_SECRET, "").encode())
        return cls(kind, shlex.join(argv_of(f"--on-{kind}", text)))

    @property
    def is_webhook(self) -> bool:
        return self.target.startswith(("http://", "https://"))


class Ledger(Protocol):
    """Where deliveries are written down; what a method changed is on the disk when it returns."""

    async def owe(self, key: str, body: str) -> bool:
        """Record a delivery before its first attempt; False when its key is known, settled or not."""

    async def settle(self, key: str, *, attempts: int) -> None:
        """The delivery arrived, or was given up."""

    async def owed(self) -> Sequence[tuple[str, str]]:
        """``(key, body)`` of every delivery that is not settled."""


class Deliveries:
    """Tells every hook of a kind, each fact once; what an earlier process left owed is told by `resume`."""

    def __init__(self, hooks: Sequence[Hook], ledger: Ledger) -> None:
        self._hooks = hooks
        self._ledger = ledger
        self._tasks: set[asyncio.Task[None]] = set()

    async def resume(self) -> None:
        """Begin to deliver what is owed."""
        for key, body in await self._ledger.owed():
            self._begin(key, body)

    async def tell(self, kind: Kind, run: str, facts: Mapping[str, Any]) -> None:
        """Owe every hook of *kind* a delivery; on the disk when this returns. The same again does nothing."""
        for number, hook in enumerate(self._hooks):
            if hook.kind == kind:
                key, body = f"{run}:{kind}:{number}", payload_of(kind, run, facts)
                if await self._ledger.owe(key, body):
                    self._begin(key, body)

    async def finish(self) -> None:
        """Wait until everything arrived or was given up."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Stop delivering; what is not settled stays owed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, key: str, body: str) -> None:
        task = asyncio.create_task(self._deliver(key, body), name=f"hook {key}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, key: str, body: str) -> None:
        _, kind, number = key.rsplit(":", 2)
        attempts = 0
        for at, hook in enumerate(self._hooks):
            if (hook.kind, str(at)) == (kind, number):  # else it was another process's hook, and nobody's now
                _, attempts = await deliver(hook, key, body)
        await self._ledger.settle(key, attempts=attempts)


def payload_of(kind: Kind, run: str, facts: Mapping[str, Any]) -> str:
    """What a hook is told, as JSON: ``{hook, run, …}``."""
    return json.dumps({"hook": kind, "run": run, **facts}, ensure_ascii=False)


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """``t=<unix>,v1=<hex>``: HMAC-SHA256 over ``<unix>.<body>``, so that an old delivery cannot be played again."""
    digest = hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


async def deliver(
    hook: Hook, key: str, body: str, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> tuple[bool, int]:
    """Tell *hook* about *body*, with *key* as its idempotency key; returns ``(arrived, attempts)``.

    A command runs once: only its author knows whether it may run twice.
    """
    attempts = ATTEMPTS if hook.is_webhook else 1
    for attempt in range(1, attempts + 1):
        try:
            if hook.is_webhook:
                await asyncio.get_running_loop().run_in_executor(_SENDERS, _post, hook, key, body.encode())
            else:
                await _run(hook, key, body)
            log.info("hook_delivered", key=key, attempt=attempt)
            return True, attempt
        except _Never as refused:
            log.warning("hook_refused", key=key, target=_shown(hook), why=str(refused))
            return False, attempt
        except _Again as failed:
            wait_s = 0.5 + full_jitter_s(attempt, base_s=1.0, cap_s=RETRY_CAP_S)
            is_last = attempt == attempts
            retry_in_s = None if is_last else wait_s
            log.warning("hook_failed", key=key, target=_shown(hook), why=str(failed), retry_in_s=retry_in_s)
            if not is_last:
                await sleep(wait_s)
    return False, attempts


def _check_url(kind: Kind, text: str) -> None:
    try:
        url = urlsplit(text)
        is_complete = bool(url.hostname) and url.port != 0
    except ValueError as error:
        raise UsageError(f"`--on-{kind}`: {error} in this URL") from None
    if not is_complete:
        raise UsageError(f"`--on-{kind}`: there is no host in this URL")


async def _run(hook: Hook, key: str, body: str) -> None:
    data = json.loads(body)
    labels = {str(name): str(value) for name, value in (data.get("labels") or {}).items()}
    facts = {
        **facts_of(str(data["run"]), str(data.get("host", "")), data.get("instance_id"), labels),
        "PROVISION_HOOK": hook.kind,
        "PROVISION_VERDICT": str(data.get("verdict") or ""),
        "PROVISION_KEY": key,
    }
    code = await execute(shlex.split(hook.target), facts, body.encode(), timeout_s=COMMAND_TIMEOUT_S)
    if code != 0:
        raise _Again("it did not end in time" if code is None else f"exit status {code}")


def _post(hook: Hook, key: str, body: bytes) -> None:
    url = urlsplit(hook.target)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    headers = {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": "provision"}
    if hook.secret:
        headers["X-Provision-Signature"] = signature(hook.secret, int(time.time()), body)
    connection = kind(url.hostname or "", url.port, timeout=REQUEST_TIMEOUT_S)
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("POST", path, body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise _Again(str(error) or type(error).__name__) from None
    finally:
        connection.close()
    if 200 <= status < 300:
        return
    raise (_Again if status >= 500 or status in RETRIED else _Never)(f"it answered {status}")


def _shown(hook: Hook) -> str:
    """The target without what may be secret in a URL's path or query."""
    return (urlsplit(hook.target).hostname or "") if hook.is_webhook else hook.target
