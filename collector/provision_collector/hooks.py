"""Act on a run from this side: tell a command or a webhook that it is usable or finished; ask whether its instance exists.

A webhook is tried until it answers 2xx or says that it never will, and carries a key by which the receiver knows
a repetition. Commands get facts in their environment and the payload on stdin; neither ever gets a secret.
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
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import structlog
from provision_agent.backoff import full_jitter_s
from provision_agent.protocol import VERDICTS

from .errors import UsageError

if TYPE_CHECKING:
    from .run import Run

Kind = Literal["usable", "finished"]
COMMAND_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 15.0
ATTEMPTS = 10
RETRY_CAP_S = 60.0
GONE_CHECK_TIMEOUT_S = 30.0
GONE_CHECK_EVERY_S = 5.0
SECRET_VARIABLE = "PROVISION_WEBHOOK_SECRET"  # noqa: S105 - a name
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
        """Read ``https://…`` or a command line. Raises UsageError when it is neither."""
        if text.startswith(("http://", "https://")):
            if not urlsplit(text).hostname:
                raise UsageError(f"`--on-{kind} {text}`: there is no host in this URL")
            return cls(kind, text, environ.get(SECRET_VARIABLE, "").encode())
        return cls(kind, shlex.join(_argv(f"--on-{kind}", text)))

    @property
    def is_webhook(self) -> bool:
        return self.target.startswith(("http://", "https://"))


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
    attempts = 1 if not hook.is_webhook else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            if hook.is_webhook:
                await asyncio.to_thread(_post, hook, key, body.encode())
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
            log.warning(
                "hook_failed",
                key=key,
                target=_shown(hook),
                why=str(failed),
                retry_in_s=None if is_last else wait_s,
            )
            if not is_last:
                await sleep(wait_s)
    return False, attempts


async def is_gone(command: str, facts: Mapping[str, str]) -> bool:
    """Ask *command* whether an instance does not exist any more: exit status 0 says that it is gone.

    *facts* reach it as ``PROVISION_HOST``, ``PROVISION_INSTANCE_ID``, ``PROVISION_RUN``, ``PROVISION_LABEL_<NAME>``.
    A command that cannot run, or takes too long, says nothing.
    """
    code = await _execute(_argv("--gone-check", command), facts, b"", GONE_CHECK_TIMEOUT_S)
    if code not in (0, 1):
        log.warning("gone_check_failed", exit_status=code, command=command)
    return code == 0


async def leave_when_gone(
    run: Run, command: str, facts: Mapping[str, str], *, is_out_of_contact: Callable[[], bool], every_s: float
) -> None:
    """While there is no contact, ask *command* every *every_s* seconds; end the watching when the instance is gone."""
    while True:
        await asyncio.sleep(every_s)
        if is_out_of_contact() and await is_gone(command, facts):
            await run.leave("instance-gone", VERDICTS["instance-gone"])
            return


def facts_for_command(
    run: str, host: str, instance_id: str | None, labels: Mapping[str, str]
) -> dict[str, str]:
    """The environment variables that tell a command which run it is about."""
    named = {f"PROVISION_LABEL_{_variable(name)}": value for name, value in labels.items()}
    return {"PROVISION_RUN": run, "PROVISION_HOST": host, "PROVISION_INSTANCE_ID": instance_id or "", **named}


def check_command(option: str, command: str) -> str:
    """*command*, if it can be read as one. Raises UsageError otherwise."""
    _argv(option, command)
    return command


def _argv(option: str, command: str) -> list[str]:
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"`{option}`: {error} in `{command}`") from None
    if not argv:
        raise UsageError(f"`{option}` is empty", hint="give a command or a URL")
    return argv


async def _run(hook: Hook, key: str, body: str) -> None:
    data = json.loads(body)
    labels = {str(name): str(value) for name, value in (data.get("labels") or {}).items()}
    facts = facts_for_command(str(data["run"]), str(data.get("host", "")), data.get("instance_id"), labels)
    facts.update(
        PROVISION_HOOK=hook.kind, PROVISION_VERDICT=str(data.get("verdict") or ""), PROVISION_KEY=key
    )
    code = await _execute(shlex.split(hook.target), facts, body.encode(), COMMAND_TIMEOUT_S)
    if code != 0:
        raise _Again("it did not end in time" if code is None else f"exit status {code}")


async def _execute(argv: list[str], facts: Mapping[str, str], stdin: bytes, timeout_s: float) -> int | None:
    """The exit status; None when it did not end in time, 127 when it could not be started."""
    own = {SECRET_VARIABLE, "PROVISION_TOKEN"}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env={**environment, **{name: value.replace("\0", "") for name, value in facts.items()}},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        log.warning("command_not_started", command=argv[0], why=error.strerror)
        return 127
    try:
        async with asyncio.timeout(timeout_s):
            await process.communicate(stdin)
        return process.returncode
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()


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


def _variable(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name).upper()
