"""Keep trying to reach an instance, with jitter, within the bounds that the caller chose.

Two situations, two policies: an instance that was never reached may still be booting; one that was lost is
asked for until the contact timeout has passed. A changed host key ends both at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from provision_agent.contract.retry import Attempts, Schedule, call_async

from ..errors import AuthRefusedError, ContactLostError, HostUnreachableError, ProvisionError
from .address import Instance
from .connection import Connection, connect

BOOT_RETRY_CAP_S = 5.0
RECONNECT = Schedule(None, base_s=0.25, cap_s=10.0)
AUTH_RETRY_S = 60.0
"""A key that is refused long after it worked is asked for rarely: some servers ban who asks often."""
STILL_BOOTING = ("refused", "timed-out", "reset", "no-route")

OnWait = Callable[[str, float, float], None]
"""Called before each wait with the cause, the seconds waited so far, and the seconds until the next try."""


async def first_contact(instance: Instance, *, on_wait: OnWait) -> Connection:
    """The first connection; within `boot_grace_s` an instance may still be booting.

    Raises:
        HostUnreachableError, AuthRefusedError: the grace is over. HostKeyError, UsageError: at once.
    """
    began = time.monotonic()
    schedule = Schedule(None, base_s=0.5, cap_s=BOOT_RETRY_CAP_S, least_s=0.2, within_s=instance.boot_grace_s)
    try:
        return await call_async(
            lambda: connect(instance),
            Attempts(schedule),
            errors=ProvisionError,
            may_help=_may_be_booting,
            before_wait=lambda error, wait_s: on_wait(_cause(error), time.monotonic() - began, wait_s),
        )
    except (HostUnreachableError, AuthRefusedError) as error:
        raise _after_waiting(error, time.monotonic() - began) from None


async def regain(
    instance: Instance,
    *,
    lost_for_s: float,
    first_wait_s: float,
    on_wait: OnWait,
    max_attempts: int = 0,
    way_back: str = "`provision attach` follows it again",
) -> Connection:
    """Connect again after a loss, the first time after *first_wait_s*.

    Raises:
        ContactLostError: `contact_timeout_s` has passed, or *max_attempts* (if not 0) failed; *way_back* says
            what to type then. HostKeyError: at once.
    """
    lost_at = time.monotonic() - lost_for_s
    left_s = instance.contact_timeout_s - lost_for_s
    if left_s <= 0:
        raise _out_of_reach(instance, lost_for_s, "lost", way_back)

    def patience_s(error: Exception) -> float | None:
        is_booting = time.monotonic() - lost_at <= instance.boot_grace_s
        is_refused = isinstance(error, AuthRefusedError)
        return (BOOT_RETRY_CAP_S if is_booting else AUTH_RETRY_S) if is_refused else None

    schedule = replace(RECONNECT, attempts=max_attempts or None, within_s=left_s)
    attempts = Attempts(schedule, asked_s=patience_s)
    if first_wait_s > 0:
        on_wait("lost", lost_for_s, min(first_wait_s, left_s))
        await asyncio.sleep(min(first_wait_s, left_s))

    try:
        return await call_async(
            lambda: connect(instance),
            attempts,
            errors=ProvisionError,
            may_help=lambda error: isinstance(error, HostUnreachableError | AuthRefusedError),
            before_wait=lambda error, wait_s: on_wait(_cause(error), time.monotonic() - lost_at, wait_s),
        )
    except (HostUnreachableError, AuthRefusedError) as error:
        if attempts.failures != max_attempts:
            raise _out_of_reach(instance, time.monotonic() - lost_at, _cause(error), way_back) from None
        raise ContactLostError(
            f"{instance} could not be reached again in {max_attempts} attempts: {error}",
            hint=f"{way_back}; the provider's page says whether the instance still exists",
        ) from None


async def refusal(instance: Instance) -> AuthRefusedError | None:
    """Open one more connection to *instance* and drop it: would it let us in again?

    Returns:
        The error if the key is not taken any more; None if it is.

    Raises:
        ProvisionError: the network, or the instance, is not there, so nobody can say.
    """
    try:
        (await connect(instance)).abort()
    except AuthRefusedError as error:
        return error
    return None


def _may_be_booting(error: ProvisionError) -> bool:
    return isinstance(error, AuthRefusedError) or (
        isinstance(error, HostUnreachableError) and error.cause in STILL_BOOTING
    )


def _cause(error: ProvisionError) -> str:
    return "publickey-denied" if isinstance(error, AuthRefusedError) else error.cause


def _out_of_reach(instance: Instance, for_s: float, cause: str, way_back: str) -> ContactLostError:
    return ContactLostError(
        f"{instance} was out of reach for {for_s:.0f} s ({cause}); the run may go on there",
        hint=f"{way_back}; the provider's page says whether the instance still exists",
    )


def _after_waiting(
    error: HostUnreachableError | AuthRefusedError, waited_s: float
) -> HostUnreachableError | AuthRefusedError:
    waited = f" (tried for {waited_s:.0f} s)" if waited_s >= 1 else ""
    if isinstance(error, AuthRefusedError):
        return AuthRefusedError(f"{error}{waited}", hint=error.hint)
    return HostUnreachableError(f"{error}{waited}", hint=error.hint, cause=error.cause)
