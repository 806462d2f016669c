"""Is what serves on the instance reached from outside, too? Asked from here, once it is ready; it decides nothing."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from ..instance import Instance, Link
from .dispatch import Dispatch
from .state import LocalRun

TRIES = 3
WAIT_S = 3.0
"""Between two tries: a provider's forwarding may take a moment to notice."""
ANSWER_WITHIN_S = 8.0
SETTLE_WITHIN_S = 15.0
"""How long the end of a run waits for an answer that is on its way."""


class Reach:
    """Asks the public addresses of one run's services, each once."""

    def __init__(self, instance: Instance, local: LocalRun, dispatch: Dispatch, link: Link) -> None:
        self._instance = instance
        self._local = local
        self._dispatch = dispatch
        self._link = link
        self._emit = local.emit
        self._asking: dict[str, asyncio.Task[None]] = {}

    def look(self) -> None:
        """Ask whatever has become ready."""
        known = self._dispatch.known
        if known is None or len(self._asking) == len(known.public):
            return
        services = self._local.state.items["services"]
        for name, address in known.public.items():
            if name not in self._asking and name in services and services[name].state == "ready":
                self._asking[name] = asyncio.create_task(self._ask(name, address), name=f"reach {name}")

    async def settle(self) -> None:
        """Wait for the answers that are on their way."""
        if self._asking:
            await asyncio.wait(self._asking.values(), timeout=SETTLE_WITHIN_S)

    async def close(self) -> None:
        """Ask no more."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _address(self) -> str:
        """The host as this side uses it; of an alias of the ssh configuration what it leads to."""
        try:
            await asyncio.get_running_loop().getaddrinfo(self._instance.host, None)
        except OSError:
            connection = self._link.connection
            return (connection.peer if connection is not None else None) or self._instance.host
        return self._instance.host

    async def _ask(self, name: str, address: str) -> None:
        host = await self._address()
        url = address.replace("{host}", f"[{host}]" if ":" in host else host)
        if self._dispatch.order.asks_own_host_only and urlsplit(url).hostname not in (
            host.lower(),
            self._instance.host.lower(),
        ):
            self._emit(
                "warning",
                message=f"`public` of service `{name}` names another host than the instance: not asked",
            )
            return
        why = ""
        for number in range(TRIES):
            if number:
                await asyncio.sleep(WAIT_S)
            why = await why_not_reached(url)
            if not why:
                break
        self._local.state.items["services"][name].facts["reachable"] = not why
        self._emit(
            "service_reached", item=name, url=url, reachable=not why, **({"reason": why} if why else {})
        )


async def why_not_reached(url: str) -> str:
    """Ask *url* once; empty when whatever is meant to be there answered, else why not."""
    import httpx  # takes a while, and few runs ask

    try:
        async with (
            asyncio.timeout(ANSWER_WITHIN_S),
            # nothing is sent, so it does not matter who answers: many instances have certificates of their own
            httpx.AsyncClient(verify=False, trust_env=False, timeout=ANSWER_WITHIN_S) as client,  # noqa: S501
            client.stream("GET", url, headers={"User-Agent": "provision"}) as answer,
        ):
            status = answer.status_code
    except TimeoutError:
        return f"no answer within {ANSWER_WITHIN_S:.0f} s"
    except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error) or type(error).__name__
    return f"it answered {status}" if status >= 500 else ""
