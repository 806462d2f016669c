"""Tell a command or a webhook that a run is usable or finished.

What is owed is written down before the first attempt and outlives the process that owes it. A webhook is tried
until it answers 2xx or says that it never will, and carries a key by which the receiver knows a repetition.
Commands get facts in their environment and the payload on stdin; neither ever gets a secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import shlex
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, Protocol
from urllib.parse import urlsplit

import structlog
from provision_agent.contract.retry import Attempts, Schedule, call_async
from pydantic import TypeAdapter

from ..errors import UsageError
from .local_command import WEBHOOK_SECRET, argv_of, execute, facts_of

Kind = Literal["usable", "finished", "health"]
COMMAND_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 15.0
AT_ONCE = 16
"""Webhooks that are asked at the same time."""
ATTEMPTS = 10
DELIVERY = Schedule(ATTEMPTS, base_s=1.0, cap_s=60.0, least_s=0.5)
RETRIED = frozenset((408, 425, 429))
"""Answers below 500 that mean: later."""
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
        """Read ``https://…`` or a command line.

        Args:
            kind: What it wants to be told.
            text: The option's value.
            environ: Where the secret that signs webhooks is looked up.

        Raises:
            UsageError: it is neither, or a URL without a host.
        """
        if text.startswith(("http://", "https://")):
            _check_url(kind, text)
            return cls(kind, text, environ.get(WEBHOOK_SECRET, "").encode())
        return cls(kind, shlex.join(argv_of(f"--on-{kind}", text)))

    @property
    def is_webhook(self) -> bool:
        return self.target.startswith(("http://", "https://"))


class HookStore(Protocol):
    """Where deliveries are written down; what a method changed is on the disk when it returns."""

    async def owe(self, key: str, body: str) -> bool:
        """Record a delivery before its first attempt; False when its key is known, settled or not."""

    async def settle(self, key: str, *, attempts: int) -> None:
        """The delivery arrived, or was given up."""

    async def owed(self) -> Sequence[tuple[str, str]]:
        """``(key, body)`` of every delivery that is not settled."""


class HookQueue:
    """Tells every hook of a kind, each fact once; what an earlier process left owed is told by `resume`."""

    def __init__(self, hooks: Sequence[Hook], store: HookStore) -> None:
        self._hooks = hooks
        self._store = store
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """By the key of what is being delivered."""
        self._asking = 0
        """So many ask the store what is owed right now."""
        self._settled: set[str] = set()
        """The keys of what was settled meanwhile: the answer may be from before that."""
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def resume(self) -> None:
        """Begin to deliver what is owed."""
        self._asking += 1
        try:
            for key, body in await self._store.owed():
                if key not in self._settled:
                    self._begin(key, body)
        finally:
            self._asking -= 1
            if not self._asking:
                self._settled.clear()

    async def tell(self, kind: Kind, run: str, facts: Mapping[str, object], *, about: str = "") -> None:
        """Owe every hook of *kind* a delivery; on the disk when this returns. The same again does nothing.

        Args:
            kind: ``usable``, ``finished`` or ``health``.
            run: The run's id.
            facts: What is told, as of `payload_of`.
            about: What tells this fact apart from others of one run and kind.
        """
        for key, body in self.to_tell(kind, run, facts, about=about):
            if await self._store.owe(key, body):
                self._begin(key, body)

    def to_tell(
        self, kind: Kind, run: str, facts: Mapping[str, object], *, about: str = ""
    ) -> list[tuple[str, str]]:
        """What `tell` would owe, as ``(key, body)``: for whoever writes it down together with something else."""
        body = payload_of(kind, run, facts)
        numbers = [number for number, hook in enumerate(self._hooks) if hook.kind == kind]
        return [(f"{run}{about}:{kind}:{number}", body) for number in numbers]

    def deliver(self, owed: Sequence[tuple[str, str]]) -> None:
        """Begin to deliver what the caller has written down as owed."""
        for key, body in owed:
            self._begin(key, body)

    async def finish(self) -> None:
        """Wait until everything arrived or was given up."""
        await asyncio.gather(*self._tasks.values())

    async def close(self) -> None:
        """Stop delivering; what is not settled stays owed."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _begin(self, key: str, body: str) -> None:
        if key not in self._tasks:
            self._tasks[key] = task = asyncio.create_task(self._deliver(key, body), name=f"hook {key}")
            task.add_done_callback(lambda task: self._ended(task, key))

    def _ended(self, task: asyncio.Task[None], key: str) -> None:
        del self._tasks[key]
        if task.cancelled():
            return
        if (error := task.exception()) is None:
            if self._asking:
                self._settled.add(key)
        else:
            log.warning("hook_not_settled", key=key, why=str(error))  # whoever resumes it tells it again

    async def _deliver(self, key: str, body: str) -> None:
        _, kind, number = key.rsplit(":", 2)
        attempts = 0
        for at, hook in enumerate(self._hooks):
            if (hook.kind, str(at)) == (kind, number):  # else it was another process's hook, and nobody's now
                _, attempts = await deliver(hook, key, body, turns=self._turns)
        await self._store.settle(key, attempts=attempts)


