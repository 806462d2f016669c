"""Keep trying to reach an instance, with jitter, within the bounds that the caller chose.

Two situations, two policies: an instance that was never reached may still be booting; one that was lost is
asked for until the contact timeout has passed. A changed host key ends both at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from provision_agent.contract.retry import full_jitter_s

from ..errors import AuthRefusedError, ContactLostError, HostUnreachableError, ProvisionError
from .address import Instance
from .connection import Connection, connect

BOOT_RETRY_CAP_S = 5.0
RECONNECT_BASE_S = 0.25
RECONNECT_CAP_S = 10.0
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
    started = time.monotonic()
    failures = 0
    while True:
        try:
            return await connect(instance)
        except (HostUnreachableError, AuthRefusedError) as error:
            cause = _cause(error)
            waited_s = time.monotonic() - started
            left_s = instance.boot_grace_s - waited_s
            is_booting = isinstance(error, AuthRefusedError) or cause in STILL_BOOTING
            if not is_booting or left_s <= 0:
                raise _after_waiting(error, waited_s) from None
        failures += 1
        wait_s = min(0.2 + full_jitter_s(failures, base_s=0.5, cap_s=BOOT_RETRY_CAP_S), left_s)
        on_wait(cause, waited_s, wait_s)
        await asyncio.sleep(wait_s)


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
    started = time.monotonic() - lost_for_s
    failures, wait_s, cause = 0, first_wait_s, "lost"
    while True:
        waited_s = time.monotonic() - started
        left_s = instance.contact_timeout_s - waited_s
        if left_s <= 0:
            raise ContactLostError(
                f"{instance} was out of reach for {waited_s:.0f} s ({cause}); the run may go on there",
                hint=f"{way_back}; the provider's page says whether the instance still exists",
            )
        if wait_s > 0:
            on_wait(cause, waited_s, min(wait_s, left_s))
            await asyncio.sleep(min(wait_s, left_s))
        try:
            return await connect(instance)
        except (HostUnreachableError, AuthRefusedError) as error:
            cause = _cause(error)
            failures += 1
            if failures == max_attempts:
                raise ContactLostError(
                    f"{instance} could not be reached again in {failures} attempts: {error}",
                    hint=f"{way_back}; the provider's page says whether the instance still exists",
                ) from None
            is_auth = isinstance(error, AuthRefusedError)
            is_booting = waited_s <= instance.boot_grace_s
            wait_s = (
                (BOOT_RETRY_CAP_S if is_booting else AUTH_RETRY_S)
                if is_auth
                else full_jitter_s(failures, base_s=RECONNECT_BASE_S, cap_s=RECONNECT_CAP_S)
            )


async def refusal(instance: Instance) -> AuthRefusedError | None:
    """Open one more connection to *instance* and drop it: would it let us in again?

    Returns:
        The error if the key is not taken any more; None if it is, or if nobody can say.
    """
    try:
        (await connect(instance)).abort()
    except AuthRefusedError as error:
        return error
    except ProvisionError:
        return None
    return None


def _cause(error: HostUnreachableError | AuthRefusedError) -> str:
    return "publickey-denied" if isinstance(error, AuthRefusedError) else error.cause


def _after_waiting(
    error: HostUnreachableError | AuthRefusedError, waited_s: float
) -> HostUnreachableError | AuthRefusedError:
    waited = f" (tried for {waited_s:.0f} s)" if waited_s >= 1 else ""
    if isinstance(error, AuthRefusedError):
        return AuthRefusedError(f"{error}{waited}", hint=error.hint)
    return HostUnreachableError(f"{error}{waited}", hint=error.hint, cause=error.cause)