def payload_of(kind: Kind, run: str, facts: Mapping[str, object]) -> str:
    """What a hook is told, as JSON: ``{hook, run, …}``.

    Args:
        kind: ``usable``, ``finished`` or ``health``.
        run: The run's id.
        facts: What else is told; never a secret.
    """
    return json.dumps({"hook": kind, "run": run, **facts}, ensure_ascii=False)


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """The signature of a webhook's body: ``t=<unix>,v1=<hex>``.

    It is HMAC-SHA256 over ``<unix>.<body>``, so that an old delivery cannot be played again.

    Args:
        secret: What sender and receiver share.
        timestamp: When it is sent, in seconds since 1970.
        body: The bytes that are sent.
    """
    digest = hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


async def deliver(
    hook: Hook,
    key: str,
    body: str,
    *,
    turns: AbstractAsyncContextManager[None] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> tuple[bool, int]:
    """Tell *hook* about *body*. A command runs once: only its author knows whether it may run twice.

    Args:
        key: The idempotency key: the receiver knows a repetition by it.
        turns: Held while a webhook is asked.
        sleep: Waits between two attempts, in seconds.

    Returns:
        ``(arrived, attempts)``.
    """
    attempts = Attempts(DELIVERY if hook.is_webhook else replace(DELIVERY, attempts=1))

    async def attempt() -> None:
        if hook.is_webhook:
            async with turns or nullcontext():
                await _post(hook, key, body.encode())
        else:
            await _run(hook, key, body)

    def say(failed: _Again, retry_in_s: float | None) -> None:
        log.warning("hook_failed", key=key, target=_shown(hook), why=str(failed), retry_in_s=retry_in_s)

    try:
        await call_async(
            attempt, attempts, errors=_Again, may_help=lambda _: True, before_wait=say, sleep=sleep
        )
    except _Never as refused:
        log.warning("hook_refused", key=key, target=_shown(hook), why=str(refused))
        return False, attempts.failures + 1
    except _Again as failed:
        say(failed, None)
        return False, attempts.failures
    log.info("hook_delivered", key=key, attempt=attempts.failures + 1)
    return True, attempts.failures + 1


def _check_url(kind: Kind, text: str) -> None:
    try:
        url = urlsplit(text)
        is_complete = bool(url.hostname) and url.port != 0
    except ValueError as error:
        raise UsageError(f"`--on-{kind}`: {error} in this URL") from None
    if not is_complete:
        raise UsageError(f"`--on-{kind}`: there is no host in this URL")


@dataclass(frozen=True)
class _Payload:
    """What a command is told in its environment, of all that `payload_of` wrote."""

    run: str
    host: str = ""
    instance_id: str | None = None
    labels: dict[str, str] | None = None
    verdict: str | None = None
    event: str | None = None


async def _run(hook: Hook, key: str, body: str) -> None:
    told = TypeAdapter(_Payload).validate_json(body)
    facts = {
        **facts_of(told.run, told.host, told.instance_id, told.labels or {}),
        "PROVISION_HOOK": hook.kind,
        "PROVISION_VERDICT": told.verdict or "",
        "PROVISION_EVENT": told.event or "",
        "PROVISION_KEY": key,
    }
    code = await execute(shlex.split(hook.target), facts, body.encode(), timeout_s=COMMAND_TIMEOUT_S)
    if code != 0:
        raise _Again("it did not end in time" if code is None else f"exit status {code}")


async def _post(hook: Hook, key: str, body: bytes) -> None:
    import httpx  # takes a while, and most commands tell no webhook

    headers = {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": "provision"}
    if hook.secret:
        headers["X-Provision-Signature"] = signature(hook.secret, int(time.time()), body)
    is_https = hook.target.startswith("https:")
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            trust = await asyncio.to_thread(ssl.create_default_context) if is_https else False
            async with (
                httpx.AsyncClient(verify=trust, trust_env=False, timeout=REQUEST_TIMEOUT_S) as client,
                client.stream("POST", hook.target, content=body, headers=headers) as answer,
            ):
                status = answer.status_code
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:  # a TimeoutError is an OSError
        raise _Again(str(error) or type(error).__name__) from None
    if not 200 <= status < 300:
        raise (_Again if status >= 500 or status in RETRIED else _Never)(f"it answered {status}")


def _shown(hook: Hook) -> str:
    """The target without what may be secret in a URL's path or query."""
    return (urlsplit(hook.target).hostname or "") if hook.is_webhook else hook.target
